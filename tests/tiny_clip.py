"""A tiny CLIP of random weights for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

WORDS = ["a", "person", "wearing", "red", "hat", "on", "the", "beach"]


def write_tiny_clip(folder: Path, side: int = 32) -> Path:
    """A CLIP of random weights with a word for a token, as transformers stores it."""
    torch.manual_seed(0)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "!</w>": 2}
    for word in WORDS:
        for part in (*word[:-1], word[-1] + "</w>"):
            vocabulary.setdefault(part, len(vocabulary))
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(vocabulary), max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1, **size
    )
    vision = CLIPVisionConfig(image_size=side, patch_size=8, **size)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder
