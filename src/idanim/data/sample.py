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
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from idanim.types import IdanimError

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
            raise IdanimError(f"sample {key!r}: no member {name!r}, only {sorted(k for k in members if k[0] != '_')}")
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
    try:
        raw = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IdanimError(f"sample {key!r}: its json can't be read: {error}") from error
    if not isinstance(raw, dict):
        raise IdanimError(f"sample {key!r}: its json is a {type(raw).__name__}, expected an object")
    if raw.get("schema") != SCHEMA_VERSION:
        raise IdanimError(f"sample {key!r}: schema {raw.get('schema')!r}, this program reads {SCHEMA_VERSION}")
    _check_fields(raw, ClipMeta, f"sample {key!r}")
    faces = []
    for i, face in enumerate(raw["faces"]):
        _check_fields(face, FaceMeta, f"sample {key!r}, face {i}")
        faces.append(
            FaceMeta(
                **face
                | {
                    "box": tuple(face["box"]),
                    "landmarks": tuple(tuple(point) for point in face["landmarks"]),
                    "embedding": tuple(face["embedding"]),
                }
            )
        )
    if not isinstance(raw["captions"], dict) or not any(raw["captions"].get(kind) for kind in CAPTION_KINDS):
        raise IdanimError(f"sample {key!r}: no caption; expected one of {', '.join(CAPTION_KINDS)}")
    return ClipMeta(**raw | {"crop_box": tuple(raw["crop_box"]), "faces": tuple(faces)})


def _check_fields(raw: Any, cls: type[ClipMeta] | type[FaceMeta], where: str) -> None:
    if not isinstance(raw, dict):
        raise IdanimError(f"{where}: is a {type(raw).__name__}, expected an object")
    expected = {f.name for f in fields(cls)}
    missing, unknown = sorted(expected - raw.keys()), sorted(raw.keys() - expected)
    if missing or unknown:
        raise IdanimError(f"{where}: missing fields {missing}, unknown fields {unknown}")
