"""Videos of one person from photos and prompts: what `python -m idanim.generate` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from idanim.assembly import load_sampler, pick_device, sampling_settings
from idanim.config import Run, build, built_or_plain
from idanim.faces.engine import FaceEngine
from idanim.files import sha256, write_bytes
from idanim.metrics.grid import slug
from idanim.metrics.people import largest_face, person_of
from idanim.metrics.videos import VideoRecord, write_video
from idanim.types import IdanimError, UInt8Array
from idanim.video import encode_gif

SYSTEM = "adapter"


def generate_videos(run: Run) -> list[Path]:
    """Generate a video for each prompt; returns their paths.

    Raises:
        IdanimError: a file is missing or doesn't fit, or no face is found in a photo; the text says what to do.
    """
    config = run.config
    ckpt = Path(built_or_plain(config["ckpt"])).expanduser()
    photos = [Path(name).expanduser() for name in _listed(built_or_plain(config["references"]), "reference")]
    prompts = list(dict.fromkeys(_listed(config["prompt"], "prompt")))
    for key, path in [("ckpt", ckpt), *(("reference", photo) for photo in photos)]:
        if not path.is_file():
            raise IdanimError(f"{key}={str(path)!r}: there is no such file")
    engine: FaceEngine = build(config["faces"])
    crops = face_crops(photos, engine, config["reference_size_px"])
    device = pick_device(config["device"])
    sampler, trained = load_sampler(ckpt, config["model"], device, config["scale"], config["backbone"])
    settings = sampling_settings(trained, **config["sampling"])
    made_with = {
        "checkpoint": sha256(ckpt),
        "references": {photo.name: sha256(photo) for photo in photos},
        "reference_size_px": config["reference_size_px"],
        "face_engine": engine.name,
        "scale": sampler.adapter.scale,
        "backbone": trained["backbone"],
        "sampling": asdict(settings),
        "git_sha": run.git_sha,
    }
    person, seed = person_of(photos[0]), config["seed"]
    paths = []
    with tqdm(total=len(prompts) * settings.num_inference_steps, desc="generate", unit="step") as progress:

        def after_step(_latents: Tensor) -> None:
            progress.update()

        for prompt in prompts:
            clip = sampler.generate(crops, prompt, seed, settings, person, after_step)
            path = run.output / slug(person) / f"{slug(prompt)}_s{seed}.mp4"
            write_bytes(path.with_suffix(".gif"), encode_gif(clip.frames, clip.fps))
            write_video(path, clip, VideoRecord(prompt, person, seed, SYSTEM, made_with=made_with))
            paths.append(path)
    return paths


def _listed(value: Any, key: str) -> list[str]:
    """One text or a list of them, as a list."""
    texts = ["" if item is None else str(item).strip() for item in (value if isinstance(value, list) else [value])]
    if not texts or "" in texts:
        raise IdanimError(f"{key}= is empty")
    return texts


def face_crops(photos: Sequence[Path], engine: FaceEngine, size_px: int) -> list[UInt8Array]:
    """The largest face of each photo, aligned, [size_px, size_px, 3] uint8.

    Raises:
        IdanimError: a photo can't be read, or no face is found in it; the text names it.
    """
    faces = {photo: largest_face(photo, engine, size_px) for photo in photos}
    faceless = [photo.name for photo, face in faces.items() if face is None]
    if faceless:
        raise IdanimError(
            f"{engine.name} finds no face in {', '.join(faceless)}; use a photo that shows it larger or from the "
            "front, and for real people faces=insightface"
        )
    return [face[0] for face in faces.values() if face is not None]
