"""Ranks that talk to each other through torch.distributed."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import SettingError
from ..model.controlnet import ControlNet
from .heartbeat import End, Heartbeat
from .parallel_net import CopiedNet, shard
from .ranks import Event, RankLostError, Ranks, RankStopped, Value

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.0005, 0.05


class RankGroup(Ranks):
    """One of several processes that train together.

    Arguments:
        rank: Its number.
        count: How many there are.
        heartbeat: What knows whether the others are there.
    """

    def __init__(self, rank: int, count: int, heartbeat: Heartbeat) -> None:
        self.rank, self.count = rank, count
        self._heartbeat = heartbeat
        self._listeners_stop: BaseException | None = None
        self._stopped_together = False

    @property
    def intact(self) -> bool:  # type: ignore[override] # one alone always is
        """Whether all of them are there."""
        return self._heartbeat.end is None

    def mean(self, number: Tensor) -> Tensor:
        """The mean of a number over the ranks."""
        total = number.clone()
        dist.all_reduce(total)
        return total / self.count

    def parallel(self, net: ControlNet, sharded: bool) -> ControlNet:
        """The net to call in a step, so that its gradients are the mean over the ranks."""
        with self.together():
            # What is called takes and gives the same.
            return shard(net, self.count) if sharded else CopiedNet(net)  # type: ignore[return-value]

    def of_first(self, compute: Callable[[], Value]) -> Value:
        """What the first rank computes; the others wait for it, however long it takes."""
        if not self.is_first:
            found = self._receive()
            if isinstance(found, End):
                raise _ended(found)
            value: Value = found
            return value
        try:
            value = compute()
        except BaseException as error:
            if self.intact:
                self._send(self._end_by(error))
            raise
        self._send(value)
        return value

    def check_equal(self, value: Callable[[], str], subject: str) -> None:
        """Check that a value is the same on all ranks."""
        values: list[str] = [""] * self.count
        with self.together():
            self.meet()
            dist.all_gather_object(values, value())
        others = [str(rank) for rank, found in enumerate(values) if found != values[0]]
        if others:
            raise SettingError(
                found=f"other {subject} on rank {', '.join(others)} than on rank 0",
                expected="the same on every rank",
                do="give all processes the same files and settings",
            )

    def stop_together(self, stop: bool) -> None:
        """Tell the others whether this rank stops here, and hear whether they do."""
        flag = torch.tensor(self.rank + 1 if stop else 0)
        with self.together():
            self._wait_for(dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True))
        self._stopped_together = bool(flag)
        if flag and not stop:
            raise _ended(End(int(flag) - 1, "stopped"))

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part of the work that every rank has to do: an exception on one ends it on all."""
        waited, self._heartbeat.waiting = self._heartbeat.waiting, True
        try:
            yield
        except (RankStopped, RankLostError):
            raise
        except BaseException as error:
            # torch raises a RuntimeError where another process is gone, and where this one is out of memory.
            end = self._heartbeat.end_after_error() if isinstance(error, RuntimeError) else None
            if end is not None:
                raise _ended(end) from error
            self._heartbeat.end_for_all(self._end_by(error))
            raise
        finally:
            self._heartbeat.waiting = waited

    def hearing(self, listen: Callable[[Event], None]) -> Callable[[Event], None]:
        """A listener that also hears of the other ranks: it raises if one of them ended the run."""

        def hear(event: Event) -> None:
            self._check_intact()
            try:
                listen(event)
            except BaseException as error:
                self._listeners_stop = error
                raise

        return hear

    def close(self, error: BaseException | None) -> None:
        """Leave the group: with all others at the end and where all stop together, else at once."""
        if error is None:
            self._leave()
        elif self.intact and self._stopped_together:
            with suppress(RankStopped, RankLostError):  # the error itself says what matters
                self._leave()
        else:
            self._heartbeat.end_for_all(self._end_by(error))
            self._heartbeat.linger()

    def _leave(self) -> None:
        with self.together():
            self.meet()
        self._heartbeat.stop()
        dist.destroy_process_group()

    def _end_by(self, error: BaseException) -> End:
        """How an error of this rank ends the run for all."""
        if error is self._listeners_stop:
            return End(self.rank, "stopped")
        return End(self.rank, "failed" if isinstance(error, Exception) else "interrupted")

    def _check_intact(self) -> None:
        if self._heartbeat.end is not None:
            raise _ended(self._heartbeat.end)

    def meet(self) -> None:
        """Wait until all ranks are here, however long it takes."""
        self._wait_for(dist.all_reduce(torch.zeros(1), async_op=True))

    def _wait_for(self, work: dist.Work | None) -> None:
        """Wait in Python, where signals are handled; inside torch they are not."""
        if work is None:
            return
        pause = FIRST_POLL_SECONDS
        while not work.is_completed():
            self._check_intact()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        work.wait()

    def _send(self, value: object) -> None:
        """Give a value to the other ranks: all but its tensors pickled, and those one by one."""
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(value)
        content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        with self.together():
            self.meet()
            dist.broadcast(torch.tensor(len(content)), 0)
            for part in (content, *packer.tensors):
                dist.broadcast(_as_bytes(part.detach().cpu().contiguous()), 0)

    def _receive(self) -> Any:  # noqa: ANN401 - whatever the first rank computed
        """What the first rank gives."""
        size = torch.tensor(0)
        with self.together():
            self.meet()
            dist.broadcast(size, 0)
            content = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, 0)
            unpacker = _Unpacker(io.BytesIO(content.numpy().tobytes()))
            value = unpacker.load()
            for tensor in unpacker.tensors:
                dist.broadcast(_as_bytes(tensor), 0)
        return value


class _Packer(pickle.Pickler):
    """Pickles everything but tensors, of which it keeps a list."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: object) -> tuple[torch.Size, torch.dtype] | None:
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value)
        return value.shape, value.dtype


class _Unpacker(pickle.Unpickler):
    """Unpickles what `_Packer` pickled, with tensors to be filled."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_load(self, key: tuple[torch.Size, torch.dtype]) -> Tensor:
        shape, dtype = key
        self.tensors.append(torch.empty(shape, dtype=dtype))
        return self.tensors[-1]


def _as_bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor's memory, whatever its dtype, of which gloo knows only some."""
    return tensor.view(-1).view(torch.uint8)


def _ended(end: End) -> RankStopped | RankLostError:
    """The exception for a run that another rank ended."""
    if end.how in ("stopped", "interrupted"):
        return RankStopped(str(end))
    return RankLostError(
        found=f"that {end}", expected="all processes of the run", do="the same command resumes from the last checkpoint"
    )
