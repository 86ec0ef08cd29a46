"""The paper's counts of Stable Diffusion's parts at the real sizes; and every name in its page exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from controlnet_core.config import FAMILIES, SD15
from controlnet_core.model.attention import Attention, SpatialTransformer, TransformerBlock
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.blocks import Block, MiddleBlock, ResidualBlock
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.layers import Downsample, Upsample
from controlnet_core.model.unet import UNet

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "paper.md"
REFERENCE = re.compile(r"`([\w/.-]+\.(?:py|md|json|png))(?:::(\w+(?:\.\w+)?))?`")


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in module.modules())


@pytest.fixture(scope="module")
def unet() -> UNet:
    return UNet(SD15, device="meta")


def test_stable_diffusion_has_12_encoder_blocks_a_middle_block_and_12_decoder_blocks(unet: UNet) -> None:
    x, context = torch.empty(1, 4, 64, 64, device="meta"), torch.empty(1, 77, 768, device="meta")
    features = unet.encode(x, torch.empty(1, device="meta"), context)
    assert len(features.skips) == 12 and features.middle.shape == (1, 1280, 8, 8)
    heights = [skip.shape[-1] for skip in features.skips]
    assert heights == [64] * 3 + [32] * 3 + [16] * 3 + [8] * 3, "blocks A, B, C and D of figure 3, three of each"
    assert count(unet.decoder, Block) == 12
    assert unet.decode(features, context).shape == x.shape


def test_the_papers_count_of_layers_against_the_real_ones(unet: UNet) -> None:
    """"8 blocks are down-sampling or up-sampling convolution layers, the other 17 are main blocks that each contain
    4 resnet layers and 2 Vision Transformers": of these, 25 blocks in all is what holds."""
    assert len(SD15.skip_channels) + 1 + count(unet.decoder, Block) == 25
    assert (count(unet, Downsample), count(unet, Upsample)) == (3, 3)
    assert count(unet, ResidualBlock) == 8 + 2 + 12
    assert count(unet, SpatialTransformer) == 6 + 1 + 9
    assert count(unet.encoder, MiddleBlock) == 1


def test_each_transformer_attends_to_the_picture_and_to_the_text(unet: UNet) -> None:
    blocks = [part for part in unet.modules() if isinstance(part, TransformerBlock)]
    assert len(blocks) == 16 and count(unet, Attention) == 32
    for block in blocks:
        own, text = block.self_attention, block.cross_attention
        assert own.get_submodule("key").in_features == own.get_submodule("query").in_features
        assert text.get_submodule("key").in_features == 768


def test_the_trainable_copy_is_of_the_encoder_and_the_middle_with_13_zero_convolutions() -> None:
    net = ControlNet(SD15, device="meta")
    assert count(net.encoder, ResidualBlock) == 10
    assert count(net.encoder, SpatialTransformer) == 7
    assert count(net.encoder, Downsample) == 3
    assert len(net.zero_convolutions) + 1 == 13
    for convolution in (*net.zero_convolutions, net.middle_zero_convolution):
        assert isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (1, 1)


@pytest.mark.parametrize("hint_encoder", ["reference", "paper"])
def test_512_pixels_become_64_in_autoencoder_and_hint_encoder(hint_encoder: str) -> None:
    net = ControlNet(SD15, hint_encoder=hint_encoder, device="meta")  # type: ignore[arg-type]  # both are kinds
    assert net.embed_hint(torch.empty(1, 3, 512, 512, device="meta")).shape == (1, 320, 64, 64)
    autoencoder = Autoencoder(FAMILIES["SD1.5"].autoencoder, device="meta")
    assert autoencoder.encode(torch.empty(1, 3, 512, 512, device="meta")).mean.shape == (1, 4, 64, 64)


def defined(path: Path) -> set[str]:
    """The functions, classes, methods and module-level values of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AnnAssign)]
            names |= {
                f"{node.name}.{part.name if isinstance(part, ast.FunctionDef) else ast.unparse(part.target)}"
                for part in inside
            }
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_the_page_of_the_paper_names_what_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    references = REFERENCE.findall(text)
    assert len(references) >= 60
    for file, name in references:
        path = ROOT / file
        assert path.is_file(), f"{PAGE.name} names {file}"
        assert not name or name in defined(path), f"{PAGE.name} names {name} in {file}"
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (PAGE.parent / picture).is_file(), f"{PAGE.name} shows {picture}"


def test_the_page_of_the_paper_has_no_empty_cell() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(rows) >= 20
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(cells), f"an empty cell in {row[:80]}"


@pytest.mark.parametrize(
    "phrase",
    [
        "block equation",
        "zero convolution",
        "trainable copy",
        "locked",
        "multi-head attention",
        "hint encoder",
        "prompt drop",
        "always be able to predict good images",
        "sudden convergence",
        "CFG resolution weighting",
    ],
)
def test_the_papers_words_are_found_in_the_code(phrase: str) -> None:
    sources = [*(ROOT / "controlnet_core").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert re.search(re.escape(phrase).replace(r"\ ", r"\s+"), text, re.IGNORECASE), phrase
