"""What other extensions and files give: stacks of any make, hints of any channels, and one bad file among the nets."""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from controlnet_core.config import SD15, TINY
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.weights.save import save_controlnet
from tests.support.extension import Extension
from tests.support.host_double import HostObject
from tests.support.reduced import noise, randomised

IMAGE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
WINDOW = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def net(extension: Extension) -> HostObject:
    save_controlnet(randomised(ControlNet(TINY)), extension.folder / "given_tiny.safetensors")
    loaded, _ = extension.run("LoadControlNet", control_net_name="given_tiny.safetensors")
    return loaded


def conditioning() -> list[list[Any]]:
    return [[noise(1, 5, 128, seed=1), {}]]


def stacked(extension: Extension, net: object, **given: object) -> Any:  # noqa: ANN401 - any stack
    settings = {"control_net": net, "image": IMAGE, **WINDOW, **given}
    return extension.run("StackControlNets", **settings)[0]


ENTRIES: dict[str, Any] = {
    "a name": lambda net: ("sd15.safetensors", IMAGE, 0.5, 0.0, 1.0),
    "no net": lambda net: (None, IMAGE, 0.5, 0.0, 1.0),
    "a list for a net": lambda net: ([net, IMAGE, 1.0], IMAGE, 0.5, 0.0, 1.0),
    "no image": lambda net: (net, None, 0.5, 0.0, 1.0),
    "an image without batch": lambda net: (net, IMAGE[0], 0.5, 0.0, 1.0),
    "an empty image": lambda net: (net, IMAGE[:0], 0.5, 0.0, 1.0),
    "two values": lambda net: (net, IMAGE),
    "four values": lambda net: (net, IMAGE, 0.5, 0.0),
    "seven values": lambda net: ("sd15.safetensors", 0.5, 0.0, 1.0, 1.0, IMAGE, True),
    "a strength in words": lambda net: (net, IMAGE, "strong", 0.0, 1.0),
    "no strength": lambda net: (net, IMAGE, None, 0.0, 1.0),
    "a number": lambda net: 5,
    "nothing": lambda net: None,
}


@pytest.mark.parametrize("words", ENTRIES)
def test_an_entry_that_is_none_is_refused(words: str, extension: Extension, net: HostObject) -> None:
    with extension.refusing("SettingError", "entry 2 of the stack with"):
        stacked(extension, net, stack=[(net, IMAGE, 1.0), ENTRIES[words](net)])


@pytest.mark.parametrize("stack", ["sd15.safetensors", 5, {"net": 1}])
def test_a_stack_that_is_no_list_is_refused(stack: object, extension: Extension, net: HostObject) -> None:
    with extension.refusing("SettingError", f"a stack that is a {type(stack).__name__}"):
        stacked(extension, net, stack=stack)


@pytest.mark.parametrize(
    ("given", "found"), [("x.safetensors", r"a str \('x.safetensors'\)"), (None, "a NoneType"), ([], "a list")]
)
def test_what_is_no_net_is_refused(given: object, found: str, extension: Extension) -> None:
    sides = {"positive": conditioning(), "negative": conditioning()}
    for node in ("ApplyControlNet", "StackControlNets"):
        with extension.refusing("SettingError", f"{found} in place of a net"):
            extension.run(node, control_net=given, image=IMAGE, **WINDOW, **sides)


def test_other_makes_of_stack_are_read(extension: Extension, net: HostObject) -> None:
    five = (net, IMAGE, 0.5, 0.0, 1.0)
    for stack in ([five], (five,), [list(five)], [(net, IMAGE, torch.tensor(0.5))], [five[:3]]):
        assert stacked(extension, net, stack=stack)[0] == five
    assert len(stacked(extension, net, stack=None)) == len(stacked(extension, net, stack=[])) == 1


def test_nobody_changes_a_stack_that_others_read(extension: Extension, net: HostObject) -> None:
    stack = stacked(extension, net)
    entry = (net, IMAGE, 0.1, 0.0, 1.0)
    for change in (
        lambda: stack.append(entry),
        lambda: stack.extend([entry]),
        lambda: stack.insert(0, entry),
        lambda: stack.__iadd__([entry]),
        lambda: stack.__setitem__(0, entry),
        lambda: stack.__delitem__(0),
        stack.pop,
        stack.clear,
    ):
        with extension.refusing("SettingError", r"in place.*put that node first", running=False):
            change()
    assert isinstance(stack, list) and len(stack) == 1
    for longer in ([*stack, entry], stack + [entry], list(stack), stack.copy(), stack[:], copy.copy(stack)):  # noqa: RUF005
        longer.append(entry)
    assert len(stack) == 1


class NativeNet:
    """A net as ComfyUI's own: a module that says how many channels it reads, or nothing."""

    def __init__(self, module: object = None, **more: object) -> None:
        self.control_model = module
        self.hints: Tensor | None = None
        self.previous_controlnet: object = None
        self.extra_hooks = self.latent_format = None
        self.concat_mask = False
        self.timestep_percent_range = (0.0, 1.0)
        self.__dict__.update(more)

    def copy(self) -> NativeNet:
        return self

    def get_control(self) -> None:
        return None

    def set_cond_hint(self, hints: Tensor, *_: object, **__: object) -> NativeNet:
        self.hints = hints
        return self

    def set_previous_controlnet(self, net: object) -> NativeNet:
        self.previous_controlnet = net
        return self


def unet_net(channels: int) -> NativeNet:
    return NativeNet(SimpleNamespace(input_hint_block=[SimpleNamespace(in_channels=channels)]))


@pytest.mark.parametrize(
    ("make", "given", "expected"),
    [
        (lambda: unet_net(3), 1, [0, 0, 0]),
        (lambda: unet_net(3), 3, [0, 1, 2]),
        (lambda: unet_net(3), 4, [0, 1, 2]),
        (lambda: unet_net(4), 1, [0, 0, 0, 0]),
        (lambda: unet_net(4), 4, [0, 1, 2, 3]),
        (lambda: unet_net(1), 3, [0]),
        (lambda: NativeNet(channels_in=1), 3, [0, 1, 2]),
        (lambda: NativeNet(channels_in=1), 1, [0, 0, 0]),
        (lambda: NativeNet(), 4, [0, 1, 2]),
        (lambda: NativeNet(), 1, [0, 0, 0]),
    ],
)
def test_hints_of_other_channels_reach_a_native_net_as_it_reads_them(
    make: Any,  # noqa: ANN401 - a function
    given: int,
    expected: list[int],
    extension: Extension,
) -> None:
    native, image = make(), torch.rand(1, 64, 64, given)
    sides = {"positive": conditioning(), "negative": conditioning()}
    extension.run("ApplyControlNet", control_net=native, image=image, **WINDOW, **sides)
    assert native.hints is not None and torch.equal(native.hints, image.movedim(-1, 1)[:, expected])


@pytest.mark.parametrize(
    ("side", "acting"), [("curve's own", "conditional"), ("both", "both"), ("unconditional", "unconditional")]
)
def test_a_native_net_with_averaged_residuals_acts_on_the_positive_side_unless_told_otherwise(
    side: str, acting: str, extension: Extension
) -> None:
    sides = {"positive": conditioning(), "negative": conditioning()}
    native = NativeNet(global_average_pooling=True)
    (positive, _) = extension.run("ApplyControlNet", control_net=native, image=IMAGE, side=side, **WINDOW, **sides)
    assert positive[0][1]["control"].application.acting_side == acting


@pytest.mark.parametrize(("read", "given"), [(3, 2), (4, 3), (4, 2)])
def test_too_few_channels_are_an_error(read: int, given: int, extension: Extension) -> None:
    sides = {"positive": conditioning(), "negative": conditioning()}
    image = torch.rand(1, 64, 64, given)
    with extension.refusing("HintError", f"a hint with {given} channels for a net that reads {read}"):
        extension.run("ApplyControlNet", control_net=unet_net(read), image=image, **WINDOW, **sides)


def test_a_malformed_file_does_not_spoil_what_is_said_of_another_net(extension: Extension, net: HostObject) -> None:
    folder = extension.folder
    narrow = replace(SD15, model_channels=32, channel_mult=(1,), num_res_blocks=1, transformer_depth=(1,))
    save_controlnet(randomised(ControlNet(narrow)), folder / "given_sd15.safetensors")
    shapes = {
        "zero_convs.0.0.weight": [0],
        "input_hint_block.0.weight": [16, 3, 0, 0],
        "middle_block_out.0.weight": [0],
        "input_blocks.0.0.weight": [32, 4, 0, 0],
        "input_blocks.999999999.0.weight": [0],
    }
    nothing = {"dtype": "F16", "data_offsets": [0, 0]}
    header: dict[str, Any] = {key: {**nothing, "shape": shape} for key, shape in shapes.items()}
    bad = [header, {**header, "__metadata__": {"controlnet_core": "[" * 99_999}}, {**header, next(iter(header)): 5}]
    paths = [folder / f"given_bad_{number}.safetensors" for number in range(len(bad))]
    for path, words in zip(paths, (json.dumps(one).encode() for one in bad), strict=True):
        path.write_bytes(struct.pack("<Q", len(words)) + words)
    wide = [[noise(1, 5, 768, seed=1), {}]]
    with extension.refusing("FamilyMismatchError", r"such as .*given_sd15\.safetensors"):
        extension.run("ApplyControlNet", control_net=net, image=IMAGE, **WINDOW, positive=wide, negative=wide)
    for path in (*paths, folder / "given_sd15.safetensors"):
        path.unlink()


def test_hints_that_show_nothing_are_told_on_the_node(extension: Extension, net: HostObject) -> None:
    sides = {"positive": conditioning(), "negative": conditioning()}
    said = len(extension.texts)
    extension.run("ApplyControlNet", control_net=net, image=torch.rand(1, 64, 64, 3), **WINDOW, **sides)
    assert len(extension.texts) == said
    odd = {"all black": torch.zeros(1, 64, 64, 3), "the same picture": IMAGE.expand(3, -1, -1, -1)}
    for words, image in odd.items():
        extension.run("ApplyControlNet", control_net=net, image=image, **WINDOW, **sides)
        node, text = extension.texts[-1]
        assert node == "7" and text.startswith("⚠ ") and words in text, text
    stacked(extension, net, image=torch.zeros(1, 64, 64, 3), **sides)
    assert "all black" in extension.texts[-1][1]
