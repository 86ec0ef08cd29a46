"""What a stack of nets holds: it is checked when it comes in, and nobody changes what goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from ....controlnet_core.errors import SettingError
from ..host.images import with_channels
from ..host.messages import explained
from ..host.types import HostControlNet, HostStack

StackEntry = tuple[HostControlNet, Tensor, float, float, float]
"""A CONTROL_NET, its hints, strength, start and end: what extensions exchange as CONTROL_NET_STACK."""
ENTRY = "(CONTROL_NET, IMAGE, strength, start, end)"
COLOURS = 3


class SharedStack(list[StackEntry]):
    """A stack that several nodes are given: a list that none of them can change, as the others would see it."""

    def _refuse(self, *_: object) -> NoReturn:
        with explained(None):
            raise SettingError(
                found="a node that changes a stack of Stack ControlNets in place",
                expected="one that makes a longer stack of its own, since other nodes read the same one",
                do="put that node first, and connect its stack to Stack ControlNets",
            )

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse  # type: ignore[assignment]
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> tuple[type[list[StackEntry]], tuple[list[StackEntry]]]:
        """A copy is a plain list, which belongs to whoever made it."""
        return list, (self[:],)


def read_stack(stack: HostStack) -> list[StackEntry]:
    """Read a CONTROL_NET_STACK of any extension; one that is not connected is empty.

    Raises:
        SettingError: If it is no list, or an entry is not (CONTROL_NET, IMAGE, strength, start, end), the last two
            optional.
    """
    if stack is None:
        return []
    if not isinstance(stack, Sequence) or isinstance(stack, str):
        raise SettingError(f"a stack that is a {type(stack).__name__}", f"a list of {ENTRY}", _connect())
    return [_read_entry(number, entry) for number, entry in enumerate(stack, start=1)]


def check_net(net: object) -> None:
    """Check that something is a CONTROL_NET, ours or another; raises SettingError if it is not."""
    if is_net(net):
        return
    named = f" ({net!r})" if isinstance(net, str) else ""
    raise SettingError(
        found=f"a {type(net).__name__}{named} in place of a net",
        expected="a CONTROL_NET",
        do="connect the output of a loader, such as Load ControlNet",
    )


def is_net(net: object) -> bool:
    """Whether something can be applied as ComfyUI applies its nets."""
    return all(callable(getattr(net, name, None)) for name in ("copy", "set_cond_hint", "get_control"))


def hint_pixels(net: HostControlNet, hints: Tensor) -> Tensor:
    """The hints (B, H, W, C) of a net as it reads them, shape (B, C, H, W).

    A net of this extension looks at its channels itself. For another, grey is repeated and channels beyond those it
    reads are left out, likewise.

    Raises:
        HintError: If there are fewer channels than it reads, and more than one.
    """
    pixels = hints.movedim(-1, 1)
    channels = _channels_read(net)
    return pixels if channels is None else with_channels(pixels, channels, "a net")


def _channels_read(net: HostControlNet) -> int | None:
    """How many channels a net reads from its hint; None for a net of this extension."""
    model = getattr(net, "control_model", None)
    if hasattr(model, "hint_channels"):
        return None
    block = getattr(model, "input_hint_block", None)
    read = getattr(block[0], "in_channels", COLOURS) if block is not None else getattr(net, "channels_in", COLOURS)
    return COLOURS if block is None and read == 1 else int(read)  # a T2I-Adapter turns colours to grey itself


def _read_entry(number: int, entry: Any) -> StackEntry:  # noqa: ANN401 - whatever another extension sends
    """Check one entry of a stack."""
    parts = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
    if len(parts) not in (3, 5) or not is_net(parts[0]) or not _is_image(parts[1]):
        raise _wrong_entry(number, parts)
    net, hints, *numbers = (*parts, 0.0, 1.0)[:5]
    try:
        strength, start, end = map(float, numbers)
    except (TypeError, ValueError) as error:
        raise _wrong_entry(number, parts) from error
    return net, hints, strength, start, end


def _is_image(hints: object) -> bool:
    return isinstance(hints, Tensor) and hints.ndim == 4 and min(hints.shape) > 0


def _wrong_entry(number: int, parts: Sequence[object]) -> SettingError:
    kinds = ", ".join(
        f"Tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__ for part in parts
    )
    return SettingError(f"entry {number} of the stack with ({kinds})", ENTRY, _connect())


def _connect() -> str:
    return "connect a CONTROL_NET_STACK of a node that makes such entries"
