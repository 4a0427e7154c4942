"""The systems of an evaluation: which adapter makes the videos of each, and making them. Entry-point glue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from idanim.assembly import require_runnable
from idanim.files import sha256
from idanim.generation.output import provenance
from idanim.generation.sampler import Sampler, VideoRequest
from idanim.generation.settings import SamplingSettings
from idanim.metrics.grid import NOBODY, Cell
from idanim.metrics.people import Person
from idanim.metrics.videos import VideoRecord, is_made, write_video
from idanim.recipe import versions
from idanim.trained_judge import UsedRecogniser, as_stored
from idanim.types import GeneratedClip, IdanimError
from idanim.video import UnusableVideoError

ADAPTER, NO_ADAPTER, INIT = BUILT_IN = ("adapter", "no_adapter", "init")

Loader = Callable[..., tuple[Sampler, dict[str, Any]]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class System:
    """What makes the videos of one column of the grid.

    Attributes:
        name: in the report.
        ckpt: adapter file; of `no_adapter` one that names the backbone.
        is_named: an adapter file of its own, beside `ckpt=`.
    """

    name: str
    ckpt: Path
    is_named: bool = False

    @property
    def shows_nobody(self) -> bool:
        """Whether it takes no reference."""
        return not self.is_named and self.name == NO_ADAPTER

    @property
    def is_initial(self) -> bool:
        """Whether it has the weights that training started from."""
        return not self.is_named and self.name == INIT


def parse_systems(systems: Sequence[str] | Mapping[str, str | None], ckpt: Path | None) -> list[System]:
    """What `systems=` names: those of `ckpt` first, so that models are loaded once.

    Args:
        systems: `adapter`, `no_adapter`, `init`, adapter files, `<name>=<file>`; or name → file, null for those three.
        ckpt: adapter file of `adapter` and `init`; without one, `no_adapter` is the backbone of the first file.

    Raises:
        IdanimError: a file is not there or holds no adapter that runs, a name is missing or taken twice.
    """
    pairs = [_named(text) for text in systems] if not isinstance(systems, Mapping) else list(systems.items())
    if not pairs:
        raise IdanimError(f"systems: expected some of {', '.join(BUILT_IN)}, or adapter files")
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise IdanimError(f"systems: {', '.join(twice)} is there twice; tell files apart with <name>=<file>")
    files = [System(name, _file(name, file), is_named=True) for name, file in pairs if file is not None]
    main = ckpt or (files[0].ckpt if files else None)
    built_in = [name for name, file in pairs if file is None]
    unknown = sorted(set(built_in) - set(BUILT_IN))
    if unknown:
        raise IdanimError(
            f"systems: {', '.join(unknown)}: expected some of {', '.join(BUILT_IN)}, or an adapter file that is there"
        )
    if main is None or (ckpt is None and {ADAPTER, INIT} & set(built_in)):
        raise IdanimError(f"systems={','.join(names)}: give ckpt=<file>, whose adapter it is")
    own = sorted(built_in, key=lambda name: name == INIT)  # the last one: it is loaded by itself
    result = [*(System(name, main) for name in own), *files]
    return sorted(result, key=lambda system: system.ckpt != main) if ckpt is None else result


def _named(text: str) -> tuple[str, str | None]:
    """Name and file of one entry of a list; no file for a built-in one."""
    name, equals, file = text.partition("=")
    if equals and not Path(text).expanduser().is_file():
        return name, file
    path = Path(text).expanduser()
    if text in BUILT_IN or not path.is_file():
        return text, None
    # train.py calls every adapter the same: what tells them apart is the folder
    return (path.absolute().parent.name if path.stem == ADAPTER else path.stem), text


def _file(name: str, file: str) -> Path:
    path = Path(file).expanduser()
    if name in BUILT_IN or not name or "/" in name:
        raise IdanimError(f"systems: {name!r} can't be the name of {file}: it is taken, empty or has a slash in it")
    if not path.is_file():
        raise IdanimError(f"systems: {name}: {file!r}: there is no such file")
    require_runnable(path)
    return path


class SystemLoader:
    """Loads the models of a system, and keeps those of one: models are large.

    Args:
        load: rebuilds a sampler from an adapter file, see `load_sampler`.
        options: its arguments behind the file: overrides, device, scale, backbone.
        prepare: done to each sampler that was loaded, given with the configuration it was built from.
    """

    def __init__(
        self,
        load: Loader,
        options: Sequence[Any],
        prepare: Callable[[Sampler, Mapping[str, Any]], None] = lambda sampler, config: None,
    ) -> None:
        self._load = load
        self._prepare = prepare
        self._options = options
        self._key: tuple[Path, bool] | None = None
        self._loaded: tuple[Sampler, dict[str, Any]] | None = None

    def __call__(
        self, system: System, default_backbone: Mapping[str, Any] | None = None
    ) -> tuple[Sampler, dict[str, Any]]:
        """The sampler of a system and the configuration it was built from."""
        key = (system.ckpt, system.is_initial)
        if self._loaded is None or key != self._key:
            self._loaded = None  # frees the memory before the next models come
            more: dict[str, Any] = {"initial": True} if system.is_initial else {}
            if default_backbone is not None:
                more["default_backbone"] = default_backbone
            self._loaded = self._load(system.ckpt, *self._options, **more)
            self._key = key
            self._prepare(*self._loaded)
        return self._loaded


@dataclass(frozen=True)
class FilledGrid:
    """Videos of a grid.

    Attributes:
        videos: path of each cell's mp4 and what it was made from, in the order of the cells.
        failures: path → why there is no video.
    """

    videos: dict[Path, VideoRecord] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)

    def __or__(self, other: FilledGrid) -> FilledGrid:
        """Both together."""
        return FilledGrid(self.videos | other.videos, self.failures | other.failures)


def source_of(
    system: System,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    default_backbone: Mapping[str, Any] | None = None,
    recognisers: Sequence[UsedRecogniser] = (),
) -> dict[str, Any]:
    """What decides the pixels of a system's videos beside person, prompt, seed and sampling.

    Args:
        system: that makes them.
        config: of the evaluation.
        overrides: of the models' configuration.
        default_backbone: for a file that names none.
        recognisers: that have a part in it; also a video that is scored later must not be judged by them.
    """
    source: dict[str, Any] = {"checkpoint": sha256(system.ckpt), "scale": config["scale"], "model": dict(overrides)}
    if config["memory"]["dtype"] is not None or config["memory"]["vae_tiling"]:
        source["memory"] = config["memory"]
    if recognisers:
        source["recognisers"] = as_stored(recognisers)
    if config["backbone"] is not None:
        source["backbone"] = config["backbone"]
    if default_backbone is not None:
        source["default_backbone"] = default_backbone
    return source


def fill_grid(
    cells: Sequence[Cell],
    people: Sequence[Person],
    folder: Path,
    sampler: Callable[[], Sampler],
    settings: SamplingSettings,
    source: Mapping[str, Any],
    batch_size: int = 1,
) -> FilledGrid:
    """Generate the cells whose video is not there yet, or was made from something else.

    Args:
        cells: the grid of one system.
        people: everybody in it.
        folder: of the videos.
        sampler: loads what generates; called only if something is to do.
        settings: of the sampler.
        source: what else decides the pixels, for the record of each video.
        batch_size: videos that are sampled together.

    Raises:
        IdanimError: `batch_size` is no number of videos.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise IdanimError(f"batch_size={batch_size}: expected a whole number, 1 or more")
    by_name = {person.identity: person for person in people}
    filled, missing = FilledGrid(), []
    for cell in cells:
        person = by_name.get(cell.identity)
        made_with = dict(source) | {"sampling": settings.recorded(), "references": person.digest if person else None}
        record = VideoRecord(cell.prompt.text, cell.identity, cell.seed, cell.system, cell.prompt.group, made_with)
        path = folder / cell.path
        filled.videos[path] = record
        if not is_made(path, record):
            pictures = person.pictures if person else ()
            missing.append((path, VideoRequest(pictures, record.prompt, record.seed, record.identity)))
    with tqdm(total=len(cells), initial=len(cells) - len(missing), desc=f"generate {cells[0].system}") as progress:
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            for (path, _), clip in zip(part, _generate([r for _, r in part], sampler(), settings), strict=True):
                if isinstance(clip, UnusableVideoError):
                    filled.failures[path] = f"{clip.reason}: {clip}"
                    _log.warning("%s: no video: %s", path.relative_to(folder), clip)
                else:
                    record = filled.videos[path]
                    write_video(path, clip, record, _statement(sampler().backbone, record))
            progress.update(len(part))
    if len(missing) < len(cells):
        _log.info("%d of %d videos were there already", len(cells) - len(missing), len(cells))
    return filled


def _statement(backbone: object, record: VideoRecord) -> str:
    made_by = f"Made by idanim {versions()['idanim']}, {record.system}"
    adapter = f"the adapter {record.made_with['checkpoint'][:16]}" if record.identity else "no adapter"
    return provenance(f"{made_by}, with {adapter} on {type(backbone).__name__}")


def _generate(
    requests: Sequence[VideoRequest], sampler: Sampler, settings: SamplingSettings
) -> list[GeneratedClip | UnusableVideoError]:
    if len(requests) > 1:
        return sampler.generate_together(requests, settings)
    try:  # to the last bit what generating it alone gives
        (request,) = requests
        return [sampler.generate(request.references, request.prompt, request.seed, settings, request.identity)]
    except UnusableVideoError as error:
        return [error]


def identities_of(system: System, people: Sequence[Person]) -> list[str]:
    """Whom a system is asked to show."""
    return [NOBODY] if system.shows_nobody else [person.identity for person in people if not person.is_stranger]
