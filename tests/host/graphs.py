"""Graphs in ComfyUI's API format, put together from Python."""

from __future__ import annotations

from typing import Any

from tests.host.host import Graph
from tests.host.models import FAMILIES

Link = list[Any]
POOLED = {"sd15": 0, "sd21": 0, "sdxl": 1280}


class Builder:
    """A graph that grows.

    Attributes:
        graph: What there is of it.
    """

    def __init__(self) -> None:
        self.graph: Graph = {}

    def add(self, class_type: str, **inputs: object) -> str:
        """Add a node; its id."""
        node_id = str(len(self.graph) + 1)
        self.graph[node_id] = {"class_type": class_type, "inputs": inputs}
        return node_id

    def capture(self, name: str, value: Link) -> None:
        """Keep what goes through a socket."""
        self.add("Capture", name=name, value=value)


class Drawing(Builder):
    """A graph that draws with a reduced family; native nodes or ours apply the nets.

    Arguments:
        family: "sd15", "sd21" or "sdxl".
        ours: Whether our nodes load and apply.
        size: Width and height of the picture in pixels.
        count: Pictures in the batch.

    Attributes:
        strength_factor: What every strength is multiplied by; 0 draws without control.
    """

    def __init__(self, family: str, ours: bool, size: tuple[int, int] = (128, 128), count: int = 1) -> None:
        super().__init__()
        self.family = family
        self.ours = ours
        self.size = size
        self.count = count
        self.strength_factor = 1.0
        self.model: Link = [self.add("UNETLoader", unet_name=f"{family}.safetensors", weight_dtype="default"), 0]
        self.positive, self.negative = (self.conditioning(seed) for seed in (1, 2))
        self.latent: Link = [self.add("EmptyLatentImage", width=size[0], height=size[1], batch_size=count), 0]

    def conditioning(self, seed: int) -> Link:
        """A random text embedding of the family."""
        width = FAMILIES[self.family].context_dim
        return [self.add("RandomConditioning", seed=seed, width=width, pooled=POOLED[self.family]), 0]

    def images(self, seed: int = 3, size: tuple[int, int] | None = None, count: int = 1) -> Link:
        """Random hints, as large as the picture unless said otherwise."""
        width, height = size or self.size
        return [self.add("RandomImages", seed=seed, width=width, height=height, count=count), 0]

    def net(self, name: str, ours: bool | None = None) -> Link:
        """Load a net of the family."""
        loader = "LoadControlNet" if (self.ours if ours is None else ours) else "ControlNetLoader"
        suffix = "" if "." in name else ".safetensors"
        return [self.add(loader, control_net_name=f"{self.family}_{name}{suffix}"), 0]

    def apply(
        self,
        net: Link,
        images: Link,
        strength: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        ours: bool | None = None,
        **further: object,
    ) -> str:
        """Apply a net to positive and negative; the node's id."""
        node = self.add(
            "ApplyControlNet" if (self.ours if ours is None else ours) else "ControlNetApplyAdvanced",
            positive=self.positive,
            negative=self.negative,
            control_net=net,
            image=images,
            strength=strength * self.strength_factor,
            start_percent=start,
            end_percent=end,
            **further,
        )
        self.positive, self.negative = [node, 0], [node, 1]
        return node

    def sample(self, name: str = "latent", **settings: object) -> str:
        """Sample and keep the latents; the sampler's id."""
        defaults = {
            "seed": 5,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
            "model": self.model,
            "steps": 3,
        }
        node = self.add("KSampler", **{**defaults, **settings})
        self.capture(name, [node, 0])
        return node
