"""Graphs of every kind that people build, with our nodes and with the native ones: the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.host.graphs import Drawing, Link
from tests.host.host import Host, largest_difference
from tests.host.models import Models
from tests.support.reduced import noise

LATENTS = 3e-5
ACTS = 1e-2
"""How much a picture must at least change by control, lest a graph without any passes."""

Build = Callable[[Drawing], None]


def apply_and_draw(drawing: Drawing, **settings: str | float) -> None:
    """One net, then the sampler."""
    drawing.apply(drawing.net("a"), drawing.images())
    drawing.sample("latent", **settings)


def our_net_in_native_apply(drawing: Drawing) -> None:
    drawing.apply(drawing.net("a"), drawing.images(), 0.8, 0.1, 0.9, ours=False)
    drawing.sample()


def native_net_in_our_apply(drawing: Drawing) -> None:
    drawing.apply(drawing.net("a", ours=False), drawing.images(), 0.8, 0.1, 0.9)
    drawing.sample()


def our_net_then_native_net(drawing: Drawing) -> None:
    drawing.apply(drawing.net("a"), drawing.images(3), 0.8)
    drawing.apply(drawing.net("b", ours=False), drawing.images(4), 0.6, ours=False)
    drawing.sample()


def native_net_then_our_net(drawing: Drawing) -> None:
    drawing.apply(drawing.net("a", ours=False), drawing.images(3), 0.8, ours=False)
    drawing.apply(drawing.net("b"), drawing.images(4), 0.6)
    drawing.sample()


def stack_of_both_kinds(drawing: Drawing) -> None:
    """Three nets; ours go through the stack node, one of them a native net."""
    nets = [drawing.net("a"), drawing.net("b", ours=False), drawing.net("a")]
    hints = [drawing.images(seed) for seed in (3, 4, 5)]
    if not drawing.ours:
        for net, hint in zip(nets, hints, strict=True):
            drawing.apply(net, hint, 0.5)
        drawing.sample()
        return
    stack: dict[str, Link] = {}
    for net, hint in zip(nets, hints, strict=True):
        last = net is nets[-1]
        prompts = {"positive": drawing.positive, "negative": drawing.negative} if last else {}
        window = {"strength": 0.5 * drawing.strength_factor, "start_percent": 0.0, "end_percent": 1.0}
        node = drawing.add("StackControlNets", control_net=net, image=hint, **window, **stack, **prompts)
        stack = {"stack": [node, 0]}
    drawing.positive, drawing.negative = [node, 1], [node, 2]
    drawing.sample()


def legacy_apply_to_both_sides(drawing: Drawing) -> None:
    """The deprecated native node, which lets ComfyUI copy the net to the negative side."""
    node = drawing.add(
        "ControlNetApply",
        conditioning=drawing.positive,
        control_net=drawing.net("a"),
        image=drawing.images(),
        strength=0.8 * drawing.strength_factor,
    )
    drawing.positive = [node, 0]
    drawing.sample()


def positive_alone(drawing: Drawing) -> None:
    """A net on one side only, so that ComfyUI runs the two sides apart."""
    negative = drawing.negative
    drawing.apply(drawing.net("a"), drawing.images())
    drawing.sample(negative=negative)


def area_conditioning(drawing: Drawing) -> None:
    """Two areas of different size, each with a net, and the whole picture."""
    whole = drawing.positive
    drawing.apply(drawing.net("a"), drawing.images())
    both = drawing.positive
    for width, height, x, y in ((64, 128, 0, 0), (64, 64, 64, 32)):
        area = {"width": width, "height": height, "x": x, "y": y, "strength": 1.0}
        placed = drawing.add("ConditioningSetArea", conditioning=drawing.positive, **area)
        both = [drawing.add("ConditioningCombine", conditioning_1=both, conditioning_2=[placed, 0]), 0]
    both = [drawing.add("ConditioningCombine", conditioning_1=both, conditioning_2=whole), 0]
    drawing.sample(positive=both)


def mask_conditioning(drawing: Drawing) -> None:
    """Two prompts in two masks, only one of them with a net, the mask's bounds as area."""
    other = drawing.conditioning(9)
    drawing.apply(drawing.net("a"), drawing.images())
    masked: list[Link] = []
    for conditioning, bounds in ((drawing.positive, "mask bounds"), (other, "default")):
        solid = [drawing.add("SolidMask", value=0.0, width=128, height=128), 0]
        patch = [drawing.add("SolidMask", value=1.0, width=64, height=96), 0]
        mask = drawing.add("MaskComposite", destination=solid, source=patch, x=16, y=16, operation="add")
        node = drawing.add(
            "ConditioningSetMask", conditioning=conditioning, mask=[mask, 0], strength=1.0, set_cond_area=bounds
        )
        masked.append([node, 0])
    both = drawing.add("ConditioningCombine", conditioning_1=masked[0], conditioning_2=masked[1])
    drawing.sample(positive=[both, 0])


def timestep_ranges(drawing: Drawing) -> None:
    """One prompt with the net for the beginning, another without it for the rest."""
    plain = drawing.conditioning(9)
    drawing.apply(drawing.net("a"), drawing.images())
    early = drawing.add("ConditioningSetTimestepRange", conditioning=drawing.positive, start=0.0, end=0.5)
    late = drawing.add("ConditioningSetTimestepRange", conditioning=plain, start=0.5, end=1.0)
    both = drawing.add("ConditioningCombine", conditioning_1=[early, 0], conditioning_2=[late, 0])
    drawing.sample(positive=[both, 0])


def hooks(drawing: Drawing) -> None:
    """A LoRA as a hook on the conditioning, changing over the schedule."""
    lora = drawing.add("CreateHookLora", lora_name="test_lora.safetensors", strength_model=1.0, strength_clip=0.0)
    frames = drawing.add("CreateHookKeyframe", strength_mult=0.5, start_percent=0.4)
    timed = drawing.add("SetHookKeyframes", hooks=[lora, 0], hook_kf=[frames, 0])
    drawing.apply(drawing.net("a"), drawing.images())
    node = drawing.add(
        "PairConditioningSetProperties",
        positive_NEW=drawing.positive,
        negative_NEW=drawing.negative,
        strength=1.0,
        set_cond_area="default",
        hooks=[timed, 0],
    )
    drawing.sample(positive=[node, 0], negative=[node, 1])


def hires_fix(drawing: Drawing) -> None:
    """The same conditioning again, on larger latents."""
    drawing.apply(drawing.net("a"), drawing.images())
    first = drawing.sample("small", steps=2)
    larger = drawing.add(
        "LatentUpscale", samples=[first, 0], upscale_method="nearest-exact", width=192, height=192, crop="disabled"
    )
    drawing.sample(latent_image=[larger, 0], steps=4, denoise=0.5)


def image_to_image(drawing: Drawing) -> None:
    """A start between noise and picture."""
    first = drawing.sample("before", steps=2)
    drawing.apply(drawing.net("a"), drawing.images())
    drawing.sample(latent_image=[first, 0], steps=4, denoise=0.6)


GRAPHS: dict[str, tuple[Build, dict[str, object]]] = {
    "our net in the native Apply node": (our_net_in_native_apply, {}),
    "native net in our Apply node": (native_net_in_our_apply, {}),
    "our net, then a native one": (our_net_then_native_net, {}),
    "native net, then ours": (native_net_then_our_net, {}),
    "a stack of both kinds": (stack_of_both_kinds, {}),
    "control_apply_to_uncond": (legacy_apply_to_both_sides, {}),
    "on the positive side alone": (positive_alone, {}),
    "area conditioning": (area_conditioning, {}),
    "mask conditioning": (mask_conditioning, {}),
    "timestep ranges": (timestep_ranges, {}),
    "hooks": (hooks, {}),
    "hires fix": (hires_fix, {}),
    "image to image": (image_to_image, {}),
    "CFG 1": (lambda drawing: apply_and_draw(drawing, cfg=1.0), {}),
    "heun": (lambda drawing: apply_and_draw(drawing, sampler_name="heun"), {}),
    "dpm_2": (lambda drawing: apply_and_draw(drawing, sampler_name="dpm_2", scheduler="karras"), {}),
    "uni_pc": (lambda drawing: apply_and_draw(drawing, sampler_name="uni_pc"), {}),
    "batch of 3": (apply_and_draw, {"count": 3}),
    "latents of 17 x 13": (apply_and_draw, {"size": (136, 104)}),
    "wide latents": (apply_and_draw, {"size": (256, 64)}),
}


def hint_graph(size: tuple[int, int] | None, count: int) -> Build:
    """One net with hints of another size or number than the pictures."""

    def build(drawing: Drawing) -> None:
        drawing.apply(drawing.net("a"), drawing.images(3, size, count))
        drawing.sample()

    return build


GRAPHS |= {
    "larger hint": (hint_graph((512, 512), 1), {}),
    "smaller hint": (hint_graph((57, 57), 1), {}),
    "wider hint": (hint_graph((300, 120), 1), {}),
    "taller hint on wide latents": (hint_graph((120, 300), 1), {"size": (192, 64)}),
    "a hint for each picture": (hint_graph(None, 3), {"count": 3}),
    "fewer hints than pictures": (hint_graph((200, 100), 2), {"count": 3}),
    "more hints than pictures": (hint_graph(None, 3), {"count": 2}),
}
FOR_SDXL = ("our net in the native Apply node", "native net, then ours", "area conditioning", "hires fix", "wider hint")
RUNS = [("sd15", name) for name in GRAPHS] + [("sdxl", name) for name in FOR_SDXL]


@pytest.fixture(scope="session")
def lora(models: Models) -> Path:
    """A LoRA of random weights for the reduced SD1.5."""
    import folder_paths

    path = models.folder / "loras" / "test_lora.safetensors"
    path.parent.mkdir()
    name = "lora_unet_output_blocks_2_1_transformer_blocks_0_attn2_to_v"
    shapes = {"lora_up": (320, 4), "lora_down": (4, 768)}
    tensors = {f"{name}.{part}.weight": 0.05 * noise(*shape, seed=len(part)) for part, shape in shapes.items()}
    save_file({**tensors, f"{name}.alpha": torch.tensor(4.0)}, path)
    folder_paths.add_model_folder_path("loras", str(path.parent))
    return path


@pytest.mark.usefixtures("lora")
@pytest.mark.parametrize(("family", "name"), RUNS)
def test_the_same_picture_as_with_native_nodes(host: Host, family: str, name: str) -> None:
    build, options = GRAPHS[name]

    def draw(ours: bool, controlled: bool = True) -> torch.Tensor:
        drawing = Drawing(family, ours, **options)  # type: ignore[arg-type]
        drawing.strength_factor = 1.0 if controlled else 0.0
        build(drawing)
        latents: torch.Tensor = host.run(drawing.graph)["latent"]["samples"]
        return latents

    native, ours, without = draw(ours=False), draw(ours=True), draw(ours=False, controlled=False)
    found, effect = largest_difference(ours, native), largest_difference(without, native)
    print(f"\n{family}, {name}: latents {found:.1e}; control changes them by {effect:.1e}")
    assert effect >= ACTS
    assert found <= LATENTS
