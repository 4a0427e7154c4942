"""Whether the files that a configuration names are there, asked before anything large is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from idanim.models.catalogue import CATALOGUE
from idanim.types import IdanimError

MODEL_PATHS = ("path", "base", "motion", "vae", "tokenizer", "init", "init_attention")
"""Keys of models whose value is a file or folder of weights; null is none."""
_PATHS_HERE = (*MODEL_PATHS, "recogniser")  # no model's key: of a face engine it may also be a name


def require_files(nodes: Mapping[str, Any]) -> None:
    """Refuse a configuration whose weights are not there; all of them are named at once.

    Args:
        nodes: of the models, nested as in the configuration. Parts of the package, which are always there, are
            nodes themselves and not looked at.

    Raises:
        IdanimError: names each key and path, and for public files the command that downloads them.
    """
    missing = dict(_missing(nodes))
    if not missing:
        return
    named = ", ".join(f"{key}={str(path)!r}" for key, path in missing.items())
    raise IdanimError(f"{named}: there is no such file or folder{_advice(list(missing.values()))}")


def require_ckpt(path: Path) -> Path:
    """Refuse an adapter file that is not there.

    Raises:
        IdanimError: names it, and for a public one the command that downloads it.
    """
    if not path.is_file():
        advice = _advice([path]) or "; train.py writes <output>/adapter.safetensors"
        raise IdanimError(f"ckpt={str(path)!r}: there is no such file{advice}")
    return path


def _missing(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Path]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if key == "loras":
            yield from ((f"{name}.{file}", Path(file)) for file in value or () if not _is_there(file))
        elif isinstance(value, Mapping):
            yield from _missing(value, f"{name}.")
        elif key in _PATHS_HERE and isinstance(value, str) and not _is_there(value):
            yield name, Path(value)


def _is_there(path: str) -> bool:
    return Path(path).expanduser().exists()


def _advice(missing: list[Path]) -> str:
    """How to get what is public among them; "" for none."""
    by_folder: dict[Path, list[str]] = {}
    for file in CATALOGUE:
        place = file.local(Path())
        for path in missing:
            # `path` is <folder>/<repository>/<the file, or a folder above it>
            tails = [tail for tail in (place, *place.parents[:-1]) if path.parts[-len(tail.parts) :] == tail.parts]
            if tails:
                by_folder.setdefault(Path(*path.parts[: -len(tails[0].parts)]), []).append(file.name)
    commands = [
        f"`python -m idanim.weights pull {' '.join(dict.fromkeys(names))} --folder {shlex.quote(str(folder))}`"
        for folder, names in by_folder.items()
    ]
    return f". Download what is public: {'; '.join(commands)} (docs/weights.md)" if commands else ""
