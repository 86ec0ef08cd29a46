"""Train the small base that ships with the package, from nothing, by one seeded and resumable script.

    python -m controlnet_core.toy.make_base --out runs/tiny

First the vocabulary, then the autoencoder, then UNet and text encoder together, and finally the decoder once more.
Each stage saves its state every hundred steps, and a second call resumes from there. The shipped file was made with the
defaults on the CPU, in about two hours of one core (AMD EPYC, AVX-512). Shapes come late, as the learning rate falls:
after 6,600 steps the UNet drew the caption's shape in a third of its pictures, at the end in more than half.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ..config import CLIP_TINY, FAMILIES, TINY
from ..keyed import keyed_generator, keyed_seed
from ..model.autoencoder import Autoencoder, LatentDistribution
from ..model.text_encoder import TextEncoder
from ..model.unet import UNet
from ..prediction import network_input, noised
from ..schedule import NoiseSchedule
from ..tokenizer import PromptTokenizer, Tokens
from ..whole_file import whole_file
from .drawing import images
from .initialise import start_as_average, start_quietly
from .scenes import captions, draw_scenes
from .stage import Stage
from .vocabulary import write_vocabulary

SIZE = FAMILIES["TINY"].image_size
DIVERGENCE_WEIGHT = 1e-5
QUARTERS_SHARE = 0.85
SIGMA_SPREAD = 1.2
"""Deviation of log(sigma) in the training of the UNet; its mean is 0, where noise and latents are equally strong."""
EMPTY_CAPTIONS = 0.15


@dataclass(frozen=True)
class TinySettings:
    """The settings of the small base's training.

    Attributes:
        out: The folder of the run.
        device: Where to train.
        seed: Seeds everything.
        autoencoder_steps: Steps of the autoencoder.
        autoencoder_batch: Its batch size.
        base_steps: Steps of UNet and text encoder.
        base_batch: Their batch size.
        pictures: How many scenes the UNet sees.
        decoder_steps: Steps of the decoder alone, at the end.
        decoder_batch: Its batch size.
    """

    out: Path
    device: str
    seed: int
    autoencoder_steps: int
    autoencoder_batch: int
    base_steps: int
    base_batch: int
    pictures: int
    decoder_steps: int
    decoder_batch: int

    def generator(self, *key: int | str) -> torch.Generator:
        """A generator on the training device, for one draw."""
        return torch.Generator(self.device).manual_seed(keyed_seed("tiny", self.seed, *key))

    def autocast(self) -> torch.autocast:
        """Half precision on a device where it is fast."""
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device.startswith("cuda"))


def train_autoencoder(settings: TinySettings) -> Autoencoder:
    """Train the autoencoder to copy scenes through latents of unit variance.

    The loss is the mean absolute difference of the pixels, plus a slight pull of the latents to a standard normal.
    """
    torch.manual_seed(keyed_seed("tiny", settings.seed, "autoencoder"))
    autoencoder = Autoencoder(FAMILIES["TINY"].autoencoder).to(settings.device)
    start_as_average(autoencoder)

    def loss_at(step: int) -> Tensor:
        pixels = _autoencoder_pixels(settings, step)
        with settings.autocast():
            latents = autoencoder.encode(pixels)
            mean, log_variance = _unscaled(latents, autoencoder)
            noise = torch.randn(mean.shape, generator=settings.generator("posterior", step), device=settings.device)
            copy = autoencoder.decode(latents.sample(noise))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return functional.l1_loss(copy.float(), pixels) + DIVERGENCE_WEIGHT * divergence

    stage = Stage("autoencoder", settings.out, settings.autoencoder_steps, learning_rate=1e-3)
    stage.run(autoencoder, loss_at)
    scenes = draw_scenes(1024, keyed_generator("tiny", settings.seed, "normalise"))
    normalise_latents(autoencoder, 2 * images(scenes, SIZE, settings.device) - 1)
    autoencoder.requires_grad_(False)
    return autoencoder.train(False)


def _autoencoder_pixels(settings: TinySettings, step: int) -> Tensor:
    """Pictures for one step: quarters cut out around the shape's boundary at first, whole pictures later.

    What the autoencoder learns is local, and a step on quarters costs a quarter.
    """
    generator = keyed_generator("tiny", settings.seed, "autoencoder", step)
    whole = step >= QUARTERS_SHARE * settings.autoencoder_steps
    scenes = draw_scenes(max(1, settings.autoencoder_batch // (2 if whole else 1)), generator)
    pixels = 2 * images(scenes, SIZE, settings.device) - 1
    if whole:
        return pixels
    angle = 2 * math.pi * torch.rand(len(scenes), 1, generator=generator)
    boundary = scenes.centre + scenes.radius[:, None] * torch.cat([angle.cos(), angle.sin()], dim=1)
    corners = (boundary * SIZE - SIZE / 4).round().long().clamp(0, SIZE // 2).tolist()
    half = SIZE // 2
    quarters = [image[:, y : y + half, x : x + half] for image, (x, y) in zip(pixels, corners, strict=True)]
    return torch.stack(quarters)


def _unscaled(latents: LatentDistribution, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
    """Mean and log-variance before the latent scale."""
    scale = autoencoder.config.latent_scale
    return latents.mean.float() / scale, latents.log_variance.float() - 2 * math.log(scale)


@torch.no_grad()
def normalise_latents(autoencoder: Autoencoder, pixels: Tensor) -> None:
    """Fold mean and deviation of each latent channel into the convolutions around the latents.

    Afterwards the scaled latents have mean 0 and standard deviation 1, which is what every host's latent scale expects,
    and decoding gives the same picture as before.
    """
    means = torch.cat([autoencoder.encode(part).mean for part in pixels.split(64)])
    deviation, centre = (moment(means.transpose(0, 1).flatten(1), dim=1) for moment in (torch.std, torch.mean))
    centre = centre / autoencoder.config.latent_scale
    count = autoencoder.config.latent_channels
    weight, bias = autoencoder.unquantise.parameters()
    bias.add_(weight[:, :, 0, 0] @ centre)
    weight.mul_(deviation[None, :, None, None])
    weight, bias = autoencoder.quantise.parameters()
    weight[:count] /= deviation[:, None, None, None]
    bias[:count] = (bias[:count] - centre) / deviation
    bias[count:] -= 2 * deviation.log()


class TextAndUNet(nn.Module):
    """The UNet and the text encoder whose states it reads, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(TINY)
        self.text_encoder = TextEncoder(CLIP_TINY)
        start_quietly(self.unet)


def train_base(settings: TinySettings, autoencoder: Autoencoder) -> TextAndUNet:
    """Train UNet and text encoder to predict the noise, 15 % of the captions empty.

    Noise levels are log-normal, and an error of the noise counts (1 + sigma**2) times: as much as the same error of v
    (Karras et al. 2022, section 5). Uniform timesteps and plain errors would spend most of the training on little
    noise, in which the shape can be seen; here it is learned where it has to be invented.
    """
    torch.manual_seed(keyed_seed("tiny", settings.seed, "base"))
    model = TextAndUNet().to(settings.device)
    latents, tokens = _training_set(settings, autoencoder)
    schedule = NoiseSchedule.scaled_linear()
    lowest, highest = schedule.sigmas[[0, -1]].tolist()
    shape = (settings.base_batch, *latents.mean.shape[1:])

    def loss_at(step: int) -> Tensor:
        generator, device = settings.generator("step", step), settings.device
        rows = torch.randint(settings.pictures, shape[:1], generator=generator, device=device)
        dropped = torch.rand(shape[0], generator=generator, device=device) < EMPTY_CAPTIONS
        log_sigma = SIGMA_SPREAD * torch.randn(shape[:1], generator=generator, device=device)
        posterior, noise = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
        rows_of_text = torch.where(dropped, settings.pictures, rows)
        clean = LatentDistribution(latents.mean[rows].float(), latents.log_variance[rows].float()).sample(posterior)
        sigma = log_sigma.exp().clamp(lowest, highest)
        with settings.autocast():
            context = model.text_encoder(tokens.ids[rows_of_text], tokens.ends[rows_of_text]).context
            x = network_input(noised(clean, noise, sigma), sigma)
            prediction = model.unet(x, schedule.timestep(sigma), context)
        error = (prediction.float() - noise).square().mean((1, 2, 3))
        weighted: Tensor = (1 + sigma.square()) * error
        return weighted.mean()

    Stage("base", settings.out, settings.base_steps, learning_rate=1e-3, decay=0.999).run(model, loss_at)
    return model


@torch.no_grad()
def _training_set(settings: TinySettings, autoencoder: Autoencoder) -> tuple[LatentDistribution, Tokens]:
    """Encode all pictures once and keep their latents; the empty caption's tokens follow those of the pictures."""
    kept = settings.out / f"pictures-{settings.pictures}.safetensors"
    means, variances, sentences = [], [], []
    for start in range(0, settings.pictures, 1000):
        count = min(1000, settings.pictures - start)
        scenes = draw_scenes(count, keyed_generator("tiny", settings.seed, "pictures", start))
        sentences += captions(scenes)
        if kept.exists():
            continue
        for part in (2 * images(scenes, SIZE, settings.device) - 1).split(250):
            with settings.autocast():
                distribution = autoencoder.encode(part)
            means.append(distribution.mean.half())
            variances.append(distribution.log_variance.half())
    if not kept.exists():
        with whole_file(kept) as temporary:
            save_file({"mean": torch.cat(means), "log_variance": torch.cat(variances)}, temporary)
    encoded = load_file(kept, device=settings.device)
    tokens = PromptTokenizer(settings.out, CLIP_TINY)([*sentences, ""])
    latents = LatentDistribution(encoded["mean"], encoded["log_variance"])
    return latents, Tokens(tokens.ids.to(settings.device), tokens.ends.to(settings.device))


class DecoderAlone(nn.Module):
    """The half of an autoencoder that can be trained further while the latents stay the same."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.unquantise = autoencoder.unquantise
        self.decoder = autoencoder.decoder


def refine_decoder(settings: TinySettings, autoencoder: Autoencoder) -> None:
    """Train the decoder further, on whole pictures and without noise, while encoder and latents stay the same."""
    alone = DecoderAlone(autoencoder).requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        scenes = draw_scenes(settings.decoder_batch, keyed_generator("tiny", settings.seed, "decoder", step))
        pixels = 2 * images(scenes, SIZE, settings.device) - 1
        with settings.autocast():
            with torch.no_grad():
                latents = autoencoder.encode(pixels).mean
            copy = autoencoder.decode(latents)
        return functional.l1_loss(copy.float(), pixels)

    Stage("decoder", settings.out, settings.decoder_steps, learning_rate=5e-4, decay=0.99).run(alone, loss_at)
    alone.requires_grad_(False)


def _save(module: nn.Module, path: Path) -> None:
    """Write the weights under our own names, in float16."""
    save_file({name: tensor.half().cpu().contiguous() for name, tensor in module.state_dict().items()}, path)


def main() -> None:
    """Read the command line and run all stages."""
    parser = argparse.ArgumentParser(description="Train the small base that ships with the package.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-steps", type=int, default=5000)
    parser.add_argument("--autoencoder-batch", type=int, default=8)
    parser.add_argument("--base-steps", type=int, default=12_000)
    parser.add_argument("--base-batch", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=40_000, help="how many scenes the UNet sees")
    parser.add_argument("--decoder-steps", type=int, default=2500)
    parser.add_argument("--decoder-batch", type=int, default=4)
    settings = TinySettings(**vars(parser.parse_args()))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    write_vocabulary(settings.out)
    autoencoder = train_autoencoder(settings)
    _save(train_base(settings, autoencoder), settings.out / "base.safetensors")
    refine_decoder(settings, autoencoder)
    _save(autoencoder, settings.out / "autoencoder.safetensors")


if __name__ == "__main__":
    main()
