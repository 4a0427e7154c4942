"""Small clip shards made of drawn faces, so that no test needs a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from idanim.data.sample import ClipMeta, ClipSample, FaceMeta
from idanim.data.shards import write_shard
from idanim.pictures import encode_jpeg
from idanim.types import UInt8Array
from idanim.video_encoding import encode_mp4

NUM_FRAMES = 8
SIZE_PX = 32


def draw_face(person: int, shift: int = 0, size: int = SIZE_PX) -> UInt8Array:
    """A coloured square on grey, its colour fixed for a person."""
    colour = np.random.default_rng(person).integers(0, 256, 3)
    picture = np.full((size, size, 3), 128, np.uint8)
    start = size // 4 + shift
    picture[size // 4 : 3 * size // 4, start : start + size // 2] = colour
    return picture


def face_meta(clip: str, person: int, frame: int, role: str, noise: float = 0.1) -> FaceMeta:
    """A face record whose vector is the person's own plus noise that depends on the frame."""
    vector = np.random.default_rng(person).standard_normal(16)
    vector += noise * np.random.default_rng([person, frame]).standard_normal(16)
    return FaceMeta(
        clip=clip,
        frame=frame,
        role=role,
        box=(8.0, 8.0, 24.0, 24.0),
        landmarks=((12.0, 12.0), (20.0, 12.0), (16.0, 16.0), (13.0, 20.0), (19.0, 20.0)),
        score=0.99,
        size_px=16.0,
        blur=100.0,
        yaw_deg=0.0,
        pitch_deg=0.0,
        embedding=tuple(float(x) for x in vector / np.linalg.norm(vector)),
    )


def make_sample(person: int, clip: int = 0, num_clips: int = 1, num_frames: int = NUM_FRAMES) -> ClipSample:
    """A clip of a person with five pool faces, one of its first frame, and one from each other clip."""
    key = f"p{person:03d}__{clip}"
    frames = np.stack([draw_face(person, shift=(clip + i) % 4) for i in range(num_frames)])
    metas = [face_meta(key, person, 100 * clip + i, "pool") for i in range(5)]
    metas.append(face_meta(key, person, 100 * clip, "first_frame"))
    metas += [
        face_meta(f"p{person:03d}__{other}", person, 100 * other + 7, "pool", noise=1.5)
        for other in range(num_clips)
        if other != clip
    ]
    meta = ClipMeta(
        key=key,
        identity=f"p{person:03d}",
        source=f"{key}.mp4",
        start_frame=100 * clip,
        num_frames=num_frames,
        fps=8.0,
        width=SIZE_PX,
        height=SIZE_PX,
        crop_box=(0.0, 0.0, float(SIZE_PX), float(SIZE_PX)),
        captions={"attribute": f"person {person}", "action": "moving", "unified": f"person {person} moving"},
        face_engine="drawn/1",
        faces=tuple(metas),
    )
    crops = tuple(encode_jpeg(draw_face(person, shift=i % 3)) for i in range(len(metas)))
    return ClipSample(meta, encode_mp4(frames, 8.0), encode_jpeg(frames[0]), crops)


def make_shards(folder: Path, persons: int = 6, clips: int = 2, per_shard: int = 4, val: int = 2) -> Path:
    """Training and validation shards of drawn persons."""
    samples = [make_sample(p, c, clips) for p in range(persons) for c in range(clips)]
    for number, start in enumerate(range(0, len(samples), per_shard)):
        write_shard(folder / f"train-{number:06d}.tar", samples[start : start + per_shard])
    if val:
        write_shard(folder / "val-000000.tar", [make_sample(900 + p) for p in range(val)])
    return folder
