"""A small base of random weights in a file, with a tokenizer that knows single letters only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from controlnet_core.config import CLIP_TINY
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.tokenizer import END, START, WORD_END
from controlnet_core.weights.save import save_base
from tests.support.bases import SMALL
from tests.support.reduced import randomised

TEXT = replace(CLIP_TINY, vocabulary=514, context_length=77, width=64, layers=1, num_heads=1)
FAMILY = replace(SMALL, unet=replace(SMALL.unet, context_dim=TEXT.width), text_encoders=(TEXT,))


def write_small_base(folder: Path) -> Path:
    """Write the base, and its tokenizer beside it; the path of the base."""
    path = folder / "base.safetensors"
    save_base(
        path,
        FAMILY,
        unet=randomised(UNet(FAMILY.unet)).state_dict(),
        autoencoder=randomised(Autoencoder(FAMILY.autoencoder)).state_dict(),
        text_encoders=[randomised(TextEncoder(TEXT)).state_dict()],
    )
    write_tokenizer(folder)
    return path


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer that knows single letters into a base's folder."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + WORD_END for letter in letters), START, END]
    (folder / "tokenizer").mkdir()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
