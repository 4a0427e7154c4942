"""Training and evaluating the cells of studies, in several processes."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from idanim.config import compose
from idanim.files import read_json, write_json, write_text
from idanim.study.plan import Cell, Training
from idanim.study.settings import (
    DONE,
    Settings,
    changes,
    evaluation_settings,
    in_words,
    recorded,
    training_run,
    training_settings,
)
from idanim.types import IdanimError

LOG = "log.txt"


class TaskFailedError(IdanimError):
    """A run could not be trained or evaluated; others may."""


@dataclass(frozen=True)
class Task:
    """Something that one process does.

    Attributes:
        name: for messages.
        work: does it.
        arguments: of `work`.
    """

    name: str
    work: Callable[..., float]
    arguments: tuple[Any, ...]


# --------------------------------------------------------------------------------- in worker processes


def end_with(parent: int) -> None:
    """End this process when its parent is killed: two trainings in one folder would spoil each other."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_cell(training: Training) -> float:
    """Train one adapter; returns the seconds it took."""
    start = _now()
    with _logged(training.folder):
        from idanim.training_run import train

        train(training_run(training))
    return _note_done(training.folder, training.arguments, training_settings(training), start)


def evaluate_cell(cell: Cell) -> float:
    """Evaluate one adapter on the grid; returns the seconds it took."""
    folder = cell.folder / "evaluation"
    start = _now()
    with _logged(folder):
        from idanim.evaluation import evaluate

        places = [f"ckpt={cell.training.ckpt}", f"output={folder}"]
        evaluate(compose("evaluate", [*cell.arguments, *places], check=False))
    overrides = [f"variant={cell.variant.name}", f"seed={cell.seed}"]
    write_text(cell.folder / ".hydra" / "overrides.yaml", "".join(f"- {text}\n" for text in overrides))
    return _note_done(folder, cell.arguments, evaluation_settings(cell), start)


def prepare_data(training: Training) -> float:
    """Compute what all runs share; returns the seconds it took."""
    start = _now()
    with _logged(training.folder):
        from idanim.training_run import prepare

        prepare(training_run(training))
    return _now()[0] - start[0]


def _now() -> tuple[float, float]:
    """Seconds by the clock, and of this process's work."""
    return time.perf_counter(), time.process_time()


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """What is printed goes to the folder's log; what is raised, too, and comes out as words."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            yield
        except Exception as error:  # whatever it is: the other runs go on, and the study names it
            traceback.print_exc()
            raise TaskFailedError(f"{type(error).__name__}: {error} (see {folder / LOG})") from None


def _note_done(folder: Path, arguments: Sequence[str], settings: Settings, start: tuple[float, float]) -> float:
    seconds, cpu_seconds = (round(now - then, 1) for now, then in zip(_now(), start, strict=True))
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    write_json(folder / DONE, {"arguments": list(arguments), "settings": settings, **times})
    return seconds


# ---------------------------------------------------------------------------------- in the first process


def is_done(folder: Path, arguments: Sequence[str], settings: Callable[[], Settings]) -> bool:
    """Whether a training run or an evaluation is complete.

    Args:
        folder: of the run.
        arguments: that it would be started with.
        settings: composes all its settings.

    Raises:
        IdanimError: it is, but was made with other settings: typed ones, or defaults that changed since.
    """
    if not (folder / DONE).is_file():
        return False
    before = read_json(folder / DONE)["arguments"]
    changed = ", ".join(sorted(set(before) ^ set(arguments)))
    if before != list(arguments):
        changed = changed or "in another order"
    elif (known := recorded(folder)) is not None:
        changed = in_words(changes(known, settings()))
    if changed:
        raise IdanimError(
            f"{folder} was made with other settings ({changed}): give the same ones, another output= folder, or "
            "remove it"
        )
    return True


def run_cells(cells: Sequence[Cell], jobs: int, say: Callable[[str], None] = print) -> dict[str, str]:
    """Train and evaluate what is not done yet. Each adapter is evaluated as soon as it is there.

    Args:
        cells: of all studies; what occurs twice is done once.
        jobs: processes.
        say: takes one line a finished task.

    Returns:
        Name of each task that failed → why. Those that hang on it are left out.

    Raises:
        IdanimError: something is complete, but was made with other settings; a process died, or the clips can't be
            prepared.
    """
    by_folder = {cell.folder: cell for cell in cells}
    # Of complete evaluations, too: or their figures would pass for those of other settings of training.
    is_trained = {cell.training.folder: _is_trained(cell.training) for cell in by_folder.values()}
    missing = [cell for cell in by_folder.values() if not _is_evaluated(cell)]
    evaluations: dict[Path, list[Cell]] = {}
    for cell in missing:
        evaluations.setdefault(cell.training.folder, []).append(cell)
    trainings = {cell.training.folder: cell.training for cell in missing}
    ready: deque[Task] = deque()
    waiting: list[Task] = []
    num_tasks = len(missing)
    for folder, training in trainings.items():
        if is_trained[folder]:
            ready.extend(_evaluation(cell) for cell in evaluations.pop(folder))
        else:
            waiting.append(Task(f"train {_short(folder)}", train_cell, (training,)))
    num_tasks += len(waiting)
    if not num_tasks:
        return {}
    ready.extend(waiting)
    pool = _Pool(jobs, num_tasks, say)
    if waiting:  # what all runs share is computed once, before they start together
        pool.run_one(Task("prepare the clips", prepare_data, waiting[0].arguments))

    def after(task: Task) -> list[Task]:
        if task.work is not train_cell:
            return []
        return [_evaluation(cell) for cell in evaluations[task.arguments[0].folder]]

    return pool.run(ready, after)


def _is_trained(training: Training) -> bool:
    return is_done(training.folder, training.arguments, partial(training_settings, training))


def _is_evaluated(cell: Cell) -> bool:
    return is_done(cell.folder / "evaluation", cell.arguments, partial(evaluation_settings, cell))


def _evaluation(cell: Cell) -> Task:
    return Task(f"evaluate {cell.name}", evaluate_cell, (cell,))


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-3:])


def _result(future: Future[float]) -> float:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise IdanimError(
            "a process died, perhaps for want of memory: try fewer jobs=. The same command goes on where it stopped"
        ) from error


class _Pool:
    """Processes that take the next task as soon as they are free; packages are imported once in each."""

    def __init__(self, jobs: int, num_tasks: int, say: Callable[[str], None]) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))  # before the processes start
        self.jobs, self.num_tasks, self.say = jobs, num_tasks, say
        self.num_done = 0
        context = get_context("spawn")
        self.executor = ProcessPoolExecutor(jobs, context, initializer=end_with, initargs=(os.getpid(),))

    def run_one(self, task: Task) -> None:
        """Do one task before all others.

        Raises:
            IdanimError: it failed.
        """
        self.say(f"{task.name}: {_result(self.executor.submit(task.work, *task.arguments)):.0f} s")

    def run(self, ready: deque[Task], after: Callable[[Task], list[Task]]) -> dict[str, str]:
        """Do all tasks, and those that `after` names once one is done; returns failures by name."""
        failures: dict[str, str] = {}
        running: dict[Future[float], Task] = {}
        try:
            while ready or running:
                while ready and len(running) < self.jobs:
                    task = ready.popleft()
                    running[self.executor.submit(task.work, *task.arguments)] = task
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    task = running.pop(future)
                    self._report(task, future, failures)
                    if task.name not in failures:
                        ready.extendleft(reversed(after(task)))
        finally:
            self.executor.shutdown(cancel_futures=True)
        return failures

    def _report(self, task: Task, future: Future[float], failures: dict[str, str]) -> None:
        self.num_done += 1
        try:
            text = f"{_result(future):.0f} s"
        except TaskFailedError as error:
            failures[task.name] = str(error)
            text = f"failed: {error}"
        self.say(f"[{self.num_done}/{self.num_tasks}] {task.name}: {text}")
