"""A video that was generated, as a file with everything that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from idanim.files import write_bytes, write_json
from idanim.generation.output import check_formats, mp4_bytes, write_formats
from idanim.metrics.videos import SCHEMA_VERSION, VideoRecord
from idanim.types import GeneratedClip


@dataclass(frozen=True)
class GeneratedVideo:
    """A video with the record of what it was made from.

    Attributes:
        clip: the frames.
        record: what `save` writes as json.
        statement: that it is generated and with what, for the metadata of its files.
    """

    clip: GeneratedClip
    record: VideoRecord
    statement: str

    def save(self, path: str | Path, formats: Sequence[str] = ()) -> Path:
        """Write the mp4, other formats beside it (see `idanim.generation.output.FORMATS`) and the json.

        The json comes last: it is only ever there beside the video that it describes.
        """
        path = Path(path).with_suffix(".mp4")
        check_formats(formats)
        path.with_suffix(".json").unlink(missing_ok=True)
        write_formats(path, self.clip, formats, self.statement)
        write_bytes(path, mp4_bytes(self.clip, self.statement))
        write_json(path.with_suffix(".json"), {"schema": SCHEMA_VERSION, **asdict(self.record)})
        return path
