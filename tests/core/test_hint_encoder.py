"""The hint encoders: what the paper leaves open, what is computed, and how they start."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from controlnet_core.model.hint import PaperHintEncoder, ReferenceHintEncoder
from controlnet_core.model.layers import LayerFactory
from tests.support.reduced import noise, randomised


@pytest.mark.filterwarnings("ignore:Using padding=")  # torch warns of even kernels
@torch.no_grad()
def test_the_paper_encoder_is_four_convolutions_with_uneven_padding_in_the_last() -> None:
    encoder, hint = randomised(PaperHintEncoder(3, 64, LayerFactory())), noise(2, 3, 48, 80, seed=1)
    x = hint
    for number, convolution in enumerate(encoder.convolutions):
        weight, bias = convolution.parameters()
        assert weight.shape[2:] == (4, 4)
        stride, padding = (1, "same") if number == 3 else (2, 1)
        x = functional.relu(functional.conv2d(x, weight, bias, stride, padding))
    expected = encoder.zero_convolution(x)
    assert expected.shape == (2, 64, 6, 10)
    worst = (encoder(hint) - expected).abs().max().item()
    assert worst <= 1e-6 * expected.abs().max().item(), f"largest difference {worst}"


@torch.no_grad()
def test_a_fresh_reference_encoder_keeps_the_strength_of_the_hint() -> None:
    encoder, features = ReferenceHintEncoder(3, 64, LayerFactory()), noise(4, 3, 64, 64, seed=2)
    encoder.initialise(torch.Generator().manual_seed(0))
    for convolution in encoder.convolutions:
        features = functional.silu(convolution(features))
    strength = features.square().mean().sqrt().item()
    differences = features.std(dim=(0, 2, 3)).mean().item()
    assert 0.5 <= strength <= 2 and differences >= 0.5, f"root mean square {strength}, deviation {differences}"
