"""How well frames fit the prompt, by a CLIP model. F frames · D feature width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from idanim.files import sha256
from idanim.types import FloatArray, IdanimError, UInt8Array


class ClipScorer:
    """Features of pictures and texts by a frozen CLIP model.

    Args:
        model: with its text and its picture part.
        tokenizer: of the model.
        name: of the model; figures of different names never compare.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, name: str) -> None:
        self._model = model.requires_grad_(False).eval()
        self._tokenizer = tokenizer
        side = model.vision_model.config.image_size
        assert isinstance(side, int)  # CLIP's pictures are square
        # CLIP's own: shorter side to `side` (bicubic), centre crop, its mean and standard deviation.
        self._processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        self.name = name

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu") -> ClipScorer:
        """Load from a local folder in transformers layout; nothing is downloaded.

        Raises:
            IdanimError: there is no such folder, or it holds no CLIP model with its tokenizer.
        """
        folder = clip_folder(path)
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True)
            nn.Module.to(model, device)  # transformers types its own `to` for no device
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise IdanimError(f"scoring.clip={str(path)!r}: can't be loaded as a CLIP model: {error}") from error
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        return cls(model, tokenizer, f"clip/{folder.resolve().name}-{sha256(weights[0])[:8]}")

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by; 100 in OpenAI's."""
        return float(self._model.logit_scale.exp())

    @torch.no_grad()
    def picture_features(self, frames: UInt8Array) -> FloatArray:
        """Features of pictures [F, H, W, 3] uint8 RGB: [F, D] float32 of unit length."""
        pictures = [Image.fromarray(frame) for frame in frames]
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        return _unit(self._model.get_image_features(pixels.to(self._model.device)).pooler_output)

    @torch.no_grad()
    def text_features(self, text: str) -> FloatArray:
        """Features of a text, cut off at the model's length (77 tokens): [D] float32 of unit length."""
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=limit, return_tensors="pt").to(self._model.device)
        return _unit(self._model.get_text_features(**tokens).pooler_output)[0]


def _unit(features: Tensor) -> FloatArray:
    return np.asarray(F.normalize(features.float(), dim=-1).cpu().numpy(), dtype=np.float32)


def text_alignment(pictures: FloatArray, text: FloatArray) -> float:
    """CLIP score: 100 · mean over frames of cos(picture, text), in [-100, 100], higher is better.

    Real pictures with fitting captions reach some 25 to 35 with ViT-B/32. Not clamped at 0, and without the factor
    2.5 of CLIPScore (arXiv 2104.08718); the mean over frames of 100 · cos is what papers on video generation print.

    Args:
        pictures: [F, D] features of unit length.
        text: [D] features of unit length.
    """
    return float(100.0 * (pictures.astype(np.float64) @ text.astype(np.float64)).mean())


def clip_folder(path: str | Path) -> Path:
    """The folder of a CLIP model.

    Raises:
        IdanimError: there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise IdanimError(
            f"scoring.clip={str(path)!r}: no such folder; expected a CLIP model in transformers layout, for "
            "instance openai/clip-vit-base-patch32, or leave it out: scoring.clip=null"
        )
    return folder
