"""Whether the recogniser that judges had a part in making the videos: then it would flatter them. Entry-point glue."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idanim.config import built_or_plain, restore
from idanim.faces.engine import FaceEngine
from idanim.files import sha256
from idanim.models.adapter_file import ProjectionKind, read_adapter_file
from idanim.models.checkpoint import NoStoredConfigError, read_adapter
from idanim.toyworld.shipped import is_shipped, shipped
from idanim.types import IdanimError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UsedRecogniser:
    """A recogniser with a part in making videos.

    Attributes:
        file: name of its file, without folder.
        part: what it did, in words.
        digest: of the file; None where it is not there.
    """

    file: str
    part: str
    digest: str | None

    def is_in(self, judge: Path) -> bool:
        """Whether the judge's file is the same one, by content or by name without ending."""
        same_content = self.digest is not None and judge.is_file() and sha256(judge) == self.digest
        return same_content or Path(self.file).stem == judge.stem


def used_recognisers(ckpt: Path, config: Mapping[str, Any], guides: bool = False) -> list[UsedRecogniser]:
    """The recognisers that trained an adapter, or what it started from, that it sees people through, or that lead it.

    Args:
        ckpt: adapter file.
        config: training configuration that it is run with, see `idanim.assembly.training_config`.
        guides: whether the backbone's recogniser leads the sampling.
    """
    found = [*_trained_by(ckpt, config), *_behind_start(config, {_place(ckpt)})]
    found += [(path, "is what it sees people through (encoder)") for path in _paths(config["encoder"]["model"])]
    if _sees_through_backbone(ckpt):
        found.append((config["backbone"]["recogniser"], "is what it sees people through (backbone.recogniser)"))
    if guides:
        found.append((config["backbone"]["recogniser"], "leads its videos (sampling.identity_guidance)"))
    files = [(Path(str(built_or_plain(path))).expanduser(), part) for path, part in found if path is not None]
    return [UsedRecogniser(path.name, part, sha256(path) if path.is_file() else None) for path, part in files]


def _trained_by(ckpt: Path, config: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Path of the recogniser in the loss that trained an adapter, and its part."""
    if is_shipped(str(ckpt)):  # whatever backbone it is run with now
        return [(shipped("faces/recogniser_a.onnx"), "trained it (the toy world's adapter)")]
    path = _at(config, "identity_loss", "loss", "recogniser", "path")
    return [] if path is None else [(path, "trained it (identity_loss)")]


def _behind_start(config: Mapping[str, Any], seen: set[Path]) -> list[tuple[Any, str]]:
    """The same of the adapters that training started from, as far as their files are there and say it.

    The videos don't need these files, so one that can't be read is no error.
    """
    found = []
    for key in ("init", "init_attention"):
        start = _at(config, "adapter", key)
        path = None if start is None else _place(Path(str(built_or_plain(start))))
        if path is None or path in seen or not path.is_file():
            continue
        seen.add(path)
        try:
            own = restore("train", read_adapter(path).config)
            found += [
                (file, f"{part}, from which training started (adapter.{key})") for file, part in _trained_by(path, own)
            ]
            found += _behind_start(own, seen)
        except NoStoredConfigError:
            continue
        except (IdanimError, OSError) as error:
            _log.warning(
                "which recogniser trained what training started from (adapter.%s) is not known: %s", key, error
            )
    return found


def _at(node: Any, *keys: str) -> Any:
    """What lies under nested keys; None where something on the way is missing."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _place(path: Path) -> Path:
    return path.expanduser().resolve()


def _paths(node: Any) -> list[Any]:
    """`path` of every `recogniser` below an encoder's node."""
    if not isinstance(node, Mapping):
        return []
    own = [node["recogniser"]["path"]] if "recogniser" in node else []
    return own + [path for value in node.values() for path in _paths(value)]


def _sees_through_backbone(ckpt: Path) -> bool:
    """Whether it is a FaceID file of others, which takes the backbone's recogniser."""
    try:
        read_adapter(ckpt)
    except NoStoredConfigError:
        return read_adapter_file(ckpt).projection is not ProjectionKind.RESAMPLER
    return False


def as_stored(recognisers: Iterable[UsedRecogniser]) -> list[dict[str, Any]]:
    """For the record of a video."""
    return [asdict(recogniser) for recogniser in recognisers]


def from_record(made_with: Mapping[str, Any]) -> list[UsedRecogniser]:
    """What the record of a video names; none in those of other programs."""
    stored = made_with.get("recognisers", [])
    return [UsedRecogniser(**row) for row in stored]


def partial_judgements(engine: FaceEngine, used: Mapping[str, Iterable[UsedRecogniser]]) -> list[str]:
    """What is wrong with this engine as a judge, in words, once for systems alike; nothing where it had no part.

    Args:
        engine: that scores.
        used: system → recognisers with a part in its videos.
    """
    judge = getattr(engine, "recogniser_file", None)
    if judge is None:
        return []
    systems: dict[tuple[str, ...], list[str]] = {}
    for system, recognisers in used.items():
        parts = tuple(dict.fromkeys(recogniser.part for recogniser in recognisers if recogniser.is_in(Path(judge))))
        if parts:
            systems.setdefault(parts, []).append(system)
    return [
        f"{engine.name} judges {', '.join(names)} by {Path(judge).name}, which {' and '.join(parts)}"
        for parts, names in systems.items()
    ]


def refuse_partial_judge(engine: FaceEngine, used: Mapping[str, Iterable[UsedRecogniser]], allowed: bool) -> None:
    """Refuse a judge that had a part in the videos, unless that is allowed.

    Raises:
        IdanimError: says what part it had, and what to do.
    """
    found = partial_judgements(engine, used)
    if found and not allowed:
        raise IdanimError(
            f"{'; '.join(found)}, so its figures would flatter: score with another recogniser (faces=…, faces.pack=…, "
            "faces.recogniser=…), or take these figures with a warning (allow_trained_judge=true)"
        )
