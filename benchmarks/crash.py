"""Kill the programs at random moments, run them again, and compare what they leave with an uninterrupted run.

    python benchmarks/crash.py --kills 200 --output <folder>

Each program runs once in peace; then again and again in fresh folders, killed (SIGKILL) up to a few times at moments
drawn at random over its run time, and run to its end. After every kill all files must be whole, and at the end
weights, figures, shards and videos must be those of the first run, bit for bit. The processes are forked from one that
has loaded the libraries, so that moments fall into the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import runpy
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
MAX_KILLS_A_ROUND, MAX_FAILED = 4, 20
UNCOMPARED = {"train/clips_per_s", "seconds", "git_sha", "output", "config"}
"""Figures of time and place."""


@dataclass(frozen=True)
class Program:
    """What is run, and what counts of what it leaves.

    Attributes:
        name: of the program.
        arguments: output folder → command line.
        results: output folder → name → digest.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, str]]


@dataclass
class Tally:
    """What came of the kills of one program."""

    kills: int = 0
    after_the_end: int = 0
    rounds: int = 0
    differing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------- running


def start(arguments: list[str], log: Path) -> int:
    """Run a program in a forked process; returns its process id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
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
    process, began = start(arguments, log), time.monotonic()
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill_after_s is not None and time.monotonic() - began >= kill_after_s:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.002)


# ------------------------------------------------------------------------------------------- looking


def broken_files(folder: Path) -> Iterator[str]:
    """Files that are there under their own name and can't be read to their end."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix in READERS and "wandb" not in path.parts:
            try:
                READERS[path.suffix](path)
            except FileNotFoundError:
                continue
            except Exception as error:
                yield f"{path.relative_to(folder)}: {type(error).__name__}: {str(error)[:200]}"


def read_tar(path: Path) -> None:
    """Every sample of a shard."""
    from idanim.data.sample import from_members
    from idanim.data.shards import ShardIndex

    index = ShardIndex.scan(path)
    for key in index.keys:
        from_members(index.read(key))


def read_tensors(path: Path) -> dict[str, Any]:
    """Of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Of a run."""
    from idanim.models.torch_file import load_torch

    return load_torch(path, path.name)


def read_csv(path: Path) -> None:
    """Every row has every column."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert len({len(row) for row in rows}) == 1, "rows of different length"


def read_parquet(path: Path) -> None:
    """All of it."""
    import pyarrow.parquet as pq

    pq.read_table(path)


def read_video(path: Path) -> None:
    """Every frame."""
    from idanim.video import read_frames

    read_frames(path)


def read_picture(path: Path) -> None:
    """Its pixels."""
    from idanim.pictures import decode_picture

    decode_picture(path.read_bytes(), path.name)


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".tar": read_tar,
    ".safetensors": read_tensors,
    ".ckpt": read_checkpoint,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".mp4": read_video,
    ".png": read_picture,
    ".jpg": read_picture,
    ".html": lambda path: path.read_text().rindex("</html>"),
}


def digest(content: Any) -> str:
    """Of bytes, tensors, or anything that JSON holds, nested in dicts and lists."""
    total = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, dict):
            for key in sorted(node, key=str):
                total.update(f"{key}:".encode())
                add(node[key])
        elif isinstance(node, list | tuple):
            for item in node:
                add(item)
        elif hasattr(node, "numpy"):
            total.update(f"{tuple(node.shape)}{node.dtype}".encode() + node.numpy().tobytes())
        else:
            total.update(node if isinstance(node, bytes) else repr(node).encode())

    add(content)
    return total.hexdigest()[:16]


def files(folder: Path, *patterns: str) -> dict[str, str]:
    """Digest of each file's bytes."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): digest(path.read_bytes()) for path in paths}


def figures(path: Path) -> str:
    """Digest of the figures in a metrics.json."""
    content = json.loads(path.read_text())
    summary = {key: value for key, value in content["summary"].items() if key not in UNCOMPARED}
    return digest(summary)


def of_training(output: Path) -> dict[str, str]:
    """Weights, training state and figures."""
    checkpoint = read_checkpoint(output / "checkpoints" / "last.ckpt")
    names = ("state_dict", "ema_state_dict", "ema_updates", "optimizer_states", "lr_schedulers", "global_step")
    return {
        "adapter": digest(read_tensors(output / "adapter.safetensors")),
        "checkpoint": digest({name: checkpoint[name] for name in names}),
        "figures": figures(output / "metrics.json"),
    } | files(output, "previews/**/*.mp4")


def of_latents(output: Path) -> dict[str, str]:
    """The tensors of every shard."""
    return {path.name: digest(read_tensors(path)) for path in sorted(output.glob("latents/*/*.safetensors"))}


def of_sweep(output: Path) -> dict[str, str]:
    """Those of each job."""
    jobs = sorted(path.parent.parent for path in output.glob("*/checkpoints/last.ckpt"))
    return {f"{job.name}/{name}": value for job in jobs for name, value in of_training(job).items()}


def of_evaluation(output: Path) -> dict[str, str]:
    """Figures and videos."""
    return {"figures": figures(output / "metrics.json")} | files(output, "videos/**/*.mp4", "videos/**/*.json")


# ------------------------------------------------------------------------------------------ programs

TINY = [
    "backbone=tiny",
    "backbone.video={num_frames: 8, height: 32, width: 32}",
    "logger=csv",
    "faces=toy",
    "every_n_steps.log=1",
    "every_n_steps.checkpoint=2",
    "every_n_steps.validate=3",
    "every_n_steps.preview=4",
    "every_n_steps.id_token_share=3",
    "previews.num_identities=1",
    "previews.prompts=[a smile]",
]


def programs(shards: Path, videos: Path) -> list[Program]:
    """Everything that is killed."""
    train = ["train.py", *TINY, f"data.shards={shards}", "trainer.max_steps=8"]
    one = ["train.py", *TINY, f"data.shards={shards}", "trainer.max_steps=1"]
    curate = ["idanim.curate", f"input={videos}", "clip.size=32", "shards.val_fraction=0.25"]
    curate += ["link.warn_similarity=0.95", "workers=0"]
    adapter = ROOT / "src" / "idanim" / "toyworld" / "weights" / "adapter.safetensors"
    evaluate = [
        "evaluate.py",
        f"ckpt={adapter}",
        f"data.shards={shards}",
        "num_identities=2",
        "systems=[no_adapter,adapter]",
    ]
    evaluate += ["prompts=[a person is smiling]", "sampling.num_inference_steps=2", "num_strangers=2"]
    varied = ["adapter.scale=0.5,1.0"]
    return [
        Program("train", lambda output: [*train, f"output={output}"], of_training),
        Program("latents", lambda output: [*one, f"output={output}", f"data.latents={output}/latents"], of_latents),
        Program(
            "curate",
            lambda output: [*curate, f"output={output}"],
            lambda output: files(output, "*.tar", "annotations.jsonl", "report.json"),
        ),
        Program("evaluate", lambda output: [*evaluate, f"output={output}"], of_evaluation),
        Program("sweep", lambda output: [*train[:1], "--multirun", *train[1:], *varied, f"output={output}"], of_sweep),
    ]


def crash(program: Program, kills: int, output: Path, rng: np.random.Generator) -> Tally:
    """Kill one program so many times."""
    tally = Tally()
    straight = output / "straight"
    began = time.monotonic()
    status = run(program.arguments(straight), output / "straight.log")
    seconds = time.monotonic() - began
    if status != 0:
        tally.failed.append(f"without a kill: exit status {status}, see {output / 'straight.log'}")
        return tally
    expected = program.results(straight)
    while tally.kills < kills and len(tally.failed) < MAX_FAILED:
        tally.rounds += 1
        folder, log = output / f"round_{tally.rounds}", output / f"round_{tally.rounds}.log"
        for again in range(min(int(rng.integers(1, MAX_KILLS_A_ROUND + 1)), kills - tally.kills)):
            moment = float(rng.uniform(0, 1.05 * seconds)) / (1 + again)  # less and less is left to do
            status = run(program.arguments(folder), log, moment)
            if status is None:
                tally.kills += 1
            elif status:
                tally.failed.append(f"round {tally.rounds}: exit status {status}, see {log}")
            else:
                tally.after_the_end += 1
            tally.broken += [f"round {tally.rounds}: {text}" for text in broken_files(folder) if folder.is_dir()]
        status = run(program.arguments(folder), log)
        if status:
            tally.failed.append(f"round {tally.rounds}, the last run: exit status {status}, see {log}")
            continue
        found = program.results(folder)
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        tally.differing += [f"round {tally.rounds}: {name}" for name in names]
        if not names:
            shutil.rmtree(folder)
    return tally


def prepare(output: Path, people: int) -> tuple[Path, Path]:
    """Film and curate the toy world for the other programs."""
    videos, shards = output / "videos", output / "shards"
    log = output / "prepare.log"
    film = ["idanim.toyworld.make_videos", str(videos), "--people", str(people), "--clips", "2", "--frames", "16"]
    cut = ["idanim.curate", f"input={videos}", f"output={shards}", "clip.size=32", "shards.val_fraction=0.25"]
    for arguments in ([*film, "--size", "144"], [*cut, "link.warn_similarity=0.95", "shards.max_clips=4"]):
        if run(arguments, log):
            sys.exit(f"the toy world could not be made; see {log}")
    return videos, shards


def main() -> None:
    """Kill, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all programs together")
    parser.add_argument("--programs", default="train,latents,curate,evaluate,sweep")
    parser.add_argument("--output", type=Path, default=Path("outputs/crash"))
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "IDANIM_DEBUG": ""}
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

    torch.set_num_threads(1)
    videos, shards = prepare(output, options.people)
    names = options.programs.split(",")
    chosen = [program for program in programs(shards, videos) if program.name in names]
    tallies: dict[str, Tally] = {}
    print("program    kills  too late  rounds  differing  broken  failed   minutes", flush=True)
    for number, program in enumerate(chosen):
        folder, began = output / program.name, time.monotonic()
        folder.mkdir()
        kills = options.kills // len(chosen) + (number < options.kills % len(chosen))
        tally = tallies[program.name] = crash(program, kills, folder, np.random.default_rng([options.seed, number]))
        counts = (tally.kills, tally.after_the_end, tally.rounds)
        bad = (len(tally.differing), len(tally.broken), len(tally.failed))
        minutes = (time.monotonic() - began) / 60
        print(
            "{:<10} {:>5} {:>9} {:>7} {:>10} {:>7} {:>7} {:>9.1f}".format(program.name, *counts, *bad, minutes),
            *(f"    {text}" for text in (*tally.differing, *tally.broken, *tally.failed)),
            sep="\n",
            flush=True,
        )
    report = {name: vars(tally) for name, tally in tallies.items()}
    (output / "crash.json").write_text(json.dumps(report, indent=1))
    sys.exit(any(tally.differing or tally.broken or tally.failed for tally in tallies.values()))


if __name__ == "__main__":
    main()
