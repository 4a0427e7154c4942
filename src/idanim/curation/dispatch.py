"""Many items over workers that may die or hang: the rules, whatever the workers are.

A worker has one item at a time. An item that was lost with its worker is given to another one; an item that is lost
so again, or that takes longer than the time limit, is given up by name. Nothing that was finished is lost.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from idanim.types import IdanimError

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W", bound="Worker")

MAX_LOSSES = 2
"""So many workers may die of one item before it is given up."""


@dataclass(frozen=True)
class GivenUp:
    """Why there is no result for an item.

    Attributes:
        reason: "kills_worker" or "timed_out".
        text: in words.
        measured: workers that died of it, or seconds it was worked on.
        threshold: what that was compared with.
    """

    reason: str
    text: str
    measured: float
    threshold: float


class WorkerDiedError(Exception):
    """A worker is gone, with what it was working on."""


class Worker(Protocol):
    """One process, somewhere. When new it reports once, as if it had done an item, as soon as it can work."""

    def give(self, item: Any) -> None:
        """Let it begin an item."""
        ...

    def take(self) -> Any:
        """What came of the item; None from a new worker. It has reported: this does not wait.

        Raises:
            WorkerDiedError: it is gone.
            Exception: what the work raised, which ends the run.
        """
        ...

    def kill(self) -> None:
        """End it now, whatever it does."""
        ...


class Workers(Protocol[W]):
    """Where workers come from."""

    def new(self) -> W:
        """Start one."""
        ...

    def wait(self, workers: Sequence[W], timeout_s: float | None) -> list[W]:
        """Those of busy workers that have reported or died; none of them after the time."""
        ...


class Engine(Protocol):
    """Runs work on workers. Engines are chosen by the config group `engine`."""

    def map(self, make_work: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[tuple[T, R | GivenUp]]:
        """Work on items, in no particular order.

        Args:
            make_work: called once in each worker, builds what it works with and returns the work; must pickle.
            items: what to work on; must pickle.

        Yields:
            (item, what came of it), as they are finished.

        Raises:
            Exception: what `make_work` or the work raised.
            IdanimError: workers die before they have begun.
        """
        ...


@dataclass
class _Job(Generic[T]):
    item: T
    losses: int = 0  # workers that died of it


class Dispatcher(Generic[T, W]):
    """Gives items to workers; see `Engine.map`.

    Args:
        workers: where workers come from.
        items: what to work on.
        num_workers: at most so many at once.
        timeout_s: longest time for one item; None is no limit.
    """

    def __init__(
        self, workers: Workers[W], items: Sequence[T], num_workers: int, timeout_s: float | None = None
    ) -> None:
        self._workers = workers
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._waiting = deque(_Job(item) for item in items)
        self._starting: set[W] = set()
        self._busy: dict[W, tuple[_Job[T], float]] = {}  # since when
        self._failed_starts = 0

    def run(self) -> Iterator[tuple[T, Any]]:
        """Yield (item, what came of it)."""
        try:
            while self._waiting or self._busy:
                wanted = min(self._num_workers, len(self._waiting) + len(self._busy))
                for _ in range(wanted - len(self._starting) - len(self._busy)):
                    self._starting.add(self._workers.new())
                for worker in self._workers.wait([*self._starting, *self._busy], self._time_left_s()):
                    yield from self._started(worker) if worker in self._starting else self._finished(worker)
                yield from self._overdue()
        finally:
            for worker in [*self._starting, *self._busy]:
                worker.kill()

    def _started(self, worker: W) -> Iterator[tuple[T, Any]]:
        self._starting.remove(worker)
        try:
            worker.take()
        except WorkerDiedError as error:
            worker.kill()
            self._failed_starts += 1
            if self._failed_starts > MAX_LOSSES:
                text = f"worker processes end before they have begun to work ({error}); is there enough memory?"
                raise IdanimError(f"{text} Fewer workers need less") from error
        else:
            self._failed_starts = 0
            self._give(worker)
        yield from ()

    def _finished(self, worker: W) -> Iterator[tuple[T, Any]]:
        job, _ = self._busy.pop(worker)
        try:
            result = worker.take()
        except WorkerDiedError as error:
            worker.kill()
            job.losses += 1
            if job.losses < MAX_LOSSES:
                self._waiting.appendleft(job)
                return
            text = f"{job.losses} worker processes ended while they worked on it ({error})"
            yield job.item, GivenUp("kills_worker", text, job.losses, MAX_LOSSES)
        else:
            self._give(worker)
            assert result is not None
            yield job.item, result

    def _give(self, worker: W) -> None:
        if self._waiting:
            job = self._waiting.popleft()
            self._busy[worker] = (job, time.monotonic())
            worker.give(job.item)
        else:
            worker.kill()

    def _overdue(self) -> Iterator[tuple[T, Any]]:
        if self._timeout_s is None:
            return
        for worker, (job, since) in list(self._busy.items()):
            seconds = time.monotonic() - since
            if seconds >= self._timeout_s:
                del self._busy[worker]
                worker.kill()
                text = f"not done after {seconds:.0f} s, allowed {self._timeout_s:g} s"
                yield job.item, GivenUp("timed_out", text, round(seconds, 1), self._timeout_s)

    def _time_left_s(self) -> float | None:
        if self._timeout_s is None or not self._busy:
            return None
        oldest = min(since for _, since in self._busy.values())
        return max(0.0, oldest + self._timeout_s - time.monotonic())
