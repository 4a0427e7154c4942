"""A picture of the whole grid: one row a person, the reference first, then frames of the video of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from idanim.files import atomic_path
from idanim.metrics.face_track import sampled_frames
from idanim.types import UInt8Array

TILE_PX = 112
GAP_PX = 4
LABEL_PX = 44


def thumbnails(frames: UInt8Array, num_frames: int) -> list[UInt8Array]:
    """Evenly spaced frames, each centred in a square of `TILE_PX`.

    Args:
        frames: [F, H, W, 3] uint8.
        num_frames: how many, at most F.
    """
    return [tile(frames[i]) for i in sampled_frames(len(frames), num_frames)]


def tile(rgb: UInt8Array) -> UInt8Array:
    """A picture [H, W, 3] scaled to fit into a square of `TILE_PX`, on grey."""
    image = Image.fromarray(rgb)
    scale = TILE_PX / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = Image.new("RGB", (TILE_PX, TILE_PX), (128, 128, 128))
    square.paste(image, ((TILE_PX - image.width) // 2, (TILE_PX - image.height) // 2))
    return np.array(square)


def write_picture_grid(
    path: Path,
    references: Mapping[str, UInt8Array],
    prompts: Sequence[str],
    videos: Mapping[tuple[str, str], Sequence[UInt8Array]],
) -> None:
    """Write the grid as PNG.

    Args:
        path: of the PNG.
        references: first reference picture of each person, in the order of the rows.
        prompts: texts over the columns.
        videos: (person, prompt) → tiles from `thumbnails`; a missing one leaves its place empty.

    Raises:
        ValueError: no person or no prompt.
    """
    if not references or not prompts:
        raise ValueError(f"a grid of {len(references)} people × {len(prompts)} prompts has no picture")
    num_frames = max((len(tiles) for tiles in videos.values()), default=1)
    step = TILE_PX + GAP_PX
    group_px = num_frames * step + GAP_PX
    canvas = Image.new("RGB", (step + GAP_PX + len(prompts) * group_px, LABEL_PX + len(references) * step), "white")
    draw = ImageDraw.Draw(canvas)
    for column, prompt in enumerate(prompts):
        _label(draw, (step + GAP_PX + column * group_px, 2), prompt, group_px - 2 * GAP_PX)
    for row, (identity, reference) in enumerate(references.items()):
        top = LABEL_PX + row * step
        canvas.paste(Image.fromarray(tile(reference)), (0, top))
        for column, prompt in enumerate(prompts):
            for i, picture in enumerate(videos.get((identity, prompt), ())):
                canvas.paste(Image.fromarray(picture), (step + GAP_PX + column * group_px + i * step, top))
    with atomic_path(path) as temporary:
        canvas.save(temporary)


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width_px: int) -> None:
    """Text in at most three lines of the given width; the rest is cut with an ellipsis."""
    font = ImageFont.load_default(11)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 3:
        lines = [*lines[:2], f"{lines[2]} …"]
    draw.multiline_text(place, "\n".join(line for line in lines if line), fill="black", font=font, spacing=1)
