"""One stage of training the small base: a loop that saves its state and resumes from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..moving_average import MovingAverage
from ..whole_file import whole_file

SAVE_EVERY = 100
WARM_UP = 100
COOL_DOWN = 0.4
"""The share of the steps, at the end, in which the learning rate falls; before it, `steps` can be raised."""


@dataclass(frozen=True)
class Stage:
    """How one stage is trained.

    Attributes:
        name: Names the file of the stage's state.
        folder: Where it is kept.
        steps: How many optimizer steps.
        learning_rate: The highest; it rises for 100 steps, stays, and falls linearly to zero.
        decay: The decay of the moving average, whose weights are kept.
    """

    name: str
    folder: Path
    steps: int
    learning_rate: float
    decay: float = 0.999

    def run(self, module: nn.Module, loss_at: Callable[[int], Tensor]) -> None:
        """Train or resume training, and leave the averaged weights in `module`.

        Arguments:
            module: Everything that is trained.
            loss_at: Gives the loss of a step; all its random draws are keyed by the step.
        """
        optimizer = torch.optim.AdamW(module.parameters(), lr=self.learning_rate, weight_decay=0.01, fused=True)
        average = MovingAverage(module, self.decay)
        first = self._resume(module, optimizer, average)
        progress = tqdm(range(first, self.steps), desc=self.name, initial=first, total=self.steps, mininterval=5)
        for step in progress:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * self._learning_rate_factor(step)
            loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            average.update(module)
            if step % 100 == 0:
                progress.set_postfix(loss=f"{loss.item():.5f}")
            if (step + 1) % SAVE_EVERY == 0:
                self._save(module, optimizer, average, step + 1)
        module.load_state_dict({**module.state_dict(), **average.weights})

    def _learning_rate_factor(self, step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP, (self.steps - step) / (COOL_DOWN * self.steps))

    @property
    def _state_path(self) -> Path:
        return self.folder / f"{self.name}.state.pt"

    def _save(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage, step: int) -> None:
        state = {
            "step": step,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.weights,
            "updates": average.updates,
        }
        with whole_file(self._state_path) as temporary:
            torch.save(state, temporary)

    def _resume(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage) -> int:
        if not self._state_path.exists():
            return 0
        device = next(module.parameters()).device
        state = torch.load(self._state_path, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = state["average"]
        average.updates = state["updates"]
        return int(state["step"])
