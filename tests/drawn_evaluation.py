"""An evaluation of drawn people: a sampler that draws and a face engine that knows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from idanim.config import Run, restore
from idanim.evaluation import evaluate
from idanim.generation.settings import SamplingSettings
from idanim.models.checkpoint import write_adapter
from idanim.types import Face, GeneratedClip

PEOPLE = (900, 901, *range(6))
VIDEO = {"num_frames": 6, "height": 32, "width": 32, "fps": 8}
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
SAMPLING = {"num_inference_steps": 4, "guidance_scale": 8.0, "negative_prompt": ""}


class DrawnEngine:
    """Finds the coloured square of a drawn person and gives the person's own vector, without noise."""

    def __init__(self, name="drawn/1"):
        self.name = name

    def detect(self, rgb):
        rows, columns = np.nonzero(np.abs(rgb.astype(int) - 128).max(axis=-1) > 25)
        if len(rows) < 16:
            return []
        box = tuple(float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        landmarks = np.array(box[:2]) + POINTS * (np.array(box[2:]) - box[:2])
        return [Face(box, landmarks.astype(np.float32), 0.9)]

    def embed(self, rgb, face):
        left, top, right, bottom = (int(v) for v in face.box)
        colour = np.median(rgb[top:bottom, left:right].reshape(-1, 3), axis=0)
        colours = {person: np.random.default_rng(person).integers(0, 256, 3) for person in PEOPLE}
        person = min(PEOPLE, key=lambda p: np.abs(colours[p] - colour).sum())
        vector = np.random.default_rng(person).standard_normal(16).astype(np.float32)
        return vector / np.linalg.norm(vector)


class Paper:
    """The backbone of a sampler that draws."""

    def decode_in(self, chunk_frames, tiling):
        pass

    def cut_text(self, prompt):
        return ""

    def unknown_words(self, prompt):
        return ["beach"] if "beach" in prompt else []


class DrawingSampler:
    """Shows its reference, shaking; grey without one. Fails after `budget` videos, as a killed run would."""

    def __init__(self, budget=1000):
        self.budget = budget
        self.backbone = Paper()
        self.asked = []

    def generate(self, references, prompt, seed, settings: SamplingSettings, identity=""):
        if len(self.asked) == self.budget:
            raise KeyboardInterrupt
        self.asked.append((identity, prompt, seed, settings.num_inference_steps))
        plain = np.full((settings.height, settings.width, 3), 128, np.uint8)
        picture = references[0] if references else plain
        frames = [np.roll(picture, seed + i % 2, axis=1) for i in range(settings.num_frames)]
        return GeneratedClip(np.stack(frames), settings.fps, prompt, identity, seed)


def run(output, engine="drawn/1", **values):
    config = restore("evaluate", {"choices": {"logger": "csv"}, "values": {"output": str(output), **values}})
    config["faces"] = {"_target_": "drawn_evaluation.DrawnEngine", "name": engine}
    return Run(config, Path(output), {"faces": "drawn", "logger": "csv"}, "abc123")


def write_checkpoint(path, weight=0.0, choices=None, **values):
    """An adapter file that says how long its videos are, and whatever else its training configuration should."""
    values = {"backbone": {"video": VIDEO, "sampling": SAMPLING, "prompts": "toy"}, **values}
    stored = {"choices": {"backbone": "tiny", **(choices or {})}, "values": values}
    write_adapter(path, {"weight": torch.tensor([weight])}, stored)
    return path


def loader(sampler):
    return lambda ckpt, overrides, device, scale, backbone, initial=False, default_backbone=None: (sampler, {})


def evaluate_grid(output, ckpt, shards, sampler, **values):
    values = {"ckpt": str(ckpt), "prompts": ["a hat", "a beach"], "data": {"shards": str(shards)}, **values}
    return evaluate(run(output, **values), loader(sampler))
