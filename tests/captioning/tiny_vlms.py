"""Tiny, randomly initialised vision-language models of transformers' real classes, with processors that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BatchFeature, PreTrainedTokenizerFast

SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>",
    "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
)  # fmt: skip
WORDS = (
    "a", "person", "man", "woman", "with", "red", "hair", "smiles", "nods", "looks", "moves", "describe", "the", ":",
    "user", "assistant",
)  # fmt: skip
TOKENS = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
IMAGE_PX = 28
TEXT = {
    "vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 3,
}  # fmt: skip
CLIP_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": IMAGE_PX, "patch_size": 14,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(models.WordLevel(TOKENS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[4:]),
    )  # fmt: skip


def chat_template(image: str, video: str) -> str:
    """A chat template that puts the placeholders of pictures before the text."""
    return (
        "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image} {{% elif part.type == 'video' %}}{video} {{% else %}}"
        "{{ part.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
    )


class PlainVideos:
    """Stands for a video processor, all of which need torchvision: scales frames and does nothing else."""

    merge_size = temporal_patch_size = 2

    def __call__(self, videos: Any, **_: Any) -> BatchFeature:
        frames = [np.stack([np.asarray(f.resize((IMAGE_PX, IMAGE_PX))) for f in video]) for video in _flat(videos)]
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).float() / 255
        return BatchFeature({"pixel_values_videos": pixels})


def taking_plain_videos(processor_class: type) -> Any:
    """A processor class of transformers that does not insist on its own kind of video processor."""
    return type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": lambda *_: None})


def _flat(videos: Any) -> list[Any]:
    return videos if not isinstance(videos[0][0], list) else [video for batch in videos for video in batch]


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT: a model and its processor."""
    grid = [[56, 56], [28, 56]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP_VISION), text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=TOKENS["<image>"], image_grid_pinpoints=grid, image_seq_length=4,
    )  # fmt: skip
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_PX}, crop_size={"height": IMAGE_PX, "width": IMAGE_PX}, image_grid_pinpoints=grid
    )
    processor = transformers.LlavaNextProcessor(
        pictures, tokenizer(), patch_size=14, vision_feature_select_strategy="default",
        chat_template=chat_template("<image>", "<video>"), num_additional_image_tokens=1,
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision."""
    grid = [[28, 28], [56, 56]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**CLIP_VISION, vision_use_head=False),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=TOKENS["<image>"], video_token_id=TOKENS["<video>"], image_grid_pinpoints=grid,
    )  # fmt: skip
    pictures = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": IMAGE_PX, "width": IMAGE_PX}, image_grid_pinpoints=grid
    )
    processor = taking_plain_videos(transformers.LlavaOnevisionProcessor)(
        pictures, tokenizer(), PlainVideos(), num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=chat_template("<image>", "<video>"),
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen_ids() -> dict[str, int]:
    places = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    places |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {name: TOKENS[f"<|{token}|>"] for name, token in places.items()}


def _qwen_parts(patch_px: int) -> tuple[Any, ...]:
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=patch_px, min_pixels=(2 * patch_px) ** 2, max_pixels=(4 * patch_px) ** 2
    )
    return (
        pictures,
        tokenizer(),
        PlainVideos(),
        chat_template("<|vision_start|> <|image_pad|> <|vision_end|>", "<|vision_start|> <|video_pad|> <|vision_end|>"),
    )


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL."""
    vision = {
        "depth": 1, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
        "patch_size": 14, "window_size": 28, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": MROPE}, vision_config=vision, **_qwen_ids()
    )
    pictures, words, videos, template = _qwen_parts(14)
    processor = taking_plain_videos(transformers.Qwen2_5_VLProcessor)(pictures, words, videos, chat_template=template)
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL."""
    vision = {
        "depth": 1, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
        "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config=TEXT | {"rope_parameters": MROPE, "head_dim": 16}, vision_config=vision, **_qwen_ids()
    )
    pictures, words, videos, template = _qwen_parts(16)
    processor = taking_plain_videos(transformers.Qwen3VLProcessor)(pictures, words, videos, chat_template=template)
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def video_llava() -> tuple[Any, Any]:
    """Video-LLaVA."""
    config = transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP_VISION), text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=TOKENS["<image>"], video_token_id=TOKENS["<video>"],
    )  # fmt: skip
    pictures = transformers.VideoLlavaImageProcessor(
        size={"shortest_edge": IMAGE_PX}, crop_size={"height": IMAGE_PX, "width": IMAGE_PX}
    )
    processor = taking_plain_videos(transformers.VideoLlavaProcessor)(
        pictures, PlainVideos(), tokenizer(), patch_size=14, vision_feature_select_strategy="default",
        chat_template=chat_template("<image>", "<video>"),
    )  # fmt: skip
    return transformers.VideoLlavaForConditionalGeneration(config), processor


def save(model: Any, folder: Path) -> Path:
    """Write a model that never stops by itself."""
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder
