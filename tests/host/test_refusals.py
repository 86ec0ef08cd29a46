"""What people do wrong: one readable message, at once, and nothing drawn without control and without a warning."""

from __future__ import annotations

import time
from pathlib import Path

import comfy.controlnet
import pytest
import torch
from safetensors.torch import save_file

from tests.host.graphs import Drawing, Link
from tests.host.host import GraphError, Host
from tests.host.models import FAMILIES, Models

NAMES = {"sd15": "SD1.5", "sd21": "SD2.1", "sdxl": "SDXL", "tiny": "TINY"}
PAIRS = [(net, base) for net in NAMES for base in NAMES if net != base]


def conditioning(drawing: Drawing, family: str, pooled: int) -> None:
    """Give a drawing the text embeddings of another family."""
    width = 128 if family == "tiny" else FAMILIES[family].context_dim
    links: list[Link] = [
        [drawing.add("RandomConditioning", seed=seed, width=width, pooled=pooled), 0] for seed in (1, 2)
    ]
    drawing.positive, drawing.negative = links


def net_of(drawing: Drawing, family: str, ours: bool = True) -> Link:
    """Load a net of any family."""
    name = "tiny_outline.safetensors" if family == "tiny" else f"{family}_a.safetensors"
    return [drawing.add("LoadControlNet" if ours else "ControlNetLoader", control_net_name=name), 0]


@pytest.mark.parametrize("pooled", [0, 1280])
@pytest.mark.parametrize("ours", [True, False], ids=["our net", "native net"])
@pytest.mark.parametrize(("net", "base"), PAIRS)
def test_a_net_of_another_family_is_refused_when_it_is_applied(
    host: Host, net: str, base: str, ours: bool, pooled: int
) -> None:
    drawing = Drawing("sd15", ours=True)
    conditioning(drawing, base, pooled)
    link = net_of(drawing, net, ours)
    drawing.capture("net", link)
    host.run(drawing.graph)  # loads the net, which may take longer
    drawing.apply(link, drawing.images())
    drawing.capture("positive", drawing.positive)
    began = time.monotonic()
    with pytest.raises(GraphError) as error:
        host.run(drawing.graph)
    seconds = time.monotonic() - began
    message = str(error.value)
    print(f"\n{message} ({seconds:.2f} s)")
    assert NAMES[net] in message and NAMES[base] in message
    assert ("tiny_outline.safetensors" if base == "tiny" else f"{base}_a.safetensors") in message
    assert message.count("\n") == 0


@pytest.mark.parametrize(("net", "base"), PAIRS)
def test_a_net_of_another_family_is_refused_by_the_model(host: Host, net: str, base: str) -> None:
    """The prompt fits the net and not the model: told before the first step."""
    drawing = Drawing("sd15" if base == "tiny" else base, ours=True)
    if base == "tiny":
        drawing.model = [drawing.add("ControlNetCoreTinyBase"), 0]
    conditioning(drawing, net, 1280)
    drawing.apply(net_of(drawing, net), drawing.images())
    drawing.sample()
    with pytest.raises(GraphError) as error:
        host.run(drawing.graph)
    message = str(error.value)
    print(f"\n{message}")
    assert NAMES[net] in message and NAMES[base] in message


@pytest.fixture(scope="module")
def odd_files(models: Models) -> Path:
    """Files in the folder of nets that are none."""
    folder = models.folder / "controlnet"
    whole = (folder / "sd15_a.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>Not found</html>")
    (folder / "broken.pth").write_bytes(b"PK\x03\x04 this is no checkpoint")
    save_file({"some.weight": torch.zeros(3)}, folder / "unknown.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(3, 3)}, folder / "lora.safetensors")
    from safetensors.torch import load_file

    tensors = load_file(folder / "sd15_a.safetensors")
    del tensors["zero_convs.1.0.weight"]
    save_file(tensors, folder / "incomplete.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cut.safetensors", ["cut.safetensors"]),
        ("empty.safetensors", ["empty.safetensors"]),
        ("page.safetensors", ["page.safetensors", "web page"]),
        ("broken.pth", ["broken.pth"]),
        ("unknown.safetensors", ["unknown.safetensors", "no known kind"]),
        ("lora.safetensors", ["lora.safetensors", "LoRA"]),
        ("incomplete.safetensors", ["incomplete.safetensors", "zero_convs.1.0.weight"]),
    ],
)
@pytest.mark.usefixtures("odd_files")
def test_a_file_that_is_no_net_is_refused(host: Host, name: str, parts: list[str]) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.capture("net", [drawing.add("LoadControlNet", control_net_name=name), 0])
    with pytest.raises(GraphError) as error:
        host.run(drawing.graph)
    message = str(error.value)
    print(f"\n{message}")
    assert all(part in message for part in parts), message
    assert message.count("\n") == 0


@pytest.mark.parametrize("name", ["../sd15_a.safetensors", "/etc/passwd", "..\\x", "", "x\0y", "sd15_a.safetensors/"])
def test_names_stay_inside_the_folders(host: Host, name: str) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.capture("net", [drawing.add("LoadControlNet", control_net_name=name), 0])
    with pytest.raises(GraphError):
        host.run(drawing.graph)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"strength": 11.0}, "strength"),
        ({"strength": -1.0}, "strength"),
        ({"start": 0.8, "end": 0.2}, "start = 0.8, end = 0.2"),
        ({"curve": "custom", "block_weights": "1 2 three"}, "block_weights"),
        ({"curve": "custom", "block_weights": "1 2"}, "2 weights"),
        ({"curve": "custom"}, "0 weights"),
        ({"block_weights": "1 1 1 1 1"}, "block weights"),
        ({"curve": "steep"}, "curve"),
    ],
)
def test_impossible_settings_are_refused(host: Host, settings: dict[str, object], part: str) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.apply(drawing.net("a"), drawing.images(), **settings)  # type: ignore[arg-type]
    drawing.capture("positive", drawing.positive)
    with pytest.raises(GraphError) as error:
        host.run(drawing.graph)
    print(f"\n{error.value}")
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("options", "settings", "hints", "warning"),
    [
        ({}, {"start": 0.4, "end": 0.45}, {}, "no step falls between start 0.4 and end 0.45"),
        ({}, {}, {"size": (128, 64)}, "another aspect"),
        ({"count": 2}, {}, {"count": 3}, "the last one is not used"),
        ({"count": 3}, {}, {"count": 2}, "repeated in turn"),
    ],
)
@pytest.mark.parametrize(
    ("native", "our_net"),
    [(False, True), (True, True), (False, False)],
    ids=["our Apply node", "native Apply node", "native net in our Apply node"],
)
def test_what_acts_otherwise_than_expected_is_said_on_the_node(
    host: Host,
    options: dict[str, int],
    settings: dict[str, float],
    hints: dict[str, object],
    warning: str,
    native: bool,
    our_net: bool,
) -> None:
    drawing = Drawing("sd15", ours=True, size=(64, 64), **options)
    net = drawing.net("a", ours=our_net)
    apply = drawing.apply(net, drawing.images(3, **hints), ours=not native, **settings)  # type: ignore[arg-type]
    sampler = drawing.sample()
    latents = host.run(drawing.graph)["latent"]["samples"]
    said = [(node, text) for node, text in host.server.texts if warning in text]
    print(f"\n{said}")
    assert [node for node, _ in said] == [sampler if native else apply]
    assert torch.isfinite(latents).all()


def test_a_curve_without_meaning_is_said_on_the_node(host: Host) -> None:
    """A net of a diffusion transformer has no blocks of different resolution."""
    foreign = host.bridge("control.foreign_net")
    host.server.texts.clear()
    application = host.core("control.application").Application(curve="cfg_resolution", side="conditional")
    net = foreign.weighted(TransformerNet(), foreign.Weighting(application, "7"))
    net.pre_run(None, lambda percent: 1 - percent)
    for _ in range(2):
        control = net.get_control(torch.zeros(2, 4, 8, 8), torch.ones(2), {}, 2, {"cond_or_uncond": [1, 0]})
    said = [text for node, text in host.server.texts if node == "7"]
    assert len(said) == 1 and "curve is not used" in said[0]
    assert control["output"][0][0].abs().max() == 0
    assert torch.equal(control["output"][0][1], torch.ones(6, 3))


class TransformerNet(comfy.controlnet.ControlBase):  # type: ignore[misc]  # ComfyUI is untyped
    """What ComfyUI's nets for Flux give: tokens in place of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.cond_hint_original = torch.zeros(1, 3, 64, 64)

    def get_control(self, *step: object) -> dict[str, list[torch.Tensor]]:
        """Residuals of two rows with six tokens."""
        return {"input": [], "output": [torch.ones(2, 6, 3)]}


def test_an_output_without_input_says_so(host: Host) -> None:
    drawing = Drawing("sd15", ours=True)
    window = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    node = drawing.add(
        "StackControlNets", control_net=drawing.net("a"), image=drawing.images(), positive=drawing.positive, **window
    )
    drawing.positive, drawing.negative = [node, 1], [node, 2]
    drawing.sample()
    with pytest.raises(GraphError, match="connect negative"):
        host.run(drawing.graph)


@pytest.mark.parametrize("settings", [{"side": "unconditional"}, {"curve": "custom", "block_weights": "0 0 0 0 0"}])
def test_a_net_that_never_acts_is_not_kept_quiet_about(host: Host, settings: dict[str, str]) -> None:
    drawing = Drawing("sd15", ours=True, size=(64, 64))
    node = drawing.apply(drawing.net("a"), drawing.images(), **settings)  # type: ignore[arg-type]
    drawing.sample(cfg=1.0)
    host.run(drawing.graph)
    assert [(said, "it did not act" in text) for said, text in host.server.texts if said == node] == [(node, True)]


def test_an_id_that_another_extension_took_is_said_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        RELATIVE_PYTHON_MODULE = "custom_nodes.other"

    (look,) = host.server.on_prompt_handlers
    before = host.nodes["ApplyControlNet"]
    host.nodes["ApplyControlNet"] = Other
    try:
        submissions = [look({"number": number}) for number in range(2)]
    finally:
        host.nodes["ApplyControlNet"] = before
    assert submissions == [{"number": 0}, {"number": 1}]
    said = [record.getMessage() for record in caplog.records if "ApplyControlNet" in record.getMessage()]
    assert len(said) == 1 and "custom_nodes.other" in said[0]


def test_strength_0_changes_nothing(host: Host) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.capture("before", drawing.positive)
    drawing.apply(drawing.net("a"), drawing.images(), 0.0)
    drawing.capture("after", drawing.positive)
    captured = host.run(drawing.graph)
    assert captured["after"] is captured["before"]
