"""The settings of a training run: one validated model behind TOML files, flags and node inputs."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config import LossWeighting, UNetConfig
from ..control.curves import Side
from ..errors import UNREADABLE, SettingError
from .memory import MemoryChoices, OptimizerName, Place, Precision, Preset, preset_choices

if TYPE_CHECKING:
    import torch

Share = Annotated[float, Field(ge=0, le=1)]
MOST = 2**32 - 1
Count = Annotated[int, Field(ge=1, le=MOST)]
Steps = Annotated[int, Field(ge=0, le=MOST)]
EVALUATION_SHARE = 0.05
"""The share of the time that evaluations may take."""
LONGEST_VALUE = 80
"""The characters of a value that a message shows."""


class EvaluationSettings(BaseModel):
    """How a run measures whether the net follows its hints. Each field says what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: Steps = Field(
        0, description="Steps between two evaluations; 0 spaces them so that they take at most 5 % of the time."
    )
    hints: Count = Field(16, description="Held-out hints measured at each evaluation, or all if there are fewer.")
    pictures: Count = Field(
        4, description="How many of these are drawn as samples; on shapes all are, as their score needs the drawings."
    )
    sampling_steps: Count = Field(20, description="Sampling steps for each picture.")
    guidance: float = Field(7.5, ge=1, description="The scale of classifier-free guidance; 1 is none.")
    side: Side = Field(
        "both", description="The side of guidance that control acts on: both, conditional or unconditional."
    )


class TrainSettings(BaseModel):
    """The settings of a training run. Each field says what it means; `identity` says which of them name a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count = Field(10_000, description="Number of optimizer steps.")
    batch_size: Count = Field(4, description="Pairs in each step.")
    learning_rate: float = Field(
        1e-5, gt=0, lt=1, description="The learning rate, constant between warm-up and cool-down."
    )
    warm_up_steps: Steps = Field(0, description="Steps at the start, in which the learning rate rises from zero.")
    cool_down_steps: Steps = Field(0, description="Steps at the end, in which the learning rate falls to zero.")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="The weight decay of AdamW.")
    gradient_clip: float = Field(1.0, gt=0, description="The largest gradient norm; larger gradients are scaled down.")
    average_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the moving average of the weights, which is evaluated and saved."
    )
    prompt_drop: Share = Field(
        0.5, description="Share of prompts replaced by the empty prompt (the paper: a half)."
    )
    hint_encoder: Literal["reference", "paper"] = Field(
        "reference", description='The hint encoder: "reference", which every tool loads, or "paper".'
    )
    hint_start: Literal["latents", "zero"] = Field(
        "latents",
        description='How the hint encoder starts: "latents", fitted first to show the copy each hint as the base sees '
        'a picture, or "zero", with its last convolution at zero (the paper).',
    )
    loss_weighting: LossWeighting = Field(
        "min_snr",
        description='How much each noise level counts: "min_snr" (Hang et al. 2023, gamma 5), "plain", errors of what '
        'the base predicts (the paper), or "v", errors of v.',
    )
    timestep_density: Literal["uniform", "cubic"] = Field(
        "uniform",
        description='How often each timestep is drawn: "uniform" (the paper), or "cubic", more often the noisier '
        "(Mou et al. 2023).",
    )
    offset_noise: Share = Field(
        0.0, description="Standard deviation of noise that shifts each latent channel as a whole (Guttenberg 2023)."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seeds every random draw.")
    checkpoint_every: Count = Field(500, description="Steps between two checkpoints.")
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="How the run measures whether held-out hints are followed."
    )
    start_from: Path | None = Field(
        None,
        description="A net, or the folder of a run, whose weights training starts from (default: the base's).",
        examples=["net.safetensors"],
    )
    memory: Preset | None = Field(
        None,
        description="The memory of the card in GB, 8, 12, 16, 24, 48 or 80, which decides all settings from here to "
        "`average_on` that are not set (default: each its own).",
        examples=[12],
    )
    gradient_accumulation: Count | None = Field(
        None,
        description="Into how many parts a batch is split, which are computed one after another; of several processes, "
        "each splits its share (default: 1).",
        examples=[4],
    )
    activation_checkpointing: bool | None = Field(
        None,
        description="Whether blocks keep only their inputs and are computed again for gradients (default: no).",
        examples=[True],
    )
    precision: Precision | None = Field(
        None,
        description='What is computed in: "float32", or "bfloat16", the locked UNet outright and the net by autocast '
        "over float32 weights (default: bfloat16 on CUDA cards that have it, else float32).",
        examples=["bfloat16"],
    )
    weights_dtype: Precision | None = Field(
        None,
        description='The dtype of the trained weights: "float32", or "bfloat16", with stochastic rounding (default: '
        "float32).",
        examples=["bfloat16"],
    )
    optimizer: OptimizerName | None = Field(
        None,
        description='"adamw", or "adamw_8bit", whose state takes a quarter and which needs bitsandbytes (default: '
        "adamw).",
        examples=["adamw_8bit"],
    )
    average_every: Count | None = Field(
        None, description="Steps between two updates of the moving average (default: 1).", examples=[10]
    )
    average_on: Place | None = Field(
        None, description='Where the moving average is: "device" or "cpu" (default: device).', examples=["cpu"]
    )
    sharded: bool = Field(
        False,
        description="Whether each of several processes keeps only its share of the weights and of the optimizer's "
        "state (FSDP2).",
    )
    device: str = Field("auto", description='The device, such as "cpu" or "cuda:1"; "auto" is cuda if there is one.')
    out: Path = Field(Path("runs"), description="The folder that holds the run folders.")

    def choices(self, config: UNetConfig, device: torch.device, processes: int = 1) -> MemoryChoices:
        """What is chosen for a base on a device: by the settings, where they say so, by `memory`, or as usual.

        Of several processes each has its share of a batch, and all split it into as many parts: no more than the
        smallest share has pairs.
        """
        from .devices import usual_precision  # loads torch, which describing settings does not need

        if self.memory is not None:
            usual = preset_choices(self.memory, config, math.ceil(self.batch_size / processes))
        else:
            usual = MemoryChoices(precision=usual_precision(device))
        own = {field.name: getattr(self, field.name) for field in fields(MemoryChoices)}
        chosen = replace(usual, **{name: value for name, value in own.items() if value is not None})
        parts = min(chosen.gradient_accumulation, max(1, self.batch_size // processes))
        return replace(chosen, gradient_accumulation=parts)

    @property
    def branch_step(self) -> int:
        """The step after which the learning rate falls: up to here a run is the same as any longer one."""
        return max(0, self.steps - self.cool_down_steps)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, which counts from 0."""
        rise, fall = (step + 1) / (self.warm_up_steps + 1), (self.steps - step) / (self.cool_down_steps + 1)
        return self.learning_rate * min(1.0, rise, fall)

    def evaluation_interval(self, cost: float) -> int:
        """Steps between two evaluations, each of which takes the time of training on `cost` pairs."""
        return self.evaluation.every or max(1, math.ceil(cost / (self.batch_size * EVALUATION_SHARE)))

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is written after this many steps."""
        return step in (self.branch_step, self.steps) or step % self.checkpoint_every == 0


def checked(values: dict[str, Any], source: str) -> TrainSettings:
    """Make settings from a dictionary.

    Arguments:
        values: Settings by name; those left out keep their defaults.
        source: Where they come from, for the message.

    Raises:
        SettingError: If a name is unknown or a value impossible.
    """
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        raise setting_error(error, TrainSettings, source) from error


def setting_error(error: ValidationError, model: type[BaseModel], source: str) -> SettingError:
    """The error for the first fault in settings, with the nearest name if one was misspelt."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        wanted = first["msg"].removeprefix("Input should be ")
        value = repr(first["input"])
        shown = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
        return SettingError(f"{key} = {shown} in {source}", wanted, f"correct {key}")
    known = _names(model)
    inner = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1) or [
        inner[name] for name in difflib.get_close_matches(key, inner, n=1)
    ]
    return SettingError(
        found=f"an unknown setting {key!r} in {source}",
        expected=f"one of {', '.join(known)}",
        do=f"did you mean {near[0]!r}?" if near else "remove it",
    )


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All setting names; in a section, with the section's name in front."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _names(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SettingError: If it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingError(f"no file {path}", "a TOML file with settings", "check the path") from error
    except (OSError, *UNREADABLE) as error:
        raise SettingError(f"{path}: {error}", "a TOML file with settings", "correct the file") from error
