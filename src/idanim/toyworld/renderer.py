"""Draw procedural people, and say where their faces are.

Everything is analytic, so the same scene gives the same pixels at any size and in any batch.
Letters: B frames drawn at once · P clips · F frames of a clip.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from idanim.toyworld import palette
from idanim.toyworld.canvas import Canvas, box, ellipse
from idanim.toyworld.people import HAIR_STYLES, IDENTITY_PARAMETERS, POSE, Attributes, Scene

SIDES = (-1.0, 1.0)
FRECKLES = ((0.0, 0.0), (0.09, 0.035), (-0.08, 0.04), (0.03, 0.095))
"""Places relative to the cheek, in head sizes."""


class Face(NamedTuple):
    """Measures of B faces, each [B, 1, 1] in frame units: everything that drawing and ground truth share."""

    x: Tensor
    y: Tensor
    scale: Tensor
    half_width: Tensor
    half_height: Tensor
    shift_x: Tensor
    """How far the features have slid sideways because the head is turned."""
    shift_y: Tensor
    eye_x: Tensor
    """Distance of an eye from the middle of the face."""
    eye_y: Tensor
    eye_radius: Tensor
    nose_y: Tensor
    mouth_y: Tensor
    mouth_half_width: Tensor


class _Values:
    """Columns of a table by name, as [B, 1, 1] tensors."""

    def __init__(self, names: tuple[str, ...], table: Tensor) -> None:
        self.columns = dict(zip(names, table.unbind(-1), strict=True))

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        return (low + (high - low) * self.columns[name])[:, None, None]


def measure(identity: Tensor, pose: Tensor) -> Face:
    """Work out where the parts of B faces are.

    Args:
        identity: [B, 29] in [0, 1].
        pose: [B, 8].
    """
    value, posed = _Values(IDENTITY_PARAMETERS, identity), _Values(POSE, pose)
    scale, yaw, pitch, smile = posed("scale"), posed("yaw"), posed("pitch"), posed("smile")
    eye_y = value("eye_height", -0.16, 0.0) * scale
    return Face(
        x=posed("x"),
        y=posed("y") + 0.02,
        scale=scale,
        half_width=value("face_width", 0.36, 0.50) * scale,
        half_height=value("face_height", 0.44, 0.58) * scale,
        shift_x=yaw * 0.14 * scale,
        shift_y=pitch * 0.12 * scale,
        eye_x=value("eye_spacing", 0.13, 0.235) * scale * (1 - 0.12 * yaw.abs()),
        eye_y=eye_y,
        eye_radius=value("eye_size", 0.065, 0.12) * scale,
        nose_y=eye_y + value("nose_length", 0.12, 0.24) * scale + 0.03 * pitch,
        mouth_y=value("mouth_height", 0.21, 0.34) * scale,
        mouth_half_width=value("mouth_width", 0.10, 0.22) * scale * (1 + 0.28 * smile.clamp(min=0)),
    )


def draw(identity: Tensor, attributes: Attributes, pose: Tensor, light: Tensor, size_px: int) -> Tensor:
    """Draw one frame for each of B rows.

    Args:
        identity: [B, 29] in [0, 1].
        attributes: fields [B] int64.
        pose: [B, 8].
        light: [B, 3] in [0, 1].
        size_px: width and height.

    Returns:
        [B, 3, size_px, size_px] float32 in [0, 1].
    """
    face, value, posed = measure(identity, pose), _Values(IDENTITY_PARAMETERS, identity), _Values(POSE, pose)
    skin = palette.skin_colour(value.columns["skin_tone"], value.columns["skin_hue"])
    canvas = Canvas(palette.CLOTH.to(light.device)[attributes.background], size_px)
    canvas.picture = canvas.picture * (1 + 0.3 * (light[:, :1, None] - 0.5) * canvas.y)[:, None]
    head_x = canvas.x - face.x - posed("yaw") * 0.03
    head_y = canvas.y - face.y - posed("pitch") * 0.05
    _paint_back(canvas, face, attributes, skin, head_x, head_y)
    _paint_ears(canvas, face, attributes, skin, head_x, head_y, value, posed)
    head = _paint_head(canvas, face, skin, head_x, head_y, value, posed, light)
    x = canvas.x - face.x - face.shift_x
    y = canvas.y - face.y - face.shift_y
    _paint_skin_marks(canvas, face, skin, head, x, y, value)
    _paint_eyes(canvas, face, skin, x, y, value, posed)
    _paint_nose(canvas, face, skin, x, y, value, posed)
    _paint_mouth(canvas, face, skin, x, y, value, posed)
    _paint_top(canvas, face, attributes, head_x, head_y)
    _paint_glasses(canvas, face, attributes, x, y)
    return (canvas.picture * (0.9 + 0.2 * light[:, 2])[:, None, None, None]).clamp(0, 1)


def _is(value: Tensor, *wanted: int) -> Tensor:
    return torch.isin(value, torch.tensor(wanted, device=value.device)).float()[:, None, None]


def _paint_back(
    canvas: Canvas, face: Face, attributes: Attributes, skin: Tensor, head_x: Tensor, head_y: Tensor
) -> None:
    width, height = face.half_width, face.half_height
    hair = palette.HAIR.to(head_x.device)[attributes.hair_colour]
    mane = torch.maximum(ellipse(head_x, head_y + 0.08, width * 1.3, height * 1.22), head_y - height * 1.15)
    fall = box(head_x, head_y - height * 0.62, width * 1.28, height * 0.62)
    long_hair = _is(attributes.hair_style, HAIR_STYLES.index("long"))
    canvas.paint(torch.minimum(mane, fall), hair * 0.82, long_hair)
    canvas.paint(box(canvas.x - face.x, canvas.y - face.y - height - 0.02, width * 0.42, 0.16), skin * 0.72)
    shirt = palette.CLOTH.to(head_x.device)[attributes.shirt]
    canvas.paint(ellipse(canvas.x - 0.5 * face.x, canvas.y - 1.2, 0.95, 0.42), shirt)


def _paint_ears(
    canvas: Canvas, face: Face, attributes: Attributes, skin: Tensor, head_x: Tensor, head_y: Tensor,
    value: _Values, posed: _Values,
) -> None:  # fmt: skip
    radius = value("ear_size", 0.05, 0.16) * face.scale
    visible = 1 - 0.85 * _is(attributes.hair_style, HAIR_STYLES.index("long"))
    for side in SIDES:
        x = head_x - side * (face.half_width + radius * 0.25) + posed("yaw") * 0.05
        canvas.paint(ellipse(x, head_y - 0.03, radius, radius * 1.45), skin * 0.88, visible)


def _paint_head(
    canvas: Canvas, face: Face, skin: Tensor, head_x: Tensor, head_y: Tensor, value: _Values, posed: _Values,
    light: Tensor,
) -> Tensor:  # fmt: skip
    down = head_y / face.half_height
    width = face.half_width * (1 - value("jaw", 0.0, 0.45) * down.clamp(min=0) ** 1.3)
    power = value("squareness", 1.8, 3.2)
    radius = ((head_x.abs() / width).pow(power) + down.abs().pow(power) + 1e-9).pow(1 / power)
    head = (radius - 1) * face.half_width
    across = (head_x / face.half_width - 0.5 * posed("yaw")).clamp(-1, 1)
    shade = 1 - 0.2 * across * (light[:, 1, None, None] - 0.5)
    canvas.paint(head, skin[:, :, None, None] * shade[:, None])
    return head


def _paint_skin_marks(
    canvas: Canvas, face: Face, skin: Tensor, head: Tensor, x: Tensor, y: Tensor, value: _Values
) -> None:
    scale = face.scale
    beard = torch.maximum(head + 0.01, -(y - face.mouth_y + 0.10 * scale))
    beard_colour = palette.hsv_to_rgb(
        0.02 + 0.08 * value.columns["skin_hue"], 0.5, 0.1 + 0.45 * value.columns["brow_value"]
    )
    canvas.paint(beard, beard_colour, value("beard") * 0.9, softness=2)
    freckle = skin * torch.tensor([0.6, 0.42, 0.36], device=skin.device)
    for side in SIDES:
        cheek_x, cheek_y = x - side * face.eye_x * 1.25, y - 0.11 * scale
        blush = skin * torch.tensor([1.0, 0.55, 0.58], device=skin.device)
        canvas.paint(ellipse(cheek_x, cheek_y, 0.11 * scale, 0.07 * scale), blush, value("blush") * 0.8, 3)
        for right, down in FRECKLES:
            spot = ellipse(cheek_x - right * scale, cheek_y - down * scale, 0.022 * scale, 0.022 * scale)
            canvas.paint(spot, freckle, value("freckles"))
    mole_x, mole_y = value("mole_x", -0.26, 0.26) * scale, value("mole_y", 0.10, 0.36) * scale
    mole = ellipse(x - mole_x, y - mole_y, 0.045 * scale, 0.045 * scale)
    canvas.paint(mole, skin * 0.25, (value("mole") > 0).float())


def _paint_eyes(canvas: Canvas, face: Face, skin: Tensor, x: Tensor, y: Tensor, value: _Values, posed: _Values) -> None:
    iris_colour = palette.hsv_to_rgb(
        0.05 + 0.6 * value.columns["eye_hue"], 0.78, 0.2 + 0.65 * value.columns["eye_value"]
    )
    brow_colour = palette.hsv_to_rgb(torch.full_like(skin[:, 0], 0.07), 0.55, 0.05 + 0.6 * value.columns["brow_value"])
    radius, tilt = face.eye_radius, value("brow_tilt", -0.4, 0.4)
    opening = (radius * value("eye_aspect", 0.5, 1.0) * (1 - 0.92 * posed("blink"))).clamp(min=0.01)
    brow_half_height = value("brow_thickness", 0.012, 0.05) * face.scale
    for side in SIDES:
        eye_x, eye_y = x - side * face.eye_x, y - face.eye_y
        eye = ellipse(eye_x, eye_y, radius * 1.15, opening)
        canvas.paint(eye, palette.WHITE)
        look_x, look_y = eye_x - posed("yaw") * 0.025, eye_y - posed("pitch") * 0.02
        canvas.paint(torch.maximum(eye, ellipse(look_x, look_y, radius * 0.66, radius * 0.66)), iris_colour)
        canvas.paint(torch.maximum(eye, ellipse(look_x, look_y, radius * 0.3, radius * 0.3)), iris_colour * 0.1)
        canvas.paint(eye.abs() - 0.013, skin * 0.4, softness=0.8)
        brow_y = eye_y + value("brow_height", 0.075, 0.15) * face.scale + opening.clamp(min=0.6 * radius) * 0.5
        brow = box(eye_x, brow_y - side * eye_x * tilt, radius * 1.35, brow_half_height)
        canvas.paint(brow, brow_colour)


def _paint_nose(canvas: Canvas, face: Face, skin: Tensor, x: Tensor, y: Tensor, value: _Values, posed: _Values) -> None:
    width = value("nose_width", 0.035, 0.115) * face.scale
    nose_x = x - posed("yaw") * 0.06 * face.scale
    length = face.nose_y - face.eye_y
    bridge_y = y - face.eye_y - 0.5 * length
    canvas.paint(box(nose_x + width * 0.3, bridge_y, 0.014, length * 0.42), skin * 0.84, softness=0.8)
    canvas.paint(ellipse(nose_x, y - face.nose_y, width, width * 0.6 + 0.015), skin * 0.74)


def _paint_mouth(
    canvas: Canvas, face: Face, skin: Tensor, x: Tensor, y: Tensor, value: _Values, posed: _Values
) -> None:
    smile, mouth_open, scale = posed("smile"), posed("mouth_open"), face.scale
    mouth_x = x - posed("yaw") * 0.02 * scale
    across = mouth_x / face.mouth_half_width
    height = y - face.mouth_y + 0.14 * scale * smile * (across**2 - 0.35)
    lip = value("lip_thickness", 0.016, 0.055) * scale
    thickness = lip * (1.05 - 0.6 * across.abs()) + 0.1 * scale * mouth_open * (1 - across**2).clamp(min=0)
    red = value.columns["lip_red"][:, None]
    lips = torch.lerp(skin * 0.55, palette.LIP_RED.to(skin.device).expand_as(skin), red)
    canvas.paint(torch.maximum(across.abs() - 1, height.abs() - thickness), lips)
    inside = torch.maximum((across.abs() - 0.8) * face.mouth_half_width, height.abs() - (thickness - lip))
    canvas.paint(inside, palette.BLACK, ((mouth_open - 0.05) / 0.2).clamp(0, 1))
    teeth = torch.maximum((across.abs() - 0.75) * face.mouth_half_width, height.abs() - lip * 0.6 - 0.01)
    canvas.paint(teeth, palette.WHITE, ((smile - 0.3) / 0.3).clamp(0, 1) * (1 - mouth_open))


def _paint_top(canvas: Canvas, face: Face, attributes: Attributes, head_x: Tensor, head_y: Tensor) -> None:
    width, height = face.half_width, face.half_height
    hair = palette.HAIR.to(head_x.device)[attributes.hair_colour]
    hairline = head_y + height * 0.52 - 0.10 * (head_x / width) ** 2 * height
    cap = torch.maximum(ellipse(head_x, head_y + 0.06, width * 1.14, height * 1.08), hairline)
    long_hair = HAIR_STYLES.index("long")
    canvas.paint(cap, hair, _is(attributes.hair_style, HAIR_STYLES.index("short"), long_hair))
    strand = box(head_x.abs() - width * 1.09, head_y - height * 0.15, width * 0.17, height * 0.72)
    canvas.paint(strand, hair, _is(attributes.hair_style, long_hair))
    hat = palette.CLOTH.to(head_x.device)[(attributes.hat - 1).clamp(min=0)]
    shown = (attributes.hat > 0).float()[:, None, None]
    crown = torch.maximum(ellipse(head_x, head_y + height * 0.72, width * 1.12, height * 0.72), head_y + height * 0.6)
    canvas.paint(crown, hat, shown)
    canvas.paint(box(head_x, head_y + height * 0.71, width * 1.05, 0.045), hat * 0.45, shown)
    canvas.paint(ellipse(head_x, head_y + height * 0.58, width * 1.5, 0.085 * face.scale), hat * 0.85, shown)


def _paint_glasses(canvas: Canvas, face: Face, attributes: Attributes, x: Tensor, y: Tensor) -> None:
    shown = attributes.glasses.float()[:, None, None]
    rim = face.eye_radius * 1.15 + 0.05
    for side in SIDES:
        lens = ellipse(x - side * face.eye_x, y - face.eye_y, rim, rim * 0.95).abs() - 0.02
        canvas.paint(lens, palette.BLACK, shown)
    bridge = box(x, y - face.eye_y, (face.eye_x - rim).clamp(min=0.01), 0.018)
    canvas.paint(bridge, palette.BLACK, shown)


def locate(identity: Tensor, pose: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Give the true face boxes and landmarks in pixels.

    Args:
        identity: [B, 29].
        pose: [B, 8].
        size_px: width and height of the frames.

    Returns:
        Boxes [B, 4] (left, top, right, bottom) around the skin of the head, and landmarks [B, 5, 2]: the
        eye at the left of the picture, the other, the nose, the left corner of the mouth, the other.
        (0, 0) is the centre of the first pixel.
    """
    face = Face(*(part[:, 0, 0] for part in measure(identity, pose)))
    yaw, pitch, smile = (pose[:, POSE.index(name)] for name in ("yaw", "pitch", "smile"))
    head_x, head_y = face.x + yaw * 0.03, face.y + pitch * 0.05
    boxes = torch.stack(
        [head_x - face.half_width, head_y - face.half_height, head_x + face.half_width, head_y + face.half_height],
        dim=-1,
    )
    x, y = face.x + face.shift_x, face.y + face.shift_y
    mouth_x, corner_y = x + yaw * 0.02 * face.scale, y + face.mouth_y - 0.65 * 0.14 * face.scale * smile
    landmarks = torch.stack(
        [
            torch.stack([x - face.eye_x, y + face.eye_y], -1),
            torch.stack([x + face.eye_x, y + face.eye_y], -1),
            torch.stack([x + yaw * 0.06 * face.scale, y + face.nose_y], -1),
            torch.stack([mouth_x - face.mouth_half_width, corner_y], -1),
            torch.stack([mouth_x + face.mouth_half_width, corner_y], -1),
        ],
        dim=1,
    )
    return (boxes + 1) * size_px / 2 - 0.5, (landmarks + 1) * size_px / 2 - 0.5


@torch.no_grad()
def render(scene: Scene, size_px: int, batch_size: int = 64) -> Tensor:
    """Draw every frame of every clip.

    Returns:
        [P, F, 3, size_px, size_px] uint8 RGB, on the device of the scene.
    """
    num_clips, num_frames = scene.pose.shape[:2]
    clip = torch.arange(num_clips, device=scene.pose.device).repeat_interleave(num_frames)
    frames = torch.empty(num_clips * num_frames, 3, size_px, size_px, dtype=torch.uint8, device=scene.pose.device)
    pose = scene.pose.flatten(0, 1)
    for start in range(0, len(clip), batch_size):
        part = slice(start, start + batch_size)
        rows = scene.select(clip[part])
        picture = draw(rows.identity, rows.attributes, pose[part], rows.light, size_px)
        frames[part] = (picture * 255).round().to(torch.uint8)
    return frames.unflatten(0, (num_clips, num_frames))
