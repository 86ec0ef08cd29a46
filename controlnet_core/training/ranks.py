"""The processes that train one net together, as a run sees them: each is a *rank* and trains on its own slots of every
batch, and the first one writes. A process that trains alone is the first and only one, and needs no torch.distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from ..errors import SettingError, TrainingError
from ..model.controlnet import ControlNet

Value = TypeVar("Value")
Event = TypeVar("Event")


class RankStopped(Exception):
    """Another rank's consumer stopped the run; everything is kept, and the same call resumes.

    Arguments:
        end: Who stopped it.
    """


class RankLostError(TrainingError):
    """Another rank failed or is gone, so that this one cannot go on."""


class Ranks:
    """A process that trains alone: the first rank and the only one.

    Attributes:
        rank: The number of this process, from 0.
        count: How many processes train together.
        intact: Whether all of them are there.
    """

    rank = 0
    count = 1
    intact = True

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def slots(self, batch_size: int) -> range:
        """The slots of each batch that this rank trains on, as many as another's or one more.

        Raises:
            SettingError: If there are fewer slots than ranks.
        """
        if batch_size < self.count:
            raise SettingError(
                found=f"batch_size = {batch_size} for {self.count} processes",
                expected="at least one pair for each",
                do=f"start {batch_size} processes, or raise batch_size, which counts the pairs of all together",
            )
        return range(self.rank * batch_size // self.count, (self.rank + 1) * batch_size // self.count)

    def weight(self, batch_size: int) -> float:
        """What this rank's mean loss is multiplied by, so that the ranks' mean is the batch's."""
        return len(self.slots(batch_size)) * self.count / batch_size

    def mean(self, number: Tensor) -> Tensor:
        """The mean of a number over the ranks."""
        return number

    def shards(self, wanted: bool) -> bool:
        """Whether each rank keeps only a shard of the net, if that is wanted: one alone keeps all of it."""
        return wanted and self.count > 1

    def parallel(self, net: ControlNet, sharded: bool) -> ControlNet:
        """The net to call in a step, so that its gradients are the mean over the ranks.

        Arguments:
            net: This rank's net; every rank gets the first one's weights.
            sharded: Whether each rank keeps only a shard of each tensor of the net, which is changed in place.
        """
        return net

    def of_first(self, compute: Callable[[], Value]) -> Value:
        """What the first rank computes; the others wait for it, however long it takes.

        Raises:
            RankStopped, RankLostError: On the others, if the first one raises.
        """
        return compute()

    def check_equal(self, value: Callable[[], str], subject: str) -> None:
        """Check that a value is the same on all ranks.

        Raises:
            SettingError: If it is not; `subject` says what differs.
        """

    def stop_together(self, stop: bool) -> None:
        """Tell the others whether this rank stops here, and hear whether they do.

        Raises:
            RankStopped: If another one stops and this one does not.
        """

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part of the work that every rank has to do: an exception on one ends it on all.

        Raises:
            RankStopped, RankLostError: If another one raised an exception or is gone.
        """
        yield

    def hearing(self, listen: Callable[[Event], None]) -> Callable[[Event], None]:
        """A listener that also hears of the other ranks: it raises if one of them ended the run."""
        return listen


ALONE = Ranks()
