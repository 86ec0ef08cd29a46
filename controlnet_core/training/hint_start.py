"""Before training, the hint encoder learns to show the trainable copy the hint as the base would see a picture.

The trainable copy reads pictures well from the first step, but sees nothing of the hint until the hint encoder's zero
convolution has grown. So the hint encoder is fitted first: its target is the output of the copy's first convolution for
the latents of the hint. To let the copied encoder read the hint's latents is CtrLoRA's idea (Xu et al. 2024), which has
no hint encoder; here the net keeps the shape of every other ControlNet, so any loader reads it. The zero convolutions
after the copy are untouched: when training begins, the net still changes no bit of the output.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ..base import EncodesImages
from ..data.dataset import PairDataset, Progress
from ..errors import HintError
from ..keyed import keyed_generator
from ..model.controlnet import ControlNet

HINTS = 64
"""This many hints are enough: unseen ones are then shown equally well."""
STEPS, WARM_UP, LEARNING_RATE = 80, 10, 3e-3
PIXELS_AT_ONCE = 8 * 512 * 512
MOST_AT_ONCE = 8


def show_hints_as_latents(
    net: ControlNet, base: EncodesImages, dataset: PairDataset, seed: int, progress: Progress | None = None
) -> float:
    """Fit the hint encoder to the output of the copy's first convolution for the latents of hints.

    Arguments:
        net: A net with three hint channels, before its first step; its hint encoder is trained in place.
        base: Its autoencoder encodes the hints.
        dataset: Where the hints come from.
        seed: Seeds the choice of hints.
        progress: Told how many hints are encoded and how many steps of the fit are done, both counted together.

    Returns:
        The share of the features' variance that the fitted hint encoder misses.

    Raises:
        HintError: If the hints have other than three channels, so that the autoencoder cannot encode them.
    """
    if net.hint_channels != 3:
        raise HintError(
            found=f"hints of {net.hint_channels} channels, to be shown as latents",
            expected="3 channels, which the autoencoder encodes",
            do='give the hints 3 channels, or set hint_start to "zero"',
        )
    order = torch.randperm(len(dataset), generator=keyed_generator("hint start", seed)).tolist()
    chosen = order[:HINTS]

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(chosen) + STEPS)

    pixels = dataset.hints(chosen[:1])[0, 0].numel()
    batch_size = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels))
    features = []
    for row in chosen:
        features.append(_features(net, base, dataset.hints([row])))
        tell(len(features))
    targets = torch.cat(features)
    variance = targets.var()
    optimizer = torch.optim.AdamW(net.hint_encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    missed = torch.ones(())
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, 2 * (STEPS - step) / STEPS)
        rows = torch.randint(len(chosen), (batch_size,), generator=keyed_generator("hint start", seed, step)).tolist()
        hints = dataset.hints([chosen[row] for row in rows]).to(targets, memory_format=torch.channels_last)
        missed = functional.mse_loss(net.embed_hint(hints), targets[rows]) / variance
        optimizer.zero_grad()
        missed.backward()
        optimizer.step()
        tell(len(chosen) + step + 1)
    optimizer.zero_grad()
    return missed.item()


@torch.no_grad()
def _features(net: ControlNet, base: EncodesImages, hints: torch.Tensor) -> torch.Tensor:
    """The output of the copy's first convolution for the latents of hints, without its bias: (B, C, h, w)."""
    convolution = net.encoder.input_convolution
    latents = base.encode_images(hints).mean.to(net.dtype)
    features: torch.Tensor = convolution(latents) - convolution(torch.zeros_like(latents))
    return features
