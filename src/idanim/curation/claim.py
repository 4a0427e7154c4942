"""Whose shards an output folder holds: those of one input never give way to another's without being asked."""

from __future__ import annotations

import json
from pathlib import Path

from idanim.curation.sources import printable
from idanim.data.shards import SHARD_NAME
from idanim.files import write_json
from idanim.types import IdanimError

CLAIM = "input.json"


def claim(output: Path, source: Path, replace: bool) -> None:
    """Write down that `output` belongs to the videos of `source`.

    Args:
        output: the folder that gets the shards.
        source: the folder of videos.
        replace: whether shards and results of another folder may be lost.

    Raises:
        IdanimError: the folder holds shards or results of another input, or of one that nobody knows.
        OSError: it can't be written.
    """
    here = printable(source.resolve())
    earlier = _earlier(output)
    if earlier != here and not replace and (earlier is not None or _holds_work(output)):
        raise IdanimError(
            f"output={output}: holds the shards of {earlier or 'an unknown input'}, which those of {here} would "
            "replace. Name another output, or add replace=true (also right when the videos were only moved: "
            "finished ones are kept)"
        )
    if earlier != here:
        write_json(output / CLAIM, {"input": here})


def _earlier(output: Path) -> str | None:
    try:
        content = json.loads((output / CLAIM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(content["input"]) if isinstance(content, dict) and "input" in content else None


def _holds_work(output: Path) -> bool:
    return any(SHARD_NAME.match(path.name) for path in output.glob("*.tar")) or any(output.glob("work/videos/*"))
