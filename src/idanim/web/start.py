"""What the fields of the page hold at first: what was typed behind `python -m idanim.app`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idanim.types import IdanimError
from idanim.web.form import MIX, ONE, SWEEP

NOT_HERE = {
    "people": "give the photos of one person, reference=a.jpg, or of those to mix, reference=[a.jpg,b.jpg] weights=[…]",
    "prompts": "the page makes one prompt at a time; those to click on are app.examples=<file or name>",
    "formats": "the page gives mp4 files",
    "recipe": "`python -m idanim.generate recipe=…` makes a video again",
}
"""Keys of `idanim.generate` that no field of the page stands for → what to do."""

DEFAULT_SWEEP = 3


@dataclass(frozen=True)
class Start:
    """First values; the fields are those of `idanim.web.form.Form`. Sampling's come from the generator."""

    photos: tuple[Path, ...]
    prompt: str
    use: str
    weights: str
    sweep: int
    face_index: int | None
    seeds: str
    control_images: tuple[Path, ...]
    control_frames: str
    control_scale: float
    control_context: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Start:
        """The values of a configuration.

        Args:
            config: of `conf/app.yaml`.

        Raises:
            IdanimError: a value that the page can't start with; the text says what to do.
        """
        for key, advice in NOT_HERE.items():
            if config[key]:
                raise IdanimError(f"{key}= is not for the page: {advice}")
        if config["mix"] is not None and config["sweep"] is not None:
            raise IdanimError("give either weights=[…] for one mixture, or sweep=<number> for several")
        sweep, index, control = config["sweep"], config["face_index"], config["control"]
        if sweep is not None and (not isinstance(sweep, int) or sweep < 2):
            raise IdanimError(f"sweep={sweep}: expected 2 or more steps")
        if isinstance(index, list):
            raise IdanimError(f"face_index={index}: the page takes one number for all photos")
        # Without a photo of one's own the field is empty: the shipped face belongs to the examples.
        photos = None if config["references"] == config["toy_face"] else config["references"]
        return cls(
            photos=_files(photos, "reference"),
            prompt=_one_prompt(config["prompt"]),
            use=SWEEP if sweep is not None else MIX if config["mix"] is not None else ONE,
            weights=_joined(config["mix"]),
            sweep=sweep or DEFAULT_SWEEP,
            face_index=index,
            seeds=_joined(config["seed"]),
            control_images=_files(control["images"], "control.images"),
            control_frames=_joined(control["frames"]) or "0",
            control_scale=control["scale"],
            control_context=control["context"],
        )

    def copied_to(self, folder: Path) -> Start:
        """The same with copies of its files, since the page serves none but those in its own folder."""

        def copied(files: tuple[Path, ...], name: str) -> tuple[Path, ...]:
            copies = []
            for number, file in enumerate(files):
                copy = folder / f"{name}_{number}" / file.name  # files of several folders may have one name
                copy.parent.mkdir(parents=True)
                copies.append(Path(shutil.copy(file, copy)))
            return tuple(copies)

        photos, pictures = copied(self.photos, "photo"), copied(self.control_images, "picture")
        return replace(self, photos=photos, control_images=pictures)


def _one_prompt(prompt: Any) -> str:
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if len(prompts) != 1:
        raise IdanimError(f"prompt={prompts}: the page starts with one prompt; for several take app.examples=<file>")
    return "" if prompts[0] is None else str(prompts[0])


def _files(given: Any, key: str) -> tuple[Path, ...]:
    """The files of a value that is a path, a list of them, or None."""
    values = [] if given is None else given if isinstance(given, list) else [given]
    files = tuple(Path(str(value)).expanduser() for value in values)
    for file in files:
        if not file.is_file():
            raise IdanimError(f"{key}={str(file)!r}: there is no such file; the page starts with files, not folders")
    return files


def _joined(values: Any) -> str:
    """Numbers as somebody would type them; "" for none."""
    listed = [] if values is None else values if isinstance(values, list) else [values]
    return ", ".join(map(str, listed))
