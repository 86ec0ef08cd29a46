"""Following where no detector exists: laws of the comparison of a picture's own hint with another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controlnet_core.control.stack import Control
from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.held_out import Subset
from controlnet_core.data.shuffled import ShuffledHints
from controlnet_core.evaluation.hint_preference import HintPreferenceValidation
from controlnet_core.evaluation.validation import pictures_per_batch
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.open_data import hold_out
from controlnet_core.training.settings import EvaluationSettings
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import TINY_FOLDER, load_base
from tests.support.bases import small_base
from tests.support.reduced import randomised

SAMPLING = SamplingSettings(steps=2, guidance=3.0, size=(32, 32))


def validation(dataset: PairDataset) -> HintPreferenceValidation:
    return HintPreferenceValidation(small_base(), Subset(dataset, range(len(dataset))), SAMPLING)


def random_net() -> ControlNet:
    return randomised(ControlNet(small_base().unet.config), seed=3)


def test_a_net_that_ignores_its_hints_scores_a_half() -> None:
    untrained = ControlNet.from_unet(small_base().unet)
    found = validation(ShapesDataset(3, 32, seed=0)).evaluate(untrained)
    assert (found.following, found.measures["loss_saved"]) == (0.5, 0.0)


def test_with_exchanged_hints_the_other_half_is_won() -> None:
    pairs = ShapesDataset(2, 32, seed=0)
    true = validation(pairs).evaluate(random_net())
    swapped = validation(ShuffledHints(pairs, seed=0)).evaluate(random_net())
    print(f"following {true.following} and {swapped.following}")
    assert true.following + swapped.following == 1
    saved = (1 - true.measures["loss_saved"]) * (1 - swapped.measures["loss_saved"])
    assert abs(saved - 1) <= 1e-6, saved


def test_the_samples_are_drawn_from_the_own_hints() -> None:
    dataset = ShapesDataset(3, 32, seed=0)
    found, net = validation(dataset).evaluate(random_net()), random_net()
    hints, captions = dataset.hints(range(3)), dataset.captions(range(3))
    expected = generate(small_base(), captions, [Control(net, hints, side="both")], settings=SAMPLING)
    assert torch.equal(found.pictures, expected)


def test_progress_is_called_and_may_stop_the_evaluation() -> None:
    calls: list[tuple[int, int]] = []
    whole = validation(ShapesDataset(3, 32, seed=0))
    whole.evaluate(random_net(), lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="0 of 3"):
        whole.evaluate(random_net(), stop)


@pytest.mark.parametrize(("height", "width", "count"), [(64, 64, 32), (32, 64, 64), (512, 512, 1), (1024, 1024, 1)])
def test_batches_hold_few_large_pictures(height: int, width: int, count: int) -> None:
    assert pictures_per_batch(height, width) == count


def test_a_trained_net_prefers_true_hints_to_wrong_ones() -> None:
    base, pairs = load_base("tiny"), ShapesDataset(8, 64, seed=5, held_out=True)
    net = load_controlnet(TINY_FOLDER / "nets" / "tiny_outline.safetensors", dtype=torch.float32)
    sampling = SamplingSettings(steps=1, guidance=1.0, size=(64, 64))
    found, swapped = (
        HintPreferenceValidation(base, Subset(dataset, range(8)), sampling).evaluate(net)
        for dataset in (pairs, ShuffledHints(pairs, 0))
    )
    saved = found.measures["loss_saved"]
    print(f"following {found.following:.3f}, saved {saved:.3f}; wrong hints {swapped.following:.3f}")
    assert found.following >= 0.95 and saved >= 0.5
    assert abs(swapped.following - 0.5) <= 0.25


def test_what_is_measured_is_held_out(tmp_path: Path) -> None:
    base = small_base()
    pairs = ShapesDataset(50, 32, seed=0)
    training, found = hold_out(pairs, EvaluationSettings(hints=3, sampling_steps=2), base)
    assert isinstance(found, HintPreferenceValidation) and isinstance(training, Subset)
    assert not set(training.indices) & set(found.pairs.indices)
    assert (len(training), len(found.pairs), found.sampling.size) == (45, 3, (32, 32))
    fewer, shown = hold_out(pairs, EvaluationSettings(hints=1), base)
    assert fewer.fingerprint == training.fingerprint, "the setting moves no pair"
    assert isinstance(shown, HintPreferenceValidation)
    assert len(shown.pairs) == 2, "a hint needs another to be compared with"
    assert hold_out(ShapesDataset(19, 32, seed=0), EvaluationSettings(), base)[1] is None
