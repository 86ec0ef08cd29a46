"""The hint encoder: a small net that brings a hint image from pixels to the size of the latents."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import LayerFactory, zero_, zero_convolution
from .recompute import Recomputable

HintEncoderKind = Literal["reference", "paper"]

SILU_GAIN = 1.676
"""The gain that keeps the mean square of Gaussian numbers through a SiLU."""


class ReferenceHintEncoder(Recomputable):
    """The hint encoder of the released nets: eight 3x3 convolutions with SiLU, three of them of stride 2.

    The last one starts at zero, so it is the zero convolution of the hint. Every public file has this one.
    """

    widths = (16, 16, 32, 32, 96, 96, 256)
    strides = (1, 1, 2, 1, 2, 1, 2)

    def __init__(self, hint_channels: int, model_channels: int, layers: LayerFactory) -> None:
        super().__init__()
        inputs = (hint_channels, *self.widths)
        self.convolutions = nn.ModuleList(
            layers.convolution(before, after, stride=stride)
            for before, after, stride in zip(inputs, self.widths, self.strides, strict=False)
        )
        self.zero_convolution = layers.convolution(self.widths[-1], model_channels)

    def forward(self, hint: Tensor) -> Tensor:
        """Map pixels (B, hint_channels, 8h, 8w) to (B, model_channels, h, w)."""
        for convolution in self.convolutions:
            hint = functional.silu(convolution(hint))
        output: Tensor = self.zero_convolution(hint)
        return output

    def initialise(self, generator: torch.Generator) -> None:
        """Draw Gaussian weights that keep the variance through a SiLU; the zero convolution starts at zero.

        With torch's default weights each layer makes the hint fainter, and after the seventh the features of different
        outlines differ by a hundredth of what they do here: nets of the small base then take about three times as many
        steps to begin to follow.
        """
        for convolution in self.convolutions:
            weight, bias = convolution.parameters()
            nn.init.normal_(weight, std=SILU_GAIN / math.sqrt(weight[0].numel()), generator=generator)
            nn.init.zeros_(bias)
        zero_(self.zero_convolution)


class PaperHintEncoder(Recomputable):
    """The hint encoder as the paper describes it: four 4x4 convolutions with ReLU and Gaussian weights.

    Section 3.3 of Zhang et al. 2023 gives 16, 32, 64 and 128 channels and stride 2, and says that 512 pixels become 64.
    Four strides of 2 would make that 32, so the last layer has stride 1 here; a 4x4 kernel keeps the size only
    with uneven padding: one row and column before the picture, two after it. A zero convolution brings it to the
    model's channels. Stock loaders do not know this encoder.
    """

    widths = (16, 32, 64, 128)
    strides = (2, 2, 2, 1)

    def __init__(self, hint_channels: int, model_channels: int, layers: LayerFactory) -> None:
        super().__init__()
        inputs = (hint_channels, *self.widths)
        self.convolutions = nn.ModuleList(
            layers.convolution(before, after, size=4, stride=stride, padding=1 if stride == 2 else 0)
            for before, after, stride in zip(inputs, self.widths, self.strides, strict=False)
        )
        self.zero_convolution = zero_convolution(layers, self.widths[-1], model_channels)

    def forward(self, hint: Tensor) -> Tensor:
        """Map pixels (B, hint_channels, 8h, 8w) to (B, model_channels, h, w)."""
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            if stride == 1:
                hint = functional.pad(hint, (1, 2, 1, 2))
            hint = functional.relu(convolution(hint))
        output: Tensor = self.zero_convolution(hint)
        return output

    def initialise(self, generator: torch.Generator) -> None:
        """Draw Gaussian weights that keep the variance through a ReLU; the zero convolution starts at zero."""
        for convolution in self.convolutions:
            weight, bias = convolution.parameters()
            nn.init.normal_(weight, std=math.sqrt(2 / weight[0].numel()), generator=generator)
            nn.init.zeros_(bias)
        zero_(self.zero_convolution)


HINT_ENCODERS: dict[HintEncoderKind, type[ReferenceHintEncoder] | type[PaperHintEncoder]] = {
    "reference": ReferenceHintEncoder,
    "paper": PaperHintEncoder,
}
