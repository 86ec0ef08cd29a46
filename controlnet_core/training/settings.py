"""What a user says about a training run: one validated model behind TOML files, flags and node inputs."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..control.strength import Sides
from ..errors import SettingError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class EvaluationSettings(BaseModel):
    """How a run measures whether the net follows its hints.

    Attributes:
        every: Steps between two evaluations.
        hints: How many held-out hints are drawn each time, if so many pairs are held out.
        sampling_steps: Steps of the sampler.
        guidance: Classifier-free guidance.
        sides: The sides of guidance that control acts on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: Count = 300
    hints: Count = 16
    sampling_steps: Count = 20
    guidance: Annotated[float, Field(ge=1)] = 7.5
    sides: Sides = "both"


class TrainSettings(BaseModel):
    """The settings of a training run.

    Attributes:
        steps: Optimizer steps in all.
        batch_size: Pairs of one step.
        learning_rate: The learning rate, constant between warm-up and cool-down.
        warm_up_steps: The first steps, in which the learning rate rises from zero.
        cool_down_steps: The last steps, in which it falls to zero.
        weight_decay: AdamW's weight decay.
        gradient_clip: The largest norm of the gradient.
        average_decay: Decay of the moving average of the weights; the average is what is evaluated and saved.
        prompt_drop: The share of prompts replaced by the empty one (Zhang et al. 2023, section 3.3: a half).
        hint_encoder: "reference", which every tool loads, or "paper".
        seed: Seeds every random draw of the run.
        checkpoint_every: Steps between two checkpoints.
        evaluation: How following is measured.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        out: The folder that holds run folders.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count = 10_000
    batch_size: Count = 4
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    warm_up_steps: Annotated[int, Field(ge=0)] = 0
    cool_down_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    prompt_drop: Share = 0.5
    hint_encoder: Literal["reference", "paper"] = "reference"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    checkpoint_every: Count = 500
    evaluation: EvaluationSettings = EvaluationSettings()
    device: str = "auto"
    out: Path = Path("runs")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, which counts from 0."""
        rise, fall = (step + 1) / (self.warm_up_steps + 1), (self.steps - step) / (self.cool_down_steps + 1)
        return self.learning_rate * min(1.0, rise, fall)

    def evaluates_at(self, step: int) -> bool:
        """Whether following is measured behind so many steps."""
        return step == self.steps or step % self.evaluation.every == 0

    def fingerprint(self) -> str:
        """A hash of everything that has a say in the result; the device and the folder have none."""
        words = self.model_dump_json(exclude={"device", "out"})
        return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def checked(values: dict[str, Any], source: str) -> TrainSettings:
    """Make settings of a dictionary.

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
    """Say the first thing that is wrong with settings, and the nearest name if one was misspelt."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        wanted = first["msg"].removeprefix("Input should be ")
        return SettingError(f"{key} = {first['input']!r} in {source}", wanted, f"correct {key}")
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
    """All setting names, those of sections with their section."""
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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path}: {error}", "a TOML file with settings", "correct the file") from error
