"""`engine=ray`: Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from idanim.curation.dispatch import Dispatcher, GivenUp, WorkerDiedError
from idanim.types import IdanimError

if TYPE_CHECKING:
    import ray

T = TypeVar("T")
R = TypeVar("R")

_OBJECT_STORE_BYTES = 100_000_000  # of a Ray started here; only small records travel


class RayEngine:
    """Ray actors.

    Args:
        workers: how many actors, each with one CPU.
        timeout_s: longest time for one item; None is no limit.
        address: of a running cluster ("auto", "ray://host:10001"); None starts Ray on this machine. All machines
            need this package, and the input and output folders under the same names.

    Raises:
        IdanimError: Ray is not installed.
    """

    def __init__(self, workers: int, timeout_s: float | None = None, address: str | None = None) -> None:
        if workers < 1:
            raise IdanimError(f"workers={workers}: engine=ray wants at least one")
        if timeout_s is not None and timeout_s <= 0:
            raise IdanimError(f"engine.timeout_s={timeout_s}: seconds above 0 are wanted, or null for no limit")
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise IdanimError("engine=ray needs Ray: pip install 'idanim[ray]'") from error
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._address = address

    def map(self, make_work: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[tuple[T, R | GivenUp]]:
        """Work on items; see `dispatch.Engine`."""
        import ray

        if not items:
            return
        started_here = not ray.is_initialized()
        if started_here:
            self._connect()
        try:
            workers = _RayWorkers(make_work)
            yield from Dispatcher(workers, items, self._num_workers, self._timeout_s).run()
        finally:
            if started_here:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        own: dict[str, Any] = {
            "num_cpus": self._num_workers,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        if self._address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        try:
            ray.init(address=self._address or "local", log_to_driver=False, **({} if self._address else own))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise IdanimError(f"ray_address={self._address}: Ray can't be reached or started ({error})") from error


class _RayWorkers:
    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        import ray

        # Never started again by Ray itself: the dispatcher knows what an actor died of.
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Actor)
        self._make_work = make_work

    def new(self) -> _RayWorker:
        return _RayWorker(self._actor.remote(self._make_work))

    def wait(self, workers: Sequence[_RayWorker], timeout_s: float | None) -> list[_RayWorker]:
        import ray

        by_report = {worker.report: worker for worker in workers}
        ready, _ = ray.wait(list(by_report), num_returns=1, timeout=timeout_s)
        return [by_report[report] for report in ready]


class _Actor:
    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        self._make_work = make_work

    def start(self) -> None:  # not in the constructor, whose errors Ray reports as a death
        self._work = self._make_work()

    def work(self, item: Any) -> Any:
        return self._work(item)


class _RayWorker:
    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.report: ray.ObjectRef = actor.start.remote()

    def give(self, item: Any) -> None:
        self.report = self._actor.work.remote(item)

    def take(self) -> Any:
        import ray

        try:
            return ray.get(self.report)
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from error
        except ray.exceptions.RayError as error:
            raise WorkerDiedError(str(error).strip().splitlines()[0]) from error

    def kill(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=True)
