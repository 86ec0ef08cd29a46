"""The options of applied nets: one group of values for each net, in the order they are given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..control.curves import CURVES, SIDES
from ..errors import HintError, SettingError
from .parser import Parser

if TYPE_CHECKING:
    from torch import Tensor

    from ..base import Base
    from ..control.application import Application
    from ..control.stack import Control

Value = TypeVar("Value")
APPLICATION = ("strength", "start", "end", "curve", "side")
"""The options that say how a net is applied, named as in `Application`."""
WHITE = 0.5
"""Above this a mask counts as white."""


@dataclass(frozen=True)
class NamedControl:
    """One applied net, as the command line names it.

    Attributes:
        control: The net's file.
        hint: The hint's file.
        canny: Thresholds of the edges to follow in place of the hint itself, or None.
        application: How it is applied.
        inpaint: A file that is white where an inpainting net fills the picture, or "".
        pooled: Whether its residuals are averaged over the picture: "yes", "no", or "" for what its file says.
    """

    control: str
    hint: str
    canny: tuple[float, float] | None
    application: Application
    inpaint: str = ""
    pooled: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same as JSON, under the names of the options."""
        applied = {name: getattr(self.application, name) for name in APPLICATION}
        added = {name: value for name in ("inpaint", "pooled") if (value := getattr(self, name))}
        return {"control": self.control, "hint": self.hint, "canny": self.canny, **applied, **added}


def add_control_options(parser: Parser) -> None:
    """Add the options of applied nets."""
    group = parser.add_argument_group("control", "give each once for all nets, or once for each net, in the same order")

    def add(name: str, metavar: str, text: str, kind: type = str, choices: Sequence[str] | None = None) -> None:
        group.add_argument(
            f"--{name}", metavar=metavar, type=kind, choices=choices, action="append", default=[], help=text
        )

    add("control", "NET.safetensors", "a ControlNet (default: none)")
    add("hint", "IMAGE", "the image it follows (required with --control)")
    edges = "follow the edges in the hint, found with these thresholds from 0 to 1, such as 0.1 0.2"
    edges = f"{edges}; 0 0 uses the hint as it is (default: 0 0)"
    group.add_argument("--canny", metavar=("LOW", "HIGH"), type=float, nargs=2, action="append", default=[], help=edges)
    text = "white where an inpainting net fills the picture; the hint's pixels there become -1 (default: nowhere)"
    add("inpaint", "MASK", text)
    text = "average its residuals over the picture, as shuffle nets want: yes or no (default: by config.json or name)"
    add("pooled", "WHEN", text, choices=("yes", "no"))
    add("strength", "S", "how strongly it acts (default: 1.0)", float)
    add("start", "F", "the fraction of the schedule at which it begins (default: 0.0)", float)
    add("end", "F", "the fraction of the schedule at which it stops (default: 1.0)", float)
    add("curve", "CURVE", f"its curve of block weights: {', '.join(CURVES)} (default: flat)", choices=CURVES)
    add("side", "SIDE", f"the side of guidance: {', '.join(SIDES)} (default: the curve's own)", choices=SIDES)


def named_controls(arguments: argparse.Namespace) -> list[NamedControl]:
    """Match the given options with the nets.

    Raises:
        SettingError: If an option is given neither once nor once for each net, a net has no hint, or a setting is
            impossible.
    """
    count = len(arguments.control)
    if count and not arguments.hint:
        raise SettingError(f"{count} --control and no --hint", "a hint to follow", "give --hint IMAGE")

    def each(name: str, default: Value) -> Sequence[Value]:
        given: list[Value] = getattr(arguments, name)
        found = f"{len(given)} --{name} for {count or 'no'} --control"
        if given and not count:
            raise SettingError(found, "a net", f"add --control, or leave out --{name}")
        if len(given) > 1 and len(given) != count:
            do = "give it once for all nets, or once for each net, in the same order"
            raise SettingError(found, "1" if count == 1 else f"1 or {count}", do)
        return given if len(given) == count else (given or [default]) * count

    from ..control.application import Application

    defaults = {name: getattr(Application(), name) for name in APPLICATION}
    applied = zip(*(each(name, default) for name, default in defaults.items()), strict=True)
    files = zip(arguments.control, each("hint", ""), each("inpaint", ""), each("pooled", ""), strict=True)
    named = zip(files, each("canny", [0.0, 0.0]), applied, strict=True)
    return [
        NamedControl(control, hint, (canny[0], canny[1]) if any(canny) else None, Application(*values), inpaint, pooled)
        for (control, hint, inpaint, pooled), canny, values in named
    ]


def read_hints(named: Sequence[NamedControl]) -> list[Tensor]:
    """Read the hints, each of shape (1, C, H, W) with the channels its net reads, in [0, 1] or -1 where it is masked.

    Raises:
        CheckpointError: If the file of a net is none.
        HintError: If a file is no image, has other channels than its net, its edges cannot be found, or a mask has
            another size.
    """
    from ..pictures.read import load_image
    from ..weights.parts.controlnet_part import controlnet_part
    from ..weights.safetensors_file import open_tensor_file

    files = dict.fromkeys(entry.control for entry in named)
    channels = {file: controlnet_part(open_tensor_file(file)).config.hint_channels for file in files}
    wanted = {(entry.hint, channels[entry.control] if entry.canny is None else 3) for entry in named}
    images = {one: load_image(*one) for one in sorted(wanted)}
    return [_hint(entry, images[entry.hint, channels[entry.control] if entry.canny is None else 3]) for entry in named]


def _hint(entry: NamedControl, image: Tensor) -> Tensor:
    """The hint that an image is for a net: its edges if they are asked for, masked where the net fills the picture."""
    from ..control.hint import MASKED
    from ..data.hints import canny_hint
    from ..pictures.read import load_image

    hint = image if entry.canny is None else canny_hint(image, *entry.canny)
    if not entry.inpaint:
        return hint
    mask = load_image(entry.inpaint, channels=1)
    if mask.shape[-2:] != hint.shape[-2:]:
        sizes = [f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels" for pixels in (mask, hint)]
        raise HintError(f"{entry.inpaint} of {sizes[0]}", f"{sizes[1]}, as {entry.hint}", "give both in one size")
    return hint.masked_fill(mask > WHITE, MASKED)


def loaded_controls(named: Sequence[NamedControl], hints: Sequence[Tensor], base: Base) -> list[Control]:
    """Load the nets for a base, each file once.

    Raises:
        CheckpointError: If a file is no ControlNet.
        SettingError: If a setting is impossible.
    """
    from ..control.stack import Control
    from ..weights.load import load_controlnet

    pooled = {"yes": True, "no": False, "": None}
    files = dict.fromkeys((entry.control, entry.pooled) for entry in named)
    nets = {
        (file, when): load_controlnet(file, device=base.device, dtype=base.dtype, pooled=pooled[when])
        for file, when in files
    }
    return [
        Control(nets[entry.control, entry.pooled], hint, entry.application)
        for entry, hint in zip(named, hints, strict=True)
    ]
