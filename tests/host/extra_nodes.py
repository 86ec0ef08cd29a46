"""Nodes that only tests have: random conditionings and images, and one that keeps what it is given."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.reduced import noise

CAPTURED: dict[str, Any] = {}


class RandomConditioning:
    """A text embedding of random numbers, with a pooled one where a width is given."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "max": 2**31})
        return {"required": {"seed": number, "width": number, "pooled": number}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    @classmethod
    def IS_CHANGED(cls, **_: object) -> float:
        """Make sure that what hangs on it runs again."""
        return float("nan")

    def make(self, seed: int, width: int, pooled: int) -> tuple[Any, ...]:
        options = {"pooled_output": noise(1, pooled, seed=seed + 1)} if pooled else {}
        return ([[noise(1, 77, width, seed=seed), options]],)


class RandomImages:
    """Images of random patches."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "max": 2**31})
        return {"required": {"seed": number, "width": number, "height": number, "count": number}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"

    def make(self, seed: int, width: int, height: int, count: int) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(seed)
        patches = torch.rand((count, 3, 9, 7), generator=generator)
        images = torch.nn.functional.interpolate(patches, size=(height, width), mode="bicubic").clamp(0, 1)
        return (images.movedim(1, -1),)


class Anything(str):
    """A socket type that fits all."""

    def __ne__(self, other: object) -> bool:
        return False


class Capture:
    """Keeps what it is given under a name."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {}), "value": (Anything("*"), {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"

    @classmethod
    def IS_CHANGED(cls, **_: object) -> float:
        """Make sure that it runs again."""
        return float("nan")

    def keep(self, name: str, value: object) -> dict[str, Any]:
        CAPTURED[name] = value
        return {}


TEST_NODES = {"RandomConditioning": RandomConditioning, "RandomImages": RandomImages, "Capture": Capture}
