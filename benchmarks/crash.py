"""Kill the programs at random moments, run them again, and compare what they leave with an uninterrupted run.

    python benchmarks/crash.py --kills 200 --jobs 8 --output <folder>

Each program runs once in peace; then again and again in fresh folders, killed (SIGKILL) up to a few times at moments
drawn at random over its run time, and run to its end. After every kill all files must be whole, and at the end
weights, figures, shards and videos must be those of the first run, bit for bit. The processes are forked from one that
has loaded the libraries, so that moments fall into the work.

`crash.json` is written after every round; `--seconds` and SIGTERM end the work with what is there. The exit status is 0
only if every program was killed, at least once, and left what it should.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from crash_programs import ROOT, Program, broken_files, difference, programs

MAX_KILLS_A_ROUND, MAX_FAILED = 4, 20
LOG_TAIL_CHARS = 600


@dataclass
class Tally:
    """What came of the kills of one program.

    Attributes:
        kills: as many.
        after_the_end: the program was done before the kill.
        rounds: a round is a fresh folder, killed some times and then run to its end.
        differing: results that are not those of the run in peace.
        broken: files that were not whole after a kill.
        failed: runs that ended with an error.
    """

    kills: int = 0
    after_the_end: int = 0
    rounds: int = 0
    differing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in another one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Work:
    """One program's way through the rounds.

    Attributes:
        kills: wanted.
        number: of the program.
        seconds: that the run in peace took; None before its end.
        expected: its results.
        planned: kills of the rounds under way, by the round's number; 0 is the run in peace.
        started: rounds so far.
    """

    program: Program
    folder: Path
    kills: int
    number: int
    seconds: float | None = None
    expected: dict[str, str] = field(default_factory=dict)
    planned: dict[int, int] = field(default_factory=dict)
    started: int = 0
    tally: Tally = field(default_factory=Tally)

    @property
    def share(self) -> float:
        """How much of it is done or under way."""
        return -1 if self.seconds is None else (self.tally.kills + sum(self.planned.values())) / self.kills

    def may_start(self, end: float) -> bool:
        """Whether there is something to start that can be over in time."""
        if self.seconds is None:
            return not self.planned and not self.tally.failed
        in_time = time.monotonic() + 2 * self.seconds < end
        return self.share < 1 and in_time and len(self.tally.failed) < MAX_FAILED


# ------------------------------------------------------------------------------------------- running


def start(arguments: list[str], log: Path) -> int:
    """Run a program in a forked process with a process group of its own; returns its process id."""
    process = os.fork()
    if process:
        os.setpgid(process, process)  # here too: a kill may come before the child gets to it
        return process
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = arguments
    status = 1
    try:
        if arguments[0].endswith(".py"):
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(arguments: list[str], log: Path, kill_after_s: float | None = None) -> int | None:
    """Run to the end, or kill the process and its children.

    Returns:
        The exit status; None when it was killed.
    """
    process, began, ended = start(arguments, log), time.monotonic(), False
    try:
        while True:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                ended = True
                return os.waitstatus_to_exitcode(status)
            if kill_after_s is not None and time.monotonic() - began >= kill_after_s:
                return None
            time.sleep(0.002)
    finally:
        if not ended:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)


def run_in_peace(program: Program, folder: Path) -> dict[str, Any]:
    """Once to the end: how long it took and what it left."""
    log = folder / "straight.log"
    began = time.monotonic()
    status = run(program.arguments(folder / "straight"), log)
    if status:
        return {"failed": f"without a kill: {told(status, log)}"}
    return {"seconds": time.monotonic() - began, "expected": program.results(folder / "straight")}


def run_a_round(work: Work, number: int, kills: int, rng: np.random.Generator, end: float) -> Tally:
    """Kill so many times, then run to the end and compare; no more kills where the end is near."""
    assert work.seconds is not None
    tally = Tally(rounds=1)
    program, folder, log = work.program, work.folder / f"round_{number}", work.folder / f"round_{number}.log"
    for again in range(kills):
        moment = float(rng.uniform(0, 1.05 * work.seconds)) / (1 + again)  # less and less is left to do
        if time.monotonic() + moment + 1.5 * work.seconds > end:
            break
        status = run(program.arguments(folder), log, moment)
        if status is None:
            tally.kills += 1
        elif status:
            tally.failed.append(f"round {number}: {told(status, log)}")
        else:
            tally.after_the_end += 1
        tally.broken += [f"round {number}: {text}" for text in broken_files(folder) if folder.is_dir()]
    status = run(program.arguments(folder), log)
    if status:
        tally.failed.append(f"round {number}, the last run: {told(status, log)}")
        return tally
    found = program.results(folder)
    names = sorted(name for name in work.expected.keys() | found.keys() if work.expected.get(name) != found.get(name))
    texts = [difference(name, work.folder / "straight", folder) for name in names]
    tally.differing += [f"round {number}: {text}" for text in texts]
    if not names:
        shutil.rmtree(folder)
    return tally


def told(status: int | None, log: Path) -> str:
    """Of a failed run."""
    return f"exit status {status}, {log} ends with: …{log.read_text(errors='replace')[-LOG_TAIL_CHARS:]}"


# -------------------------------------------------------------------------------------- side by side


def in_a_process(act: Callable[[], Any], result: Path) -> multiprocessing.Process:
    """Do it beside; what comes of it is written to a file. SIGTERM ends it and its program."""

    def body() -> None:
        from idanim.files import write_json  # not above: what it loads wants the environment as `main` sets it

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        write_json(result, act())

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


@contextmanager
def sigterm() -> Iterator[list[int]]:
    """A list that is no longer empty after SIGTERM."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def begin(work: Work, seed: int, end: float) -> tuple[multiprocessing.Process, int, Path]:
    """Start the run in peace, or the next round."""
    if work.seconds is None:
        result, number = work.folder / "straight.json", 0
        work.planned[0] = 0
        return in_a_process(lambda: run_in_peace(work.program, work.folder), result), number, result
    number = work.started = work.started + 1
    rng = np.random.default_rng([seed, work.number, number])
    wanted = work.kills - work.tally.kills - sum(work.planned.values())
    kills = work.planned[number] = min(int(rng.integers(1, MAX_KILLS_A_ROUND + 1)), wanted)
    result = work.folder / f"round_{number}.json"
    act = lambda: asdict(run_a_round(work, number, kills, rng, end))  # noqa: E731
    return in_a_process(act, result), number, result


def collect(work: Work, number: int, result: Path) -> None:
    """Take in what a process left."""
    del work.planned[number]
    if not result.is_file():
        work.tally.failed.append(f"round {number}: the harness itself failed")
    elif number:
        work.tally.add(Tally(**json.loads(result.read_text())))
    else:
        straight = json.loads(result.read_text())
        work.seconds, work.expected = straight.get("seconds"), straight.get("expected", {})
        work.tally.failed += [straight["failed"]] if "failed" in straight else []


def crash(works: list[Work], jobs: int, seed: int, end: float, report: Callable[[str, int], None]) -> None:
    """Kill all programs as often as wanted, evenly, so many side by side, up to the end of the time."""
    running: dict[int, tuple[multiprocessing.Process, Work, int, Path]] = {}
    with sigterm() as came:
        while not came and time.monotonic() < end:
            startable = sorted((work for work in works if work.may_start(end)), key=lambda work: work.share)
            if startable and len(running) < jobs:
                process, number, result = begin(startable[0], seed, end)
                running[process.sentinel] = (process, startable[0], number, result)
                continue
            if not running:
                break
            for sentinel in wait(list(running), timeout=0.2):
                process, work, number, result = running.pop(sentinel)  # type: ignore[call-overload]
                process.join()
                collect(work, number, result)
                report("under way", len(running))
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()
    report(ending(works, bool(came), end), len(running))


def ending(works: list[Work], is_told: bool, end: float) -> str:
    """Why no more is started: "all kills done", "SIGTERM", "time is up" or "failures"."""
    if all(work.tally.kills >= work.kills and not work.planned for work in works):
        return "all kills done"
    if is_told:
        return "SIGTERM"
    return "time is up" if time.monotonic() + 2 * max(work.seconds or 0 for work in works) > end else "failures"


def shortcomings(works: list[Work], state: str) -> list[str]:
    """Why the programs do not pass: faults, a program that was never killed, an end that nobody asked for."""
    faults = [work for work in works if work.tally.differing or work.tally.broken or work.tally.failed]
    texts = [f"{work.program.name}: not as it should be, see above" for work in faults]
    texts += [f"{work.program.name}: never killed, so nothing is known of it" for work in works if not work.tally.kills]
    return texts + ([f"not all kills were done: {state}"] if state == "failures" else [])


def table(works: list[Work]) -> str:
    """Of all programs, with what was not as it should be below each."""
    lines = ["program    kills  too late  rounds  differing  broken  failed   run in peace"]
    for work in works:
        tally = work.tally
        counts = (tally.kills, tally.after_the_end, tally.rounds)
        bad = (len(tally.differing), len(tally.broken), len(tally.failed))
        lines.append(
            "{:<10} {:>5} {:>9} {:>7} {:>10} {:>7} {:>7} {:>12.1f} s".format(
                work.program.name, *counts, *bad, work.seconds or 0
            )
        )
        lines += [f"    {text}" for text in (*tally.differing, *tally.broken, *tally.failed)]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- main


def prepare(output: Path, people: int) -> tuple[Path, Path]:
    """Film and curate the toy world for the other programs."""
    videos, shards = output / "videos", output / "shards"
    log = output / "prepare.log"
    film = ["idanim.toyworld.make_videos", str(videos), "--people", str(people), "--clips", "2", "--frames", "16"]
    cut = ["idanim.curate", f"input={videos}", f"output={shards}", "clip.size=32", "shards.val_fraction=0.25"]
    for arguments in ([*film, "--size", "144"], [*cut, "link.warn_similarity=0.95", "shards.max_clips=4"]):
        if status := run(arguments, log):
            sys.exit(f"the toy world could not be made: {told(status, log)}")
    return videos, shards


def options_of_the_command_line(arguments: list[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all programs together")
    parser.add_argument("--programs", default="train,latents,curate,evaluate,sweep")
    parser.add_argument("--output", type=Path, default=Path("outputs/crash"))
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="rounds side by side")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long, with what is there")
    options = parser.parse_args(arguments)
    known = [program.name for program in programs(Path(), Path())]
    options.programs = options.programs.split(",")
    if unknown := [name for name in options.programs if name not in known]:
        parser.error(f"--programs: there is no {', '.join(map(repr, unknown))}; known: {','.join(known)}")
    if options.kills < len(options.programs):
        parser.error(f"--kills {options.kills}: at least one for each of the {len(options.programs)} programs")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least 1")
    return options


def main() -> None:
    """Kill, compare, tell."""
    options, began = options_of_the_command_line(), time.monotonic()
    os.chdir(ROOT)
    # One thread each; no GPU, on which sums have no fixed order.
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "IDANIM_DEBUG": "", "CUDA_VISIBLE_DEVICES": ""}
    warnings.simplefilter("ignore")
    output = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    import torch

    import idanim.assembly
    import idanim.curate
    import idanim.evaluation
    import idanim.previews
    import idanim.training.callbacks  # noqa: F401 (loaded once, before all forks)
    from idanim.files import write_json

    torch.set_num_threads(1)
    videos, shards = prepare(output, options.people)
    chosen = [program for program in programs(shards, videos) if program.name in options.programs]
    works = []
    for number, program in enumerate(chosen):
        (output / program.name).mkdir()
        kills = options.kills // len(chosen) + (number < options.kills % len(chosen))
        works.append(Work(program, output / program.name, kills, number))

    def report(state: str, cut_off: int) -> None:
        total = sum(work.tally.kills for work in works)
        figures = {"kills": total, "jobs": options.jobs, "seconds": round(time.monotonic() - began, 1), "state": state}
        tallies = {work.program.name: asdict(work.tally) for work in works}
        write_json(output / "crash.json", figures | {"rounds_cut_off": cut_off, "programs": tallies})

    crash(works, options.jobs, options.seed, began + options.seconds, report)
    figures = json.loads((output / "crash.json").read_text())
    print(table(works))
    print(
        "{kills} kills in {seconds:.0f} s, {jobs} side by side; {state}; {rounds_cut_off} rounds cut off".format(
            **figures
        )
    )
    sys.exit("\n".join(shortcomings(works, figures["state"])) or 0)


if __name__ == "__main__":
    main()
