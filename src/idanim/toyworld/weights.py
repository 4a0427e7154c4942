"""The shipped weights: what they are, how they are written, and how the parts of the toy world are loaded.

weights/
  backbone/{unet,vae,text_encoder,tokenizer,scheduler}   diffusers layout, float16
  image_encoder/                                         transformers layout, float16
  adapter.safetensors                                    the toy IP-Adapter, official key names
  faces/{detector,recogniser_a,recogniser_b}.safetensors, recogniser_a.onnx
  readers/{reader,action_reader}.safetensors
  face.png                                               a person nobody trained on, the default reference
"""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNetMotionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from idanim.toyworld.faces import load_network
from idanim.toyworld.networks import ActionReader, Reader
from idanim.toyworld.people import ACTIONS
from idanim.toyworld.shipped import WEIGHTS_DIR

NUM_FRAMES = 8


def save_network(network: nn.Module, path: Path) -> None:
    """Write a network's weights as float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def save_backbone(
    folder: Path,
    unet: UNetMotionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
) -> None:
    """Write the text-to-video model in diffusers layout, in float16."""
    copy.deepcopy(unet).half().save_pretrained(folder / "unet")
    copy.deepcopy(vae).half().save_pretrained(folder / "vae")
    copy.deepcopy(text_encoder).half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")


def save_image_encoder(folder: Path, encoder: CLIPVisionModelWithProjection) -> None:
    """Write the reference encoder in transformers layout, in float16."""
    copy.deepcopy(encoder).half().save_pretrained(folder)


def load_reader(folder: Path = WEIGHTS_DIR) -> Reader:
    """Load the reader of attributes and poses."""
    return load_network(Reader(), folder / "readers" / "reader.safetensors")


def load_action_reader(folder: Path = WEIGHTS_DIR) -> ActionReader:
    """Load the reader of actions, for clips of 8 frames."""
    return load_network(ActionReader(NUM_FRAMES, len(ACTIONS)), folder / "readers" / "action_reader.safetensors")
