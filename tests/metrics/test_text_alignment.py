"""The CLIP score with a tiny random CLIP, against the model's own logits."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import write_tiny_clip
from transformers import CLIPModel, CLIPTokenizer

from idanim.metrics.text_alignment import ClipScorer, text_alignment
from idanim.types import IdanimError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(folder):
    return ClipScorer.from_pretrained(folder)


def own_pixels(frames, side=32):
    """CLIP's preprocessing by hand: shorter side to `side`, bicubic, centre cut out."""
    pixels = []
    for frame in frames:
        height, width = frame.shape[:2]
        scale = side / min(height, width)
        size = (int(width * scale), int(height * scale))
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), np.float32) / 255
        top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
        pixels.append((small[top : top + side, left : left + side] - MEAN) / np.array(STD))
    return torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float()


def test_matches_the_logits_of_the_model(folder, clip):
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), dtype=np.uint8)
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(["a red hat"], return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=own_pixels(frames), **tokens).logits_per_image
        expected = 100 * float((logits / model.logit_scale.exp()).mean())
    ours = text_alignment(clip.picture_features(frames), clip.text_features("a red hat"))
    assert ours == pytest.approx(expected, abs=1e-3)
    assert text_alignment(clip.picture_features(frames), clip.text_features("the beach")) != pytest.approx(
        ours, abs=0.1
    )


def test_known_angles():
    text = np.array([1, 0], np.float32)
    pictures = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]], np.float32)
    assert text_alignment(pictures, text) == pytest.approx(100 * (1 + 0 - 1 + 0.6) / 4)
    assert text_alignment(pictures[:1], text) == 100


def test_frames_are_scored_alone_and_long_prompts_are_cut_off(clip):
    frames = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    together = clip.picture_features(frames)
    assert together == pytest.approx(np.concatenate([clip.picture_features(f[None]) for f in frames]), abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert clip.text_features("a person wearing " * 50).shape == (12,)


def test_name_tells_models_apart(clip, tmp_path):
    assert clip.name.startswith("clip/tiny-clip-")
    other = write_tiny_clip(tmp_path / "tiny-clip", side=16)
    assert ClipScorer.from_pretrained(other).name != clip.name


def test_missing_and_broken_models_are_named(tmp_path):
    with pytest.raises(IdanimError, match=r"scoring\.clip=.*no such folder"):
        ClipScorer.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(IdanimError, match="can't be loaded as a CLIP model"):
        ClipScorer.from_pretrained(tmp_path)
