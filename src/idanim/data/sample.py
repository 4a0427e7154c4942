"""The clip sample: what one training clip is, inside a WebDataset shard.

A sample is self-contained, so that a stream needs no look-ups. Its members in the tar are

- `<key>.mp4`: the cut clip, h264 with a short GOP, `num_frames` frames. Training reads a window that
  starts at its first frame.
- `<key>.frame.jpg`: the first frame of the clip, whole.
- `<key>.face.<i>.jpg`: face crops, aligned by landmarks, RGB. Faces of other clips of the same person
  are among them; `faces[i].clip` says which clip a face comes from.
- `<key>.json`: everything else, the fields of `ClipMeta`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from idanim.files import parse_json
from idanim.types import IdanimError, listed

SCHEMA_VERSION = 1
CaptionKind = Literal["attribute", "action", "unified"]
CAPTION_KINDS: tuple[CaptionKind, ...] = ("attribute", "action", "unified")


@dataclass(frozen=True)
class FaceMeta:
    """One face crop of a sample.

    Attributes:
        clip: key of the clip the face was seen in (another one for a cross-clip face).
        frame: frame index in the source video.
        role: "pool" for faces drawn at random from the whole clip (paper §3.3), "first_frame" for the
            face in the clip's first frame, which serves the same-frame baselines.
        box: (left, top, right, bottom) in pixels of the source frame.
        landmarks: five (x, y) points in pixels of the source frame.
        score: detection score in [0, 1].
        size_px: the shorter side of the box in pixels.
        blur: variance of the Laplacian of the grey crop; higher is sharper.
        yaw_deg: turn of the head, positive to the right of the picture.
        pitch_deg: nod of the head, positive upwards.
        embedding: face recognition vector of unit length.
    """

    clip: str
    frame: int
    role: Literal["pool", "first_frame"]
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float
    size_px: float
    blur: float
    yaw_deg: float
    pitch_deg: float
    embedding: tuple[float, ...]


@dataclass(frozen=True)
class ClipMeta:
    """The JSON part of a sample.

    Attributes:
        key: name of the clip, unique in the dataset, without dots and slashes.
        identity: name of the person shown.
        source: file name of the source video.
        start_frame: index in the source video of the clip's first frame.
        num_frames: frames in the clip.
        fps: frames per second of the clip.
        width: pixels.
        height: pixels.
        crop_box: the part of the source frame that was kept, (left, top, right, bottom) in pixels.
        captions: text by kind, at least one of "attribute", "action", "unified".
        face_engine: engine and pack that found and embedded the faces.
        faces: one record a face crop, in the order of the `face.<i>.jpg` members.
        caption_states: what became of each kind of caption that was given or asked for: "given", "written",
            "template", or why there is no text of that kind (`idanim.captioning.caption.STATES`). The text of a
            unified caption whose state is none of those three is the template's.
        schema: version of this layout.
    """

    key: str
    identity: str
    source: str
    start_frame: int
    num_frames: int
    fps: float
    width: int
    height: int
    crop_box: tuple[float, float, float, float]
    captions: dict[str, str]
    face_engine: str
    faces: tuple[FaceMeta, ...] = ()
    caption_states: dict[str, str] = field(default_factory=dict)
    schema: int = field(default=SCHEMA_VERSION)


@dataclass(frozen=True)
class ClipSample:
    """One training clip: metadata and encoded pixels.

    Attributes:
        meta: the JSON part.
        video: mp4 bytes.
        first_frame: JPEG bytes.
        faces: JPEG bytes, one for each of `meta.faces`.
    """

    meta: ClipMeta
    video: bytes
    first_frame: bytes
    faces: tuple[bytes, ...]


def to_members(sample: ClipSample) -> dict[str, Any]:
    """The sample as WebDataset members: `__key__` and one entry of bytes for each file extension."""
    if len(sample.faces) != len(sample.meta.faces):
        raise IdanimError(
            f"clip {sample.meta.key!r}: {len(sample.faces)} face pictures but {len(sample.meta.faces)} face records"
        )
    members: dict[str, Any] = {
        "__key__": sample.meta.key,
        "mp4": sample.video,
        "frame.jpg": sample.first_frame,
    }
    members |= {f"face.{i}.jpg": picture for i, picture in enumerate(sample.faces)}
    members["json"] = json.dumps(asdict(sample.meta), ensure_ascii=False, allow_nan=False).encode()
    return members


def from_members(members: dict[str, Any]) -> ClipSample:
    """Read a sample back from WebDataset members.

    Raises:
        IdanimError: a member or a field is missing or of the wrong kind; the text names it.
    """
    key = members.get("__key__", "<no key>")
    for name in ("json", "mp4", "frame.jpg"):
        if name not in members:
            raise IdanimError(
                f"sample {key!r}: no member {name!r}, only {listed([k for k in members if k[:1] != '_'])}"
            )
    meta = parse_meta(members["json"], key)
    faces = []
    for i in range(len(meta.faces)):
        if f"face.{i}.jpg" not in members:
            raise IdanimError(f"sample {key!r}: no member 'face.{i}.jpg' for its {len(meta.faces)} face records")
        faces.append(members[f"face.{i}.jpg"])
    return ClipSample(meta, members["mp4"], members["frame.jpg"], tuple(faces))


def parse_meta(content: bytes, key: str) -> ClipMeta:
    """Read the JSON member of the sample named `key`.

    Raises:
        IdanimError: not JSON, a field missing or of the wrong kind, or another schema version.
    """
    where = f"sample {key!r}"
    raw = parse_json(content, f"{where}: its json")
    if not isinstance(raw, dict):
        raise IdanimError(f"{where}: its json is a {type(raw).__name__}, expected an object")
    if raw.get("schema") != SCHEMA_VERSION:
        raise IdanimError(f"{where}: schema {str(raw.get('schema'))[:60]}, this program reads {SCHEMA_VERSION}")
    raw = dict(_MAY_BE_MISSING) | raw
    _check(raw, _CLIP_FIELDS, where)
    if raw["key"] != key:
        raise IdanimError(f"{where}: key is {raw['key'][:80]!r}, but the tar calls it {key!r}")
    if not any(raw["captions"].get(kind) for kind in CAPTION_KINDS):
        raise IdanimError(f"{where}: no caption in captions; expected one of {', '.join(CAPTION_KINDS)}")
    faces = []
    for i, face in enumerate(raw["faces"]):
        _check(face, _FACE_FIELDS, f"{where}, face {i}")
        points = tuple(tuple(point) for point in face["landmarks"])
        lists = {"box": tuple(face["box"]), "landmarks": points, "embedding": tuple(face["embedding"])}
        faces.append(FaceMeta(**face | lists))
    widths = sorted({len(face.embedding) for face in faces})
    if len(widths) > 1:
        raise IdanimError(f"{where}: embedding has {' or '.join(map(str, widths))} numbers, expected the same in all")
    return ClipMeta(**raw | {"crop_box": tuple(raw["crop_box"]), "faces": tuple(faces)})


# --------------------------------------------------------------------------- what each field may hold


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # neither a truth value, nor NaN or infinite


def _are_numbers(values: list[Any]) -> bool:
    """As `_is_number` of each, but without a call for each: every training sample has thousands."""
    # Bounds alone may miss a NaN, of which every comparison is false; the sum does not.
    return (
        {*map(type, values)} <= {int, float}
        and -1e300 < min(values) <= max(values) < 1e300
        and not math.isnan(sum(values))
    )


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and _are_numbers(value)


def _whole_from(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least}", lambda value: type(value) is int and value >= least


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _HALF_CHARACTER.search(value)


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can name them, but no file and no terminal takes them
_TEXT = ("some text", lambda value: _is_text(value) and value != "")
_NUMBER = ("a finite number", _is_number)
_BOX = ("4 finite numbers", lambda value: _is_numbers(value, 4))

_TEXTS = (
    "an object that holds text",
    lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
)

_Fields = Mapping[str, tuple[str, Callable[[Any], bool]]]
_CLIP_FIELDS: _Fields = {
    "key": _TEXT,
    "identity": _TEXT,
    "source": _TEXT,
    "start_frame": _whole_from(0),
    "num_frames": _whole_from(1),
    "fps": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "width": _whole_from(1),
    "height": _whole_from(1),
    "crop_box": _BOX,
    "captions": _TEXTS,
    "caption_states": _TEXTS,
    "face_engine": _TEXT,
    "faces": ("a list", lambda value: isinstance(value, list)),
    "schema": _whole_from(SCHEMA_VERSION),
}
_FACE_FIELDS: _Fields = {
    "clip": _TEXT,
    "frame": _whole_from(0),
    "role": ("pool or first_frame", lambda value: value in ("pool", "first_frame")),
    "box": _BOX,
    "landmarks": (
        "5 pairs of finite numbers",
        lambda value: isinstance(value, list) and len(value) == 5 and all(_is_numbers(point, 2) for point in value),
    ),
    "score": _NUMBER,
    "size_px": _NUMBER,
    "blur": _NUMBER,
    "yaw_deg": _NUMBER,
    "pitch_deg": _NUMBER,
    "embedding": (
        "finite numbers, not all of them 0",
        lambda value: isinstance(value, list) and any(value) and _are_numbers(value),
    ),
}
"""Field → (what it should be, whether a value from JSON is that)."""

_MAY_BE_MISSING: Mapping[str, Any] = {"caption_states": {}}
"""Fields that older shards do not have → what they stand for."""


def _check(raw: Any, expected: _Fields, where: str) -> None:
    if not isinstance(raw, dict):
        raise IdanimError(f"{where}: is a {type(raw).__name__}, expected an object")
    missing, unknown = sorted(expected.keys() - raw.keys()), sorted(raw.keys() - expected.keys())
    if missing or unknown:
        raise IdanimError(f"{where}: missing fields [{listed(missing)}], unknown fields [{listed(unknown)}]")
    for name, (what, is_right) in expected.items():
        if not is_right(raw[name]):
            raise IdanimError(f"{where}: {name} is {repr(raw[name])[:60]}, expected {what}")
