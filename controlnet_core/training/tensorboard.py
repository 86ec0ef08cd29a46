"""A run in TensorBoard, which the extra `tensorboard` installs: one more view of its events."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from ..errors import SettingError
from .events import Evaluated, Event, Stepped


class TensorBoard:
    """Writes losses, scores and pictures of a run to `tensorboard/` in its folder.

    Arguments:
        path: The run's folder.

    Raises:
        SettingError: If TensorBoard is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError(
                found="no tensorboard", expected="the package tensorboard", do="run `pip install tensorboard`"
            ) from error
        self._writer = SummaryWriter(str(path / "tensorboard"))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        match event:
            case Stepped():
                self._writer.add_scalar("loss", event.loss, event.step)
                self._writer.add_scalar("gradient norm", event.gradient_norm, event.step)
                self._writer.add_scalar("seconds", event.seconds, event.step)
            case Evaluated():
                for name, value in {"following": event.following, **event.measures}.items():
                    self._writer.add_scalar(name, value, event.step)
                self._writer.add_images("held-out hints", event.pictures, event.step)
