"""A face engine that takes coloured squares for faces, videos made of them, and the program run on those."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from idanim.curate import main
from idanim.curation.decision import RejectedError
from idanim.curation.sources import SourceVideo, clip_key
from idanim.faces.align import ARCFACE_TEMPLATE
from idanim.types import Face
from idanim.video_encoding import encode_mp4

BACKGROUND = 90


class SquareFaces:
    """Each pure red, green or blue square is a face; its vector is the colour of its middle.

    Tests that run it in a process of its own steer it by environment variables: SQUARE_FACES_DIE_AFTER kills the
    process at that many pictures, as `kill -9` does, and SQUARE_FACES_KILL_PARENT_AFTER the one that started it;
    SQUARE_FACES_DIE_SHADE and SQUARE_FACES_HANG_SHADE do so at a square of that shade.
    """

    name = "squares/1"

    def __init__(self, **ignored):
        self._left = int(os.environ.get("SQUARE_FACES_DIE_AFTER", "-1"))
        self._parent_left = int(os.environ.get("SQUARE_FACES_KILL_PARENT_AFTER", "-1"))
        self._die_shade = int(os.environ.get("SQUARE_FACES_DIE_SHADE", "-99"))
        self._hang_shade = int(os.environ.get("SQUARE_FACES_HANG_SHADE", "-99"))

    def _obey(self, rgb):
        self._left -= 1
        self._parent_left -= 1
        brightness = int(rgb.max())  # of the square
        if self._left == 0 or abs(255 - self._die_shade - brightness) < 4:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)
        parent = multiprocessing.parent_process()
        if self._parent_left == 0 and parent is not None and parent.pid == os.getppid():  # else it is dead already
            os.kill(parent.pid, signal.SIGKILL)
        if abs(255 - self._hang_shade - brightness) < 4:
            time.sleep(600)

    def detect(self, rgb):
        self._obey(rgb)
        faces = []
        for channel in range(3):
            others = np.delete(rgb.astype(int), channel, axis=2).max(2)
            rows, columns = np.nonzero(rgb[..., channel].astype(int) - others > 80)
            if len(rows) > 12:
                left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                landmarks = ARCFACE_TEMPLATE / 112 * [right - left, bottom - top] + [left, top]
                faces.append(Face(tuple(map(float, (left, top, right, bottom))), landmarks.astype(np.float32), 0.99))
        return sorted(faces, key=lambda face: -face.width_px * face.height_px)

    def embed(self, rgb, face):
        x, y = (int(v) for v in face.landmarks.mean(0))
        vector = rgb[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3].reshape(-1, 3).mean(0).astype(np.float32)
        return vector / np.linalg.norm(vector)


def draw(faces=("red",), height=96, width=96, x=36, y=36, size=24, shade=0):
    """One picture with a square for each face, side by side."""
    rgb = np.full((height, width, 3), BACKGROUND, np.uint8)
    for i, colour in enumerate(faces):
        left = x + i * (size + 6)
        rgb[y : y + size, left : left + size] = 0
        rgb[y : y + size, left : left + size, ("red", "green", "blue").index(colour)] = 255 - shade
    return rgb


def person(num_frames=40, colour="red", **kwargs):
    """Frames of a square that drifts to the right."""
    return np.stack([draw((colour,), x=30 + i // 4, **kwargs) for i in range(num_frames)])


def write_mp4(path, frames, fps=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(frames, fps))
    return path


def arguments(source, output, overrides):
    """The program's arguments for square faces and small clips."""
    squares = ["faces._target_=square_faces.SquareFaces", "filter.min_face_px=12", "filter.min_blur=0", "clip.size=32"]
    # In this process, which is quicker; `overrides` come later and win.
    return [f"input={source}", f"output={output}", "workers=0", *squares, *overrides]


def curate(source, output, *overrides):
    """Run the real program; returns the output folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["curate", *arguments(source, output, overrides)])
        main()
    return Path(output)


def curate_in_a_process(source, output, *overrides, environment=None, **kwargs):
    """Run the program as a user does, in a process that may be killed."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (environment or {})
    command = [sys.executable, "-m", "idanim.curate", *arguments(source, output, overrides)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, **kwargs)


def video_at(path):
    return SourceVideo(path, path.name, clip_key(path.name))


def reason(call, *arguments):
    with pytest.raises(RejectedError) as caught:
        call(*arguments)
    return caught.value
