"""How our nets behave towards ComfyUI's samplers and nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from controlnet_core.config import SD15, TINY
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.weights.save import save_controlnet
from tests.support.extension import Extension
from tests.support.host_double import HostObject
from tests.support.reduced import noise, randomised

SCHEDULE = NoiseSchedule.scaled_linear()
BOTH_SIDES = {"cond_or_uncond": [1, 0], "sample_sigmas": torch.tensor([10.0, 2.0, 0.0])}


class Model:
    """A model as `pre_run` gets it."""

    def __init__(self, **sizes: object) -> None:
        tiny = {
            "in_channels": 4,
            "model_channels": 64,
            "channel_mult": [1, 2],
            "num_res_blocks": [1, 1],
            "context_dim": 128,
            "adm_in_channels": None,
        }
        self.model_config = SimpleNamespace(unet_config={**tiny, **sizes})
        self.model_sampling = SimpleNamespace(
            calculate_input=lambda sigma, x: x / (sigma[0] ** 2 + 1) ** 0.5,
            timestep=lambda sigma: SCHEDULE.timestep(sigma.double()),
        )


@pytest.fixture(scope="session")
def net(extension: Extension) -> HostObject:
    """A random net as the loader gives it."""
    save_controlnet(randomised(ControlNet(TINY)), extension.folder / "protocol_tiny.safetensors")
    loaded, report = extension.run("LoadControlNet", control_net_name="protocol_tiny.safetensors")
    assert "read by ControlNet Core; TINY, ldm layout" in report
    return loaded


def conditioning(seed: int = 0, width: int = 128) -> list[list[Any]]:
    """A CONDITIONING of random numbers."""
    return [[noise(1, 5, width, seed=seed), {"pooled_output": noise(1, 8, seed=seed)}]]


def apply(extension: Extension, net: object, hints: Tensor | None = None, **settings: object) -> HostObject:
    """Apply a net; the configured net."""
    window = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    image = torch.rand(1, 64, 64, 3) if hints is None else hints
    given = {"positive": conditioning(), "negative": conditioning(1), "control_net": net, "image": image}
    positive, negative = extension.run("ApplyControlNet", **{**given, **window, **settings})
    assert positive[0][1]["control"] is negative[0][1]["control"]
    return positive[0][1]["control"]


@torch.no_grad()
def control_of(configured: HostObject, sigma: float = 2.0, pictures: int = 1, **options: object) -> HostObject:
    """What a configured net gives at a noise level."""
    x = noise(2 * pictures, 4, 8, 8, seed=3)
    cond = {"c_crossattn": noise(2 * pictures, 5, 128, seed=4)}
    return configured.get_control(x, torch.full((len(x),), sigma), cond, 2, {**BOTH_SIDES, **options})


def begin(configured: HostObject) -> None:
    """Call what ComfyUI calls before sampling: once for each conditioning."""
    for _ in range(2):
        configured.pre_run(Model(), SCHEDULE.sigma_at)


def test_it_has_all_that_samplers_touch(net: HostObject) -> None:
    for name in ("previous_controlnet", "extra_hooks", "multigpu_clones"):
        assert hasattr(net, name)
    assert net.get_extra_hooks() == []
    assert net.inference_memory_requirements(torch.float32) == 0
    assert [patcher.model for patcher in net.get_models()] == [net.control_model]
    assert len({net, net.copy()}) == 2


def test_a_copy_keeps_curve_and_side_and_shares_the_weights(extension: Extension, net: HostObject) -> None:
    configured = apply(extension, net, curve="guess", side="both", strength=0.5, start_percent=0.1)
    copied = configured.copy()
    assert (copied.curve, copied.side, copied.node_id) == ("guess", "both", "7")
    assert (copied.strength, copied.timestep_percent_range) == (0.5, (0.1, 1.0))
    assert copied.control_model is net.control_model
    assert copied.previous_controlnet is None
    assert net.curve == "flat"


def test_nothing_that_was_given_is_changed(extension: Extension, net: HostObject) -> None:
    positive, negative = conditioning(), conditioning(1)
    options = {id(entry): dict(entry[1]) for entry in (*positive, *negative)}
    stack: list[Any] = [(net, torch.rand(1, 64, 64, 3), 1.0, 0.0, 1.0)]
    given = {"control_net": net, "image": torch.rand(1, 64, 64, 3), "strength": 1.0}
    window = {"start_percent": 0.0, "end_percent": 1.0}
    longer, *_ = extension.run("StackControlNets", **given, **window, stack=stack, positive=positive, negative=negative)
    assert len(stack) == 1 and len(longer) == 2
    assert [len(entry) for entry in longer] == [5, 5]
    for entry in (*positive, *negative):
        assert entry[1] == options[id(entry)]


def test_residuals_are_fresh_at_every_step(extension: Extension, net: HostObject) -> None:
    configured = apply(extension, net)
    begin(configured)
    first, again = control_of(configured), control_of(configured)
    assert list(first) == ["input", "middle", "output"]
    assert len(first["output"]) == len(TINY.skip_channels) and len(first["middle"]) == 1
    for one, other in zip(first["output"], again["output"], strict=True):
        assert torch.equal(one, other) and one is not other
        one.mul_(0)  # ComfyUI scales and adds in place
    first["output"].clear()
    assert all(one.abs().max() > 0 for one in control_of(configured)["output"])


def test_nets_in_a_chain_are_summed(extension: Extension, net: HostObject) -> None:
    hints = [torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    alone = [apply(extension, net, hint, strength=0.5) for hint in hints]
    positive, negative = conditioning(), conditioning(1)
    for hint in hints:
        window = {"strength": 0.5, "start_percent": 0.0, "end_percent": 1.0}
        given = {"positive": positive, "negative": negative, "control_net": net, "image": hint}
        positive, negative = extension.run("ApplyControlNet", **given, **window)
    chain = positive[0][1]["control"]
    for configured in (*alone, chain):
        begin(configured)
    sums = [one + other for one, other in zip(*(control_of(one)["output"] for one in alone), strict=True)]
    for found, expected in zip(control_of(chain)["output"], sums, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_outside_its_window_a_net_gives_what_comes_before_it(extension: Extension, net: HostObject) -> None:
    configured = apply(extension, net, start_percent=0.5)
    begin(configured)
    assert control_of(configured, sigma=SCHEDULE.sigma_at(0.4)) is None
    assert control_of(configured, sigma=SCHEDULE.sigma_at(0.6)) is not None
    before = {"input": [], "middle": [], "output": [torch.ones(2)]}
    configured.previous_controlnet = SimpleNamespace(get_control=lambda *step: before)
    assert control_of(configured, sigma=SCHEDULE.sigma_at(0.4)) is before


@pytest.mark.parametrize(("side", "rows"), [("conditional", [0.0, 1.0]), ("unconditional", [1.0, 0.0])])
def test_a_side_that_is_off_gets_zeros(extension: Extension, net: HostObject, side: str, rows: list[float]) -> None:
    configured = apply(extension, net, side=side)
    begin(configured)
    for residual in control_of(configured)["output"]:
        assert [float(row.abs().max() > 0) for row in residual] == rows


@pytest.mark.parametrize("kept", [[0], [1], [1, 0], [0, 0], [1, 1, 0]])
def test_sides_that_a_wrapper_takes_apart_stay_what_they_are(
    extension: Extension, net: HostObject, kept: list[int]
) -> None:
    """It says which parts it kept in `cond_or_uncond`; a net that it asks about others than it says acts on all."""
    sides = extension.module("nodes.bridge.control.sides")
    configured = apply(extension, net, side="conditional")
    begin(configured)
    marks = [{configured.applied.name: side} for side in ("unconditional", "conditional")]
    x, context, sigma = noise(2, 4, 8, 8, seed=3), noise(2, 5, 128, seed=4), torch.full((2,), 2.0)
    options: dict[str, Any] = {**BOTH_SIDES, "uuids": ["negative", "positive"]}
    with torch.no_grad():
        cond = {"c_crossattn": context, sides.KEY: sides.SideMarks(marks)}
        whole = configured.get_control(x, sigma, cond, 2, options)["output"][0]
        assert sides.KEY not in cond
        assert not whole[0].any()
        assert whole[1].any()
        options["cond_or_uncond"] = [BOTH_SIDES["cond_or_uncond"][part] for part in kept]  # type: ignore[index]
        given = x[kept], sigma[:1].expand(len(kept)), {"c_crossattn": context[kept]}
        found = configured.get_control(*given, len(kept), options)
        silent = configured.get_control(*given, len(kept), {**options, "cond_or_uncond": [1, 0, 1, 0]})["output"][0]
    assert silent.flatten(1).any(1).all()
    if 1 not in kept:
        assert found is None
    else:
        assert (found["output"][0] - whole[kept]).abs().max() <= 1e-5 * whole.abs().max()


@torch.no_grad()
def test_sides_taken_apart_before_a_net_was_asked_are_unknown(extension: Extension, net: HostObject) -> None:
    sides = extension.module("nodes.bridge.control.sides")
    configured = apply(extension, net, side="conditional")
    begin(configured)
    marks = sides.SideMarks([{configured.applied.name: side} for side in ("unconditional", "conditional")])
    cond = {"c_crossattn": noise(1, 5, 128, seed=4), sides.KEY: marks}
    found = configured.get_control(noise(1, 4, 8, 8, seed=3), torch.full((1,), 2.0), cond, 1, {"cond_or_uncond": [1]})
    assert found["output"][0].any()
    assert sides.SIDE_UNKNOWN in configured.run.warnings.shown


def test_blocks_without_weight_are_none_and_keep_their_place(extension: Extension, net: HostObject) -> None:
    count = len(TINY.skip_channels)
    configured = apply(extension, net, curve="custom", block_weights=" ".join(["1", *["0"] * count]))
    begin(configured)
    control = control_of(configured)
    assert control["output"][0].abs().max() > 0
    assert control["output"][1:] == [None] * (count - 1)
    assert control["middle"] == [None]


def test_an_interrupted_run_leaves_nothing_for_the_next(extension: Extension, net: HostObject) -> None:
    configured = apply(extension, net)
    begin(configured)
    control_of(configured)
    interrupted = configured.run
    begin(configured)  # and no cleanup before it
    assert configured.run is not interrupted and not configured.run.embedded_hints
    configured.cleanup()
    assert configured.run is None


def test_each_hint_belongs_to_its_picture_on_both_sides(extension: Extension, net: HostObject) -> None:
    hints = torch.rand(3, 64, 64, 3)
    together = apply(extension, net, hints)
    begin(together)
    found = control_of(together, pictures=3)["output"]
    for picture in range(3):
        alone = apply(extension, net, hints[picture : picture + 1])
        begin(alone)
        expected = control_of(alone, pictures=3)["output"]
        for one, other in zip(found, expected, strict=True):
            for row in (picture, 3 + picture):
                assert (one[row] - other[row]).abs().max() <= 1e-5 * other.abs().max()


WINDOWS: dict[str, dict[str, Any]] = {
    "of ComfyUI": {"context_window": SimpleNamespace(dim=0, index_list=[2, 4], total_frames=5)},
    "of ComfyUI, with an anchor": {
        "context_window": SimpleNamespace(dim=0, index_list=[4], causal_anchor_index=2, total_frames=5)
    },
    "of AnimateDiff-Evolved": {"ad_params": {"sub_idxs": [2, 4], "full_length": 5, "context_length": 2}},
}


@pytest.mark.parametrize("window", WINDOWS)
def test_in_a_window_of_the_batch_hints_follow_their_pictures(
    extension: Extension, net: HostObject, window: str
) -> None:
    hints = torch.rand(5, 64, 64, 3)
    found, alone = apply(extension, net, hints), apply(extension, net, hints[[2, 4]])
    for configured in (found, alone):
        begin(configured)
    assert hasattr(found, "sub_idxs"), "AnimateDiff-Evolved refuses a net without it"
    given = control_of(found, pictures=2, sigmas=torch.full((2,), 2.0), **WINDOWS[window])["output"]
    expected = control_of(alone, pictures=2)["output"]
    for one, other in zip(given, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_one_hint_for_all_windows_is_encoded_once(
    extension: Extension, net: HostObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured, encoded = apply(extension, net), []
    original = type(net.net).embed_hint

    def counted(net: ControlNet, hint: Tensor) -> Tensor:
        encoded.append(len(hint))
        embedded: Tensor = original(net, hint)
        return embedded

    monkeypatch.setattr(type(net.net), "embed_hint", counted)
    begin(configured)
    for frames in ([0, 1], [2, 3], [3, 4]):
        window = SimpleNamespace(dim=0, index_list=frames, total_frames=5)
        control_of(configured, pictures=2, sigmas=torch.full((2,), 2.0), context_window=window)
    assert encoded == [1]


@pytest.mark.parametrize(
    "sizes",
    [
        {"context_dim": 768},
        {"channel_mult": [1, 2, 4]},
        {"model_channels": 320},
        {"num_res_blocks": [2, 2]},
        {"in_channels": 3},
    ],
)
def test_another_model_is_refused_before_the_first_step(
    extension: Extension, net: HostObject, sizes: dict[str, Any]
) -> None:
    configured = apply(extension, net)
    with extension.refusing("FamilyMismatchError", "protocol_tiny"):
        configured.pre_run(Model(**sizes), SCHEDULE.sigma_at)
    for widened in (8, 9, 12, 20):  # for inpainting, a light, or anything else
        configured.pre_run(Model(in_channels=widened), SCHEDULE.sigma_at)
    configured.pre_run(Model(adm_in_channels=2048), SCHEDULE.sigma_at)  # an image-guided model


def test_another_familys_prompt_is_refused_with_the_nets_that_fit(extension: Extension, net: HostObject) -> None:
    narrow = replace(SD15, model_channels=32, channel_mult=(1,), num_res_blocks=1, transformer_depth=(1,))
    save_controlnet(randomised(ControlNet(narrow)), extension.folder / "protocol_sd15.safetensors")
    wide = {"positive": conditioning(width=768), "negative": conditioning(width=768)}
    with extension.refusing("FamilyMismatchError", r"SD1\.5 \(text width 768\).*protocol_sd15"):
        apply(extension, net, None, **wide)
    assert "protocol_tiny.safetensors, a net for TINY" in extension.texts[-1][1]
    (extension.folder / "protocol_sd15.safetensors").unlink()


@pytest.mark.parametrize(
    "entry", [("net",), "text", ("net", "no image", 1.0), ("net", torch.zeros(1, 8, 8, 3), 1.0, 0.0)]
)
def test_a_stack_of_another_shape_is_refused(extension: Extension, net: HostObject, entry: object) -> None:
    given = {"control_net": net, "image": torch.rand(1, 64, 64, 3), "strength": 1.0}
    with extension.refusing("SettingError", "entry 1 of the stack"):
        extension.run("StackControlNets", **given, start_percent=0.0, end_percent=1.0, stack=[entry])


def test_a_loader_sees_when_a_file_changes(extension: Extension, net: HostObject) -> None:
    loader = extension.nodes["LoadControlNet"]
    path = Path(extension.folder / "protocol_tiny.safetensors")
    before = loader.fingerprint_inputs(control_net_name=path.name)
    assert loader.fingerprint_inputs(control_net_name=path.name) == before
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    assert loader.fingerprint_inputs(control_net_name=path.name) != before
    path.write_bytes(content)


def test_a_small_net_that_the_core_does_not_read_is_left_to_the_host(
    extension: Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = extension.module("nodes.bridge.loading.host_loader")
    path = extension.folder / "protocol_small.safetensors"
    save_controlnet(ControlNet(replace(TINY, vector_dim=32)), path)
    small = {key: tensor for key, tensor in load_file(path).items() if not key.startswith("middle_block.1.")}
    save_file(small, path)
    given: list[dict[str, Tensor]] = []

    def load(weights: dict[str, Tensor], model_options: dict[str, bool]) -> str:
        given.append(weights)
        return f"the host's net, {model_options}"

    monkeypatch.setattr(loading.comfy.controlnet, "load_controlnet_state_dict", load)
    loaded, report = extension.run("LoadControlNet", control_net_name="protocol_small.safetensors")
    assert loaded == "the host's net, {'global_average_pooling': False}"
    assert given[0].keys() == small.keys() and all(torch.equal(given[0][key], small[key]) for key in small)
    assert "read by ComfyUI's own loader" in report and "without transformer in its middle" in report
    averaged = {"control_net_name": "protocol_small.safetensors", "average_residuals": "yes"}
    loaded, report = extension.run("LoadControlNet", **averaged)
    assert loaded == "the host's net, {'global_average_pooling': True}"
    assert "that loader does not average the residuals of such a net" in report
