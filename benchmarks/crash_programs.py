"""What `crash.py` kills, what counts of what it leaves, and which of its files are whole.

Only toy faces and the tiny backbone: nothing is read but the package and what was filmed for this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
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


def difference(name: str, straight: Path, folder: Path) -> str:
    """Name of a result that is not that of the run in peace; of a video also what is seen of it.

    Args:
        name: of the result.
        straight: output folder of the run in peace.
        folder: that of the other.
    """
    first, second = straight / name, folder / name
    if first.suffix != ".mp4":
        return name
    if not (first.is_file() and second.is_file()):
        return f"{name} (only in {'the run in peace' if first.is_file() else 'this round'})"
    from idanim.video import UnreadableVideoError, read_frames

    try:
        before, after = (read_frames(path).astype(int) for path in (first, second))
    except UnreadableVideoError as error:
        return f"{name} ({error})"
    if before.shape != after.shape:
        return f"{name} (frames {before.shape} and {after.shape})"
    apart = abs(before - after)
    return f"{name} ({(apart > 0).sum()} of {apart.size} values of its pixels, by at most {apart.max()} of 255)"


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
        "logger=csv",
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
