"""The small base as ComfyUI's own MODEL, CLIP and VAE, beside the same in the core."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from controlnet_core.base import Base
from controlnet_core.control.stack import Control
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.scores import following_scores
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import TINY_FOLDER, load_base
from tests.host.core_drawing import GUIDANCE, SEED, STEPS_OF_DRAWING, STRENGTH, draw_with_core
from tests.host.graphs import Builder, Link
from tests.host.host import Host, largest_difference, recorded_forwards

NET = "tiny_outline.safetensors"
PICTURES = 64
SCORES = 0.02
ENCODINGS = 1e-5
LATENTS = 3e-5


@pytest.fixture(scope="module")
def base() -> Base:
    """The small base in the core."""
    return load_base("tiny")


class SmallDrawing(Builder):
    """A graph on the small base."""

    def __init__(self) -> None:
        super().__init__()
        node = self.add("ControlNetCoreTinyBase")
        self.model, self.clip, self.vae = ([node, output] for output in range(3))

    def text(self, prompt: str) -> Link:
        """Encode a prompt."""
        return [self.add("CLIPTextEncode", text=prompt, clip=self.clip), 0]

    def draw(self, positive: Link, negative: Link, count: int, name: str = "pictures") -> None:
        """Draw and decode."""
        latent = self.add("EmptyLatentImage", width=64, height=64, batch_size=count)
        sampler = self.add(
            "KSampler",
            model=self.model,
            positive=positive,
            negative=negative,
            latent_image=[latent, 0],
            seed=1,
            steps=10,
            cfg=3.0,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=1.0,
        )
        self.capture(name, [self.add("VAEDecode", samples=[sampler, 0], vae=self.vae), 0])


@pytest.mark.parametrize("prompt", ["a red circle on a blue background", "", "a green star, left, (and) more words"])
def test_prompts_are_encoded_as_in_the_core(host: Host, base: Base, prompt: str) -> None:
    drawing = SmallDrawing()
    drawing.capture("text", drawing.text(prompt.replace("(and)", r"\(and\)")))
    given = host.run(drawing.graph)["text"][0][0]
    expected = base.encode_text([prompt], (64, 64)).context
    found = largest_difference(given, expected)
    print(f"\n{prompt!r}: {found:.1e}")
    assert found <= ENCODINGS


def test_pictures_are_encoded_and_decoded_as_in_the_core(host: Host, base: Base) -> None:
    drawing = SmallDrawing()
    shapes = drawing.add("ControlNetCoreShapes", seed=3, count=4, hint="outline")
    drawing.capture("shapes", [shapes, 1])
    latent = drawing.add("VAEEncode", pixels=[shapes, 1], vae=drawing.vae)
    drawing.capture("latent", [latent, 0])
    drawing.capture("decoded", [drawing.add("VAEDecode", samples=[latent, 0], vae=drawing.vae), 0])
    captured = host.run(drawing.graph)
    with torch.no_grad():
        mean = base.encode_images(captured["shapes"].movedim(-1, 1)).mean
        decoded = base.decode_latents(mean).movedim(1, -1)
    latents = largest_difference(captured["latent"]["samples"] * 0.18215, mean)
    pictures = largest_difference(captured["decoded"], decoded)
    print(f"\nlatents {latents:.1e}, pictures {pictures:.1e}")
    assert latents <= ENCODINGS and pictures <= ENCODINGS


def test_drawn_pictures_follow_their_hints_as_the_cores_do(host: Host, base: Base) -> None:
    pairs = ShapesDataset(PICTURES, 64, seed=0, held_out=True)
    scenes = pairs.scenes(range(PICTURES))
    drawing = SmallDrawing()
    hints = drawing.add("ControlNetCoreShapes", seed=0, count=PICTURES, hint="outline")
    apply = drawing.add(
        "ApplyControlNet",
        positive=drawing.text(""),
        negative=drawing.text(""),
        control_net=[drawing.add("LoadControlNet", control_net_name=NET), 0],
        image=[hints, 0],
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        side="conditional",
    )
    drawing.draw([apply, 0], [apply, 1], PICTURES)
    in_host = host.run(drawing.graph)["pictures"].movedim(-1, 1)
    net = load_controlnet(TINY_FOLDER / "nets" / NET, dtype=torch.float32)
    control = Control(net, pairs.hints(range(PICTURES)), side="conditional")
    settings = SamplingSettings(steps=10, guidance=3.0)
    in_core = generate(base, [""] * PICTURES, [control], settings=settings)
    scores = [following_scores(pictures, scenes).mean().item() for pictures in (in_host, in_core)]
    print(f"\nfollowing without a prompt: {scores[0]:.3f} in ComfyUI, {scores[1]:.3f} in the core")
    assert abs(scores[0] - scores[1]) <= SCORES
    assert scores[1] > 0.8


@pytest.mark.parametrize("curve", ["flat", "cfg_resolution", "cfg_resolution_normalised", "guess"])
def test_the_node_draws_what_the_core_draws(host: Host, base: Base, curve: str) -> None:
    drawing = SmallDrawing()
    hint: Link = [drawing.add("ControlNetCoreShapes", seed=0, count=1, hint="outline"), 0]
    drawing.capture("hint", hint)
    apply = drawing.add(
        "ApplyControlNet",
        positive=drawing.text("a red circle"),
        negative=drawing.text(""),
        control_net=[drawing.add("LoadControlNet", control_net_name=NET), 0],
        image=hint,
        strength=STRENGTH,
        start_percent=0.0,
        end_percent=1.0,
        curve=curve,
    )
    latent = drawing.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampler = drawing.add(
        "KSampler",
        model=drawing.model,
        positive=[apply, 0],
        negative=[apply, 1],
        latent_image=[latent, 0],
        seed=SEED,
        steps=STEPS_OF_DRAWING,
        cfg=GUIDANCE,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    drawing.capture("latent", [sampler, 0])
    with recorded_forwards() as forwards:
        captured = host.run(drawing.graph)
    net = load_controlnet(TINY_FOLDER / "nets" / NET, dtype=torch.float32)
    expected = draw_with_core(base.unet, net, curve, captured["hint"], forwards[0], (8, 8))
    found = largest_difference(captured["latent"]["samples"] * 0.18215, expected)
    print(f"\n{curve}: {found:.1e}")
    assert found <= LATENTS


def test_prompt_weights_act(host: Host) -> None:
    """`(red:1.3)` moves the embedding of that word alone, away from that of the empty prompt."""
    drawing = SmallDrawing()
    for name, prompt in {"plain": "a red circle", "weighted": "a (red:1.3) circle", "empty": ""}.items():
        drawing.capture(name, drawing.text(prompt))
    captured = host.run(drawing.graph)
    plain, weighted, empty = (captured[name][0][0][0] for name in ("plain", "weighted", "empty"))
    red = 2  # after the start token and "a"
    moved = (weighted - plain).abs().amax(dim=-1) > 0
    assert moved.nonzero().flatten().tolist() == [red]
    assert largest_difference(weighted[red], empty[red] + 1.3 * (plain[red] - empty[red])) <= ENCODINGS


def test_the_stock_loader_reads_a_net_of_the_small_base(host: Host) -> None:
    def draw(ours: bool) -> tuple[Tensor, list[Tensor]]:
        drawing = SmallDrawing()
        hints = drawing.add("ControlNetCoreShapes", seed=0, count=2, hint="outline")
        net = [drawing.add("LoadControlNet" if ours else "ControlNetLoader", control_net_name=NET), 0]
        apply = drawing.add(
            "ApplyControlNet" if ours else "ControlNetApplyAdvanced",
            positive=drawing.text("a red circle"),
            negative=drawing.text(""),
            control_net=net,
            image=[hints, 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        drawing.draw([apply, 0], [apply, 1], 2)
        with recorded_forwards() as forwards:
            pictures: Tensor = host.run(drawing.graph)["pictures"]
        return pictures, forwards[0].residuals

    (ours, our_residuals), (native, native_residuals) = draw(ours=True), draw(ours=False)
    residuals = max(map(largest_difference, our_residuals, native_residuals))
    pictures = largest_difference(ours, native)
    print(f"\nresiduals {residuals:.1e}, pictures {pictures:.1e}")
    assert residuals <= 1e-4
    assert pictures <= 1e-3
