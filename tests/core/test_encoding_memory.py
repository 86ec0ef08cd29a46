"""What encoding takes beyond the weights, counted with fake tensors at the families' real sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from controlnet_core.base import PIXELS_AT_ONCE, Base, pictures_at_once
from controlnet_core.config import FAMILIES
from controlnet_core.data.cache import encode_dataset
from controlnet_core.model.autoencoder import Autoencoder, LatentDistribution
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.tokenizer import PromptTokenizer, Tokens
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.live_memory import LiveMemory
from tests.support.bases import small_base
from tests.support.live_memory import peak_gib
from tests.support.reduced import difference, noise

MOST = 3.0
SCHEDULE = NoiseSchedule.scaled_linear()
REAL = [name for name in FAMILIES if name != "TINY"]


class AnyTokens(PromptTokenizer):
    """Token numbers that say nothing."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Zeros."""
        count = len(prompts)
        return Tokens(torch.zeros(count, self.length, dtype=torch.long), torch.zeros(count, dtype=torch.long))


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors that have shapes and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def real_base(name: str, dtype: torch.dtype) -> tuple[Base, list[Tensor]]:
    """A base of the real size, whose UNet is a single layer since it encodes nothing; and its weights."""
    family = FAMILIES[name]
    texts = tuple(TextEncoder(config, dtype=dtype) for config in family.text_encoders)
    autoencoder, unet = Autoencoder(family.autoencoder), OneLayer(dtype)
    tokenizers = tuple(AnyTokens(config.context_length) for config in family.text_encoders)
    base = Base(family, unet, autoencoder, texts, tokenizers, SCHEDULE, family.prediction, name)  # type: ignore[arg-type]
    return base, [weight for module in (unet, autoencoder, *texts) for weight in module.parameters()]


class OneLayer(nn.Module):
    """What `Base` asks of a UNet: a device and a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, dtype=dtype)
        self.dtype = dtype


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", REAL)
def test_encoding_takes_at_most_3_gib_beyond_the_weights(name: str, dtype: torch.dtype) -> None:
    base, weights = real_base(name, dtype)
    side = base.family.image_size
    pictures = torch.empty(16, 3, side, side)
    latents = torch.empty(16, 4, side // 8, side // 8)
    peaks = {
        "16 pictures": peak_gib(lambda: base.encode_images(pictures), [*weights, pictures]),
        "16 captions": peak_gib(lambda: base.encode_text([""] * 16, (side, side)), weights),
    }
    decoded = peak_gib(lambda: base.decode_latents(latents), [*weights, latents])
    at_once = peak_gib(lambda: base.autoencoder.encode(pictures), [*weights, pictures])
    print(f"\n{name} at {side} pixels: {peaks} GiB, decoding {decoded:.2f}; {at_once:.1f} for 16 pictures at once")
    assert max(peaks.values()) <= MOST
    assert decoded <= MOST + pictures.nbytes / 2**29, "the autoencoder's share, and the pictures before and after"
    assert at_once > 3 * MOST, "the count would not see a batch that is too large"


@pytest.mark.parametrize(("size", "count"), [(64, 256), (256, 16), (512, 4), (768, 1), (1024, 1), (2048, 1)])
def test_a_batch_of_the_autoencoder_is_counted_in_pixels(size: int, count: int) -> None:
    assert pictures_at_once(size, size) == count
    assert count == 1 or count * size * size <= PIXELS_AT_ONCE


def test_parts_are_encoded_and_decoded_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    base, pictures = small_base(), noise(5, 3, 32, 48, seed=1).sigmoid()
    whole = base.encode_images(pictures)
    drawn = base.decode_latents(whole.mean)
    sizes: list[int] = []
    encode = Autoencoder.encode

    def counted(autoencoder: Autoencoder, pixels: Tensor) -> LatentDistribution:
        sizes.append(len(pixels))
        return encode(autoencoder, pixels)

    monkeypatch.setattr("controlnet_core.base.PIXELS_AT_ONCE", 2 * 32 * 48)
    monkeypatch.setattr(Autoencoder, "encode", counted)
    parts = base.encode_images(pictures)
    assert sizes == [2, 2, 1]
    found = parts.mean, parts.log_variance, base.decode_latents(whole.mean)
    wanted = whole.mean, whole.log_variance, drawn
    worst = max(difference(one, other) for one, other in zip(found, wanted, strict=True))
    assert worst <= 1e-5, f"largest difference {worst}"


def test_the_cache_tells_of_each_batch_of_the_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlnet_core.base.PIXELS_AT_ONCE", 3 * 32 * 32)
    seen: list[int] = []
    encode_dataset(small_base(), ShapesDataset(7, 32, seed=0), tmp_path, lambda done, total: seen.append(done))
    assert seen[:3] == [3, 6, 7]


def test_freed_memory_does_not_count() -> None:
    with LiveMemory() as memory:
        for _ in range(3):
            kept = torch.zeros(1000)
            torch.zeros(500)
    assert kept.nbytes == 4000 and 6000 <= memory.peak <= 10_000
