"""Recipes: the part of a video's json that makes the same video again, and whether everything is still the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from idanim.config import Run, built_or_plain, restore, storable
from idanim.files import sha256
from idanim.generation.settings import SamplingSettings
from idanim.metrics.videos import read_record
from idanim.models.required_files import MODEL_PATHS
from idanim.types import IdanimError

PACKAGES = ("idanim", "torch", "diffusers", "transformers", "numpy", "pillow", "av")
"""Whose versions may change the bytes of a video."""

_NOT_OF_ONE_VIDEO: dict[str, Any] = {
    "output": None,
    "recipe": None,
    "people": None,
    "prompts": None,
    "sweep": None,
    "formats": [],
}
_PATH_KEYS = (*MODEL_PATHS, "folder", "root", "images")
_OF_TRAINING = ("shards",)
"""Defaults of a backbone that no video reads; a recipe says them the same whether or not such a folder is there."""


def recipe_of(run: Run, settings: SamplingSettings, **shown: Any) -> dict[str, Any]:
    """The configuration that makes one video, storable as json; paths in it are absolute.

    Args:
        run: the configured run.
        settings: of this video.
        shown: keys of the configuration that say what it shows, with their values.
    """
    sampling = {key: value for key, value in asdict(settings).items() if key in run.config["sampling"]}
    values = {**run.config, **_NOT_OF_ONE_VIDEO, "sampling": sampling, **shown}
    values["sampler"] = {**values["sampler"], "scheduler": settings.scheduler}
    values["ckpt"] = str(Path(built_or_plain(values["ckpt"])).expanduser().resolve())
    values |= {key: _absolute(values[key]) for key in ("backbone", "model", "control", "faces", "sampler")}
    stored = storable(replace(run, config=values))
    return {key: value for key, value in stored.items() if key != "git_sha"}  # the record has it


def _absolute(node: Any, key: str = "") -> Any:
    """The node with absolute paths in place of those of existing files."""
    if isinstance(node, Mapping):
        if _is_shipped(node):
            return node
        return {
            _absolute(name): value if name in _OF_TRAINING else _absolute(value, name) for name, value in node.items()
        }
    if isinstance(node, list):
        return [_absolute(item, key) for item in node]
    return str(Path(node).expanduser().resolve()) if _is_path(node, key) else node


def _is_shipped(node: Mapping[str, Any]) -> bool:
    # A part of the package, whose name is no path.
    return set(node) == {"_target_", "name"}


def _is_path(value: Any, key: str) -> bool:
    # Any word may also be a folder's name, so elsewhere only what looks like a path counts.
    if not isinstance(value, str) or not (key in _PATH_KEYS or "/" in value or Path(value).suffix):
        return False
    return Path(value).expanduser().exists()


def run_of(recipe: Path, output: Path, git_sha: str) -> Run:
    """The run that makes the video of a json again.

    Raises:
        IdanimError: the json is no recipe, or a file that it names is missing or another one now.
    """
    if not recipe.is_file():
        raise IdanimError(f"recipe={str(recipe)!r}: there is no such file")
    if recipe.suffix not in (".json", ".mp4"):
        raise IdanimError(f"recipe={str(recipe)!r}: expected the .json beside a video")
    record = read_record(recipe.with_suffix(".mp4"))
    stored = record.made_with.get("recipe")
    if not isinstance(stored, dict):
        raise IdanimError(f"{recipe}: no recipe in it; only videos of `python -m idanim.generate` have one")
    for name, expected in record.made_with.get("files", {}).items():
        if not Path(name).exists():
            raise IdanimError(f"{recipe}: {name} is missing")
        if hashes_of([name])[name] != expected:
            raise IdanimError(f"{recipe}: {name} is not what it was when the video was made (its hash differs)")
    config = restore("generate", stored)
    return Run(config, output, stored["choices"], git_sha)


def changed_versions(recipe: Path) -> list[str]:
    """Packages that are not as they were: "torch 2.12.0 → 2.13.0"."""
    then = read_record(recipe.with_suffix(".mp4")).made_with.get("versions", {})
    return [f"{name} {then.get(name)} → {now}" for name, now in versions().items() if then.get(name) != now]


def versions() -> dict[str, str]:
    """Versions of everything that may change the bytes of a video."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return {name: of(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def hashes_of(nodes: Any) -> dict[str, str]:
    """Absolute path → SHA-256 of every file that configuration nodes name; a folder's is that of all in it."""
    return {str(path): sha256(path) if path.is_file() else _folder_hash(path) for path in dict.fromkeys(_paths(nodes))}


def short_names(files: Iterable[Path]) -> dict[Path, str]:
    """File → its name, with as many of its folders before it as tell it from the others."""
    parts = {file: file.resolve().parts for file in files}
    names = {}
    for file, own in parts.items():
        others = [other for other in parts.values() if other != own]
        depth = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names[file] = "/".join(own[-depth:])
    return names


def _paths(node: Any, key: str = "") -> Iterator[Path]:
    if isinstance(node, Mapping) and _is_shipped(node):
        yield from _paths(str(built_or_plain(node)))
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _paths(name)
            yield from _paths(value, name)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _paths(item, key)
    elif _is_path(node, key):
        yield Path(node).expanduser().resolve()


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()
