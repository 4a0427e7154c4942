"""Reading what comes next while the present is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], depth: int, threads: int = 1
) -> Generator[tuple[Item, Read]]:
    """Each item with what `read` makes of it, in order, read by threads beside the caller.

    It helps where all of them compute outside of Python: decoders, kernels and files let go of its lock.

    Args:
        items: what is read, in this order; they are taken by the caller's thread.
        read: what the threads do; what it raises is raised here, in the item's turn.
        depth: so many results are held at most beside the one that is worked on; with 0 nothing is read ahead.
        threads: so many items are read at once.
    """
    pending: deque[tuple[Item, Future[Read]]] = deque()
    pool = ThreadPoolExecutor(threads, "read ahead")
    try:
        for item in items:
            pending.append((item, pool.submit(read, item)))
            if len(pending) > depth:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
