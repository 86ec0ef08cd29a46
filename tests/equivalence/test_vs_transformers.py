"""The text encoder computes what that of transformers computes, as the pipelines of each family use it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from controlnet_core.model.text_encoder import TextEncoder
from tests.support.reduced import REDUCED, difference, randomised
from tests.support.references import reference_text_encoder

BOUND = 1e-4
CASES = {
    "SD1.5": REDUCED["SD1.5"].text_encoders[0],
    "SD2.1": REDUCED["SD2.1"].text_encoders[0],
    "SDXL, first": REDUCED["SDXL"].text_encoders[0],
    "SDXL, second": REDUCED["SDXL"].text_encoders[1],
}
PROMPT_LENGTHS = (77, 12)


def prompts(vocabulary: int) -> tuple[Tensor, Tensor]:
    """A prompt that fills the window and one that is padded with the end token, and where each first ends."""
    end = vocabulary - 1
    tokens = torch.randint(0, end, (2, 77), generator=torch.Generator().manual_seed(3))
    ends = torch.tensor(PROMPT_LENGTHS) - 1
    for row, position in zip(tokens, ends.tolist(), strict=True):
        row[position:] = end
    return tokens, ends


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_context_and_pooled(name: str) -> None:
    config = CASES[name]
    encoder = randomised(TextEncoder(config), seed=4)
    tokens, ends = prompts(config.vocabulary)
    ours = encoder(tokens, ends)
    theirs = reference_text_encoder(encoder)(tokens, output_hidden_states=True)
    # Pipelines take the last state, normalised (SD1.5, SD2.1), or the last but one as it is (SDXL).
    context = theirs.last_hidden_state if config.normalise_context else theirs.hidden_states[-2]
    found = {"context": difference(ours.context, context)}
    if config.projection_dim:
        found["pooled"] = difference(ours.pooled, theirs.text_embeds)
    print(f"{name}: {found}")
    assert max(found.values()) <= BOUND, f"max differences {found}"
