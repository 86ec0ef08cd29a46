"""`controlnet-core generate`: draws pictures from a prompt and hints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .control_options import add_control_options, loaded_controls, named_controls, read_hints
from .output import Interrupted, note, print_result
from .parser import Commands, new_command
from .picture_files import check_writable, picture_files, write_picture
from .progress import Bar

if TYPE_CHECKING:
    from torch import Tensor

    from ..base import Base
    from ..control.stack import Control
    from ..sampling.generate import SamplingSettings

DESCRIPTION = """\
Draw pictures from a prompt, with a base and any number of ControlNets. With
several nets, give --control and --hint once for each, in the same order: what
they add is summed. Every PNG carries its settings, as JSON in the text chunk
"controlnet_core"."""
EPILOG = """\
examples:
  controlnet-core generate "a red circle on blue" --base tiny --out circle.png

  controlnet-core generate "a cat" --base sd15.safetensors --out cats --count 4 \\
      --control canny.safetensors --hint cat.jpg --canny 0.1 0.2 --strength 0.8 \\
      --control depth.safetensors --hint depth.png --canny 0 0 --strength 0.5
"""


Value = int | float | str


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "generate", "draw pictures from a prompt and hints", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help='what to draw; "" is allowed')
    base = "a safetensors file, a diffusers folder, or tiny, the small base of this package (required)"
    add("--base", metavar="PATH|tiny", required=True, help=base)
    out = "the file to write, or a folder, where pictures are numbered after those already there (required)"
    add("--out", metavar="FILE.png|DIR", type=Path, required=True, help=out)
    tokenizer = "a folder with CLIP's vocab.json and merges.txt (default: found beside the base or in the hub's cache)"
    add("--tokenizer", metavar="DIR", type=Path, help=tokenizer)
    device = "auto, cpu, cuda, cuda:1, ...; auto is cuda if there is one (default: auto)"
    add("--device", metavar="NAME", default="auto", help=device)
    add_control_options(parser)
    _add_sampling_options(parser.add_argument_group("sampling"))


def run(arguments: argparse.Namespace) -> int:
    """Run the command: everything that can be checked at once is checked before weights are read."""
    from ..sampling.generate import SamplingSettings

    files = picture_files(arguments.out, arguments.count)
    named = named_controls(arguments)
    names = ("steps", "guidance", "size", "seed", "sampler", "spacing")
    settings = SamplingSettings(**{name: getattr(arguments, name) for name in names})
    check_writable(files[0].parent)
    hints = read_hints(named)
    base = _opened(arguments)
    controls = loaded_controls(named, hints, base)
    settings = replace(settings, size=settings.size or (base.family.image_size,) * 2)
    about = {name: getattr(arguments, name) for name in ("prompt", "negative", "base")}
    about |= {**asdict(settings), "controls": [entry.as_json() for entry in named]}
    pictures = _draw(about, base, controls, settings, files)
    facts = [("picture", f"{picture['path']} (seed {picture['seed']})") for picture in pictures]
    print_result(facts, {**about, "pictures": pictures}, arguments.json)
    return 0


def height_and_width(text: str) -> tuple[int, int]:
    """Read a size such as 512x768."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 512x768")
    return int(height), int(width)


def _add_sampling_options(group: argparse._ArgumentGroup) -> None:
    def add(name: str, metavar: str, default: Value, text: str) -> None:
        text = f"{text} (default: {default})"
        group.add_argument(f"--{name}", metavar=metavar, type=type(default), default=default, help=text)

    size = "in pixels, multiples of 8 (default: the base's own, square)"
    negative = "what guidance leads away from (default: nothing)"
    group.add_argument("--negative", metavar="PROMPT", default="", help=negative)
    group.add_argument("--size", metavar="HEIGHTxWIDTH", type=height_and_width, help=size)
    add("steps", "N", 20, "steps of the sampler")
    add("guidance", "G", 7.5, "classifier-free guidance; 1 is none, and takes half the time")
    add("seed", "N", 0, "seeds the noise; further pictures use the next seeds")
    add("count", "N", 1, "how many pictures to draw")
    add("sampler", "NAME", "dpmpp_2m", "euler, ddim or dpmpp_2m")
    add("spacing", "NAME", "karras", "spacing of the noise levels: normal or karras")


def _opened(arguments: argparse.Namespace) -> Base:
    """Load the base; on a CPU in float32, as half precision is slow there."""
    import torch

    from ..weights.load_base import load_base
    from .device import chosen_device

    device = chosen_device(arguments.device)
    dtype = torch.float32 if device.type == "cpu" else None
    note(f"loading the base {arguments.base}")
    return load_base(arguments.base, device=device, dtype=dtype, tokenizer=arguments.tokenizer)


def _draw(
    about: dict[str, Any],
    base: Base,
    controls: Sequence[Control],
    settings: SamplingSettings,
    files: Sequence[Path],
) -> list[dict[str, Any]]:
    """Draw and write one picture after the other; return the path and the seed of each."""
    from ..sampling.generate import generate

    done: list[dict[str, Any]] = []

    def show(step: int, steps: int, denoised: Tensor) -> None:
        bar.show(len(done) * steps + step, len(files) * steps)

    try:
        with Bar("drawing", "step") as bar:
            for seed, file in enumerate(files, start=settings.seed):
                seeded = replace(settings, seed=seed)
                picture = generate(
                    base, about["prompt"], controls, negative_prompt=about["negative"], settings=seeded, callback=show
                )
                write_picture(picture[0], file, {**about, "seed": seed})
                done.append({"path": str(file), "seed": seed})
    except KeyboardInterrupt:
        raise Interrupted(f"{len(done)} of {len(files)} pictures are drawn and kept", {"pictures": done}) from None
    return done
