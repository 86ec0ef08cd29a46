"""Graphs that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.host.graphs import Builder, Link

PICTURE = (64, 64)
"""Width and height of the pictures in pixels."""
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 4,
    "learning_rate": 5e-4,
    "seed": 0,
    "warm_up_steps": 2,
    "cool_down_steps": 2,
    "weight_decay": 0.0,
    "gradient_clip": 1.0,
    "average_decay": 0.9,
    "prompt_drop": 0.5,
    "hint_encoder": "reference",
    "checkpoint_every": 3,
    "evaluation_every": 3,
    "evaluation_hints": 4,
    "evaluation_sampling_steps": 4,
    "evaluation_guidance": 3.0,
    "evaluation_sides": "conditional",
}


class Training(Builder):
    """A graph that trains on the small base and shapes, unless it is given other sources.

    Arguments:
        sources: MODEL, CLIP and VAE; None takes the small base.
        data: The inputs of the dataset node.
        settings: What differs from `SETTINGS`.

    Attributes:
        node: The training node's id.
    """

    def __init__(
        self, sources: list[Link] | None = None, data: dict[str, object] | None = None, **settings: object
    ) -> None:
        super().__init__()
        if sources is None:
            base = self.add("ControlNetCoreTinyBase")
            sources = [[base, output] for output in range(3)]
        data = data or {"source": "shapes", "source.count": 48, "source.seed": 0, "source.hint": "outline"}
        dataset = self.add("ControlNetCoreDataset", **data)
        self.node = self.train(sources, dataset, **settings)

    def train(self, sources: list[Link], dataset: str, **settings: object) -> str:
        """Add a training node and keep its outputs."""
        model, clip, vae = sources
        given = {"name": "net", "settings_toml": "", **SETTINGS, **settings}
        node = self.add("TrainControlNet", model=model, clip=clip, vae=vae, dataset=[dataset, 0], **given)
        for slot, name in enumerate(("control_net", "path", "loss_map", "report", "settings")):
            self.capture(name, [node, slot])
        return node


def weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a net's file."""
    return load_file(path)


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a net's file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def write_pairs(folder: Path, count: int = 6, size: tuple[int, int] = PICTURE) -> None:
    """Write a sound dataset."""
    for kind in ("images", "hints", "captions"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shade = (40 * number % 256, 100, 200)
        Image.new("RGB", size, shade).save(folder / "images" / f"{number}.png")
        Image.new("RGB", size, shade[::-1]).save(folder / "hints" / f"{number}.png")
        (folder / "captions" / f"{number}.txt").write_text(f"picture {number}")
