"""`engine=local`: worker processes on this machine."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from idanim.curation.dispatch import Dispatcher, GivenUp, WorkerDiedError
from idanim.types import IdanimError

T = TypeVar("T")
R = TypeVar("R")

# Spawned, not forked: the libraries of the parent have threads, which a forked child would inherit half-alive.
_CONTEXT = multiprocessing.get_context("spawn")


class LocalEngine:
    """Worker processes on this machine.

    Args:
        workers: how many. 0 works in this process: quick to start, but there is no time limit, and what kills the
            process ends the run.
        timeout_s: longest time for one item; None is no limit.
    """

    def __init__(self, workers: int, timeout_s: float | None = None) -> None:
        if workers < 0:
            raise IdanimError(f"workers={workers}: a number of processes is wanted, or 0 for none but this one")
        if timeout_s is not None and timeout_s <= 0:
            raise IdanimError(f"engine.timeout_s={timeout_s}: seconds above 0 are wanted, or null for no limit")
        self._num_workers = workers
        self._timeout_s = timeout_s

    def map(self, make_work: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[tuple[T, R | GivenUp]]:
        """Work on items; see `dispatch.Engine`."""
        if self._num_workers and items:
            yield from Dispatcher(_LocalWorkers(make_work), items, self._num_workers, self._timeout_s).run()
        elif items:
            work = make_work()
            for item in items:
                yield item, work(item)


class _LocalWorkers:
    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        self._make_work = make_work

    def new(self) -> _LocalWorker:
        return _LocalWorker(self._make_work)

    def wait(self, workers: Sequence[_LocalWorker], timeout_s: float | None) -> list[_LocalWorker]:
        ready = wait([worker.connection for worker in workers], timeout_s)
        return [worker for worker in workers if worker.connection in ready]


class _LocalWorker:
    """A process and the pipe to it. The pipe is its own, so that a death at any moment harms nobody else."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        self.connection, other_end = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other_end, make_work), daemon=True)
        self._process.start()
        other_end.close()  # so that the pipe ends with the worker

    def give(self, item: Any) -> None:
        with suppress(OSError):  # it has died since; `take` will say so
            self.connection.send(item)

    def take(self) -> Any:
        try:
            error, result = self.connection.recv()
        except (EOFError, OSError) as end:
            self._process.join(10)
            raise WorkerDiedError(f"exit code {self._process.exitcode}") from end
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, make_work: Callable[[], Callable[[Any], Any]]) -> None:
    """The worker's side: build, then work until the other side is gone. Sends (error, result)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends its workers
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work = _reported(connection, make_work)
        if work is None:
            return
        connection.send((None, None))
        while True:
            item = connection.recv()
            result = _reported(connection, functools.partial(work, item))
            if result is None:
                return
            connection.send((None, result))


def _reported(connection: Connection, call: Callable[[], R]) -> R | None:
    """What a call returns; or None, after its error was sent."""
    try:
        return call()
    except Exception as error:  # it is raised again on the other side
        error.add_note(traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # there are errors that can't travel
            error = RuntimeError("".join(traceback.format_exception(error)))
        connection.send((error, None))
        return None
