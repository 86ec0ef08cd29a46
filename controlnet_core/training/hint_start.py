"""Before training: the hint encoder learns to show the trainable copy its hint as the base would see it as a picture.

The trainable copy is a good reader of pictures from the first step on, but of hints it sees nothing until the hint's
zero convolution has grown. So the hint encoder is fitted first: it is to give what the first convolution of the copy
gives for the latents of the hint. The idea to let the copied encoder read the hint's latents is CtrLoRA's (Xu et al.
2024), which has no hint encoder for it; here the net keeps the shape of every other ControlNet, and any loader reads
it. The zero convolutions after the copy are untouched: the net still changes no bit of the output when training begins.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ..base import EncodesImages
from ..data.dataset import PairDataset
from ..keyed import keyed_generator
from ..model.controlnet import ControlNet

HINTS = 64
"""So many hints are enough: those that it has not seen are shown as well."""
STEPS, WARM_UP, LEARNING_RATE = 80, 10, 3e-3
PIXELS_AT_ONCE = 8 * 512 * 512
MOST_AT_ONCE = 8


def show_hints_as_latents(net: ControlNet, base: EncodesImages, dataset: PairDataset, seed: int) -> float:
    """Fit the hint encoder to what the copy's first convolution gives for the latents of hints.

    Arguments:
        net: A net with three hint channels, before its first step; its hint encoder is trained in place.
        base: Its autoencoder encodes the hints.
        dataset: Where the hints come from.
        seed: Draws which hints are taken.

    Returns:
        The share of the features' variance that the hint encoder misses in the end.
    """
    order = torch.randperm(len(dataset), generator=keyed_generator("hint start", seed)).tolist()
    chosen = order[:HINTS]
    pixels = dataset.hints(chosen[:1])[0, 0].numel()
    at_once = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels))
    with torch.no_grad():
        wanted = torch.cat([_features(net, base, dataset.hints([row])) for row in chosen])
    variance = wanted.var()
    optimizer = torch.optim.AdamW(net.hint_encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    missed = torch.ones(())
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, 2 * (STEPS - step) / STEPS)
        rows = torch.randint(len(chosen), (at_once,), generator=keyed_generator("hint start", seed, step)).tolist()
        hints = dataset.hints([chosen[row] for row in rows]).to(wanted.device, memory_format=torch.channels_last)
        missed = functional.mse_loss(net.embed_hint(hints), wanted[rows]) / variance
        optimizer.zero_grad()
        missed.backward()
        optimizer.step()
    optimizer.zero_grad()
    return missed.item()


def _features(net: ControlNet, base: EncodesImages, hints: torch.Tensor) -> torch.Tensor:
    """What the copy's first convolution gives for the latents of hints, without its bias: (B, C, h, w)."""
    convolution = net.encoder.input_convolution
    latents = base.encode_images(hints).mean.float()
    features: torch.Tensor = convolution(latents) - convolution(torch.zeros_like(latents))
    return features
