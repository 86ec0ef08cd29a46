"""Put the trained small base into one file, in the layout of a Stable Diffusion checkpoint, and measure it.

    python -m controlnet_core.toy.publish --run runs/tiny
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..base import Base
from ..config import FAMILIES
from ..sampling.generate import SamplingSettings
from ..weights.load_base import TINY_FOLDER, load_base
from ..weights.save import save_base
from .scores import following_scores, picture_scores
from .shapes_dataset import ShapesDataset
from .shapes_validation import ShapesValidation

PICTURES = 256
FAMILY = FAMILIES["TINY"]


def publish(run: Path, folder: Path) -> None:
    """Write `base.safetensors` (float16), its vocabulary and `base.json`, its measurements.

    Arguments:
        run: The folder of the training run.
        folder: Where to write.
    """
    trained = load_file(run / "base.safetensors")
    parts = {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in trained.items() if name.startswith(f"{part}.")}
        for part in ("unet", "text_encoder")
    }
    save_base(
        folder / "base.safetensors",
        FAMILY,
        unet=parts["unet"],
        autoencoder=load_file(run / "autoencoder.safetensors"),
        text_encoders=[parts["text_encoder"]],
    )
    for name in ("vocab.json", "merges.txt"):
        if run != folder:
            shutil.copyfile(run / name, folder / name)
    base = load_base(folder / "base.safetensors", dtype=torch.float32, tokenizer=folder)
    numbers = json.dumps(measure(base), indent=2) + "\n"
    (folder / "base.json").write_text(numbers, encoding="utf-8")


def measure(base: Base) -> dict[str, float]:
    """Measure the base on held-out scenes.

    Returns:
        Of the autoencoder: the mean absolute error of a copied picture (0 to 1), the following score of copies, and the
        standard deviation of the latents. Of what it draws from captions without control, 20 steps at guidance 4: the
        shares of pictures with the right colour, background and shape, and the following score, which is at chance.
    """
    pairs = ShapesDataset(PICTURES, FAMILY.image_size, seed=0, held_out=True)
    rows = range(PICTURES)
    images, scenes = pairs.images(rows), pairs.scenes(rows)
    latents = torch.cat([base.encode_images(part).mean for part in images.split(32)])
    copies = torch.cat([base.decode_latents(part) for part in latents.split(32)])
    drawn = ShapesValidation(base, pairs, SamplingSettings(steps=20, guidance=4.0)).draw(None)
    copied = picture_scores(copies, scenes)
    numbers = {
        "pictures": PICTURES,
        "copy_error": float((copies - images).abs().mean()),
        "copy_following": float(following_scores(copies, scenes).mean()),
        "copy_colour": copied["colour"],
        "copy_shape": copied["shape"],
        "latent_deviation": float(latents.std()),
        "drawn_colour": drawn.measures["colour"],
        "drawn_background": drawn.measures["background"],
        "drawn_shape": drawn.measures["shape"],
        "drawn_following_by_chance": drawn.following,
    }
    return {name: round(number, 4) for name, number in numbers.items()}


def main() -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description="Publish and measure the small base.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, default=TINY_FOLDER, help="where to write (default: into the package)")
    options = parser.parse_args()
    publish(options.run, options.out)
    print((options.out / "base.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
