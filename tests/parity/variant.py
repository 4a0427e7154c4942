"""A folder laid out like golden/, with other sizes and made by our own models.

It proves no parity. It shows that the checks take any folder's sizes from its manifest, and that they notice damage.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import official_models
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from golden_folder import GoldenFolder
from official_keys import official_state
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.attention import FaceAttention
from idanim.models.resampler import Resampler
from idanim.models.sparse_control import sparse_control_pipeline
from idanim.training.objective import denoising_loss

FRAMES, OTHER_FRAMES, SIZE, LATENT, TEXT, TIMESTEP = 3, 5, 32, 16, 24, 437
SAME_AS_GOLDEN = ("scheduler", "clip_preprocess", "face_align")
MOTION = {
    "num_attention_heads": 4,
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_position_encoding_max_len": 24,
    "temporal_attention_dim_div": 1,
}
UNET: dict[str, Any] = {
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "sample_size": LATENT,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT,
    "attention_head_dim": [2, 4],
    "norm_num_groups": 16,
    "use_inflated_groupnorm": True,
    "use_motion_module": True,
    "motion_module_resolutions": [1, 2],
    "motion_module_mid_block": False,
    "motion_module_kwargs": MOTION,
}
SPARSE = {key: UNET[key] for key in ("in_channels", "block_out_channels", "layers_per_block", "norm_num_groups")} | {
    "conditioning_channels": 4,
    "cross_attention_dim": TEXT,
    "attention_head_dim": [2, 4],
    "down_block_types": UNET["down_block_types"],
    "motion_module_mid_block": False,
    "motion_module_kwargs": MOTION | {"attention_block_types": ["Temporal_Self"]},
    "concate_conditioning_mask": True,
    "use_simplified_condition_embedding": True,
    "set_noisy_sample_input_to_zero": True,
}
RESAMPLER = {
    "dim": 20,
    "depth": 2,
    "dim_head": 8,
    "heads": 3,
    "num_queries": 6,
    "embedding_dim": 36,
    "output_dim": TEXT,
    "ff_mult": 2,
}
VISION = {
    "hidden_size": RESAMPLER["embedding_dim"],
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 8,
    "hidden_act": "gelu",
}
CLIP_TEXT = {
    "vocab_size": 514,
    "hidden_size": TEXT,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 1,
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": SIZE,
    "scaling_factor": 0.2,
}
ATTENTION = {"hidden": 20, "cross_attention_dim": 12, "heads": 2, "rank": 3, "num_tokens": 5}
PIPELINE: dict[str, Any] = {
    "prompt": "a man sings",
    "negative_prompt": "dull",
    "scale": 0.6,
    "guidance_scale": 5.0,
    "steps": 3,
    "seed": 77,
    "H": SIZE,
    "W": SIZE,
    "frames": FRAMES,
}


class VariantFolder:
    """Writes files and notes them in the manifest."""

    def __init__(self, path: Path, golden: GoldenFolder) -> None:
        self.path, self._files = path, {}
        shutil.copytree(golden.tokenizer_path, path / "tokenizer")
        for name in SAME_AS_GOLDEN:
            self._files[f"{name}.safetensors"] = golden.entry(name)
            shutil.copyfile(golden.path / f"{name}.safetensors", path / f"{name}.safetensors")
        self._write_manifest()

    def write(self, name: str, tensors: dict[str, Tensor], **entry: Any) -> None:
        path = self.path / f"{name}.safetensors"
        safetensors.torch.save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, path)
        self._files[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **entry}
        self._write_manifest()

    def _write_manifest(self) -> None:
        (self.path / "manifest.json").write_text(json.dumps({"name": "variant", "files": self._files}, indent=1))


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """The model with random values where it had only zeros, all of them exact in float16."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
        parameter.copy_(parameter.half().float())
    return model


def write_variant(path: Path, golden: GoldenFolder) -> None:
    """Make the whole folder.

    Args:
        path: an empty folder.
        golden: gives what has no sizes of a model in it: tokenizer, noise levels, preprocessing, alignment.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        folder = VariantFolder(path, golden)
        _write_models(folder)
        _write_attention(folder)
        made = GoldenFolder(path)
        _write_unet_io(folder, made)
        with torch.no_grad():
            _write_pipeline(folder, made)


def _write_models(folder: VariantFolder) -> None:
    unet = randomised(official_models.new_motion_unet(UNET))
    folder.write("unet3d", official_state(unet), args=UNET)
    sparse = randomised(official_models.new_sparse_controlnet(SPARSE))
    folder.write("sparse_controlnet", official_state(sparse), args=SPARSE, kind="rgb")
    text = randomised(CLIPTextModel(CLIPTextConfig(**CLIP_TEXT))).state_dict()
    text = {key if key.startswith("text_model.") else f"text_model.{key}": t for key, t in text.items()}
    folder.write("clip_text", text, args=CLIP_TEXT)
    vision = randomised(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    folder.write("clip_vision", vision.state_dict(), args=VISION)
    folder.write("vae", randomised(AutoencoderKL(**VAE)).state_dict(), args=VAE)
    sizes = {key: value for key, value in RESAMPLER.items() if key != "embedding_dim"}
    resampler = randomised(Resampler(RESAMPLER["embedding_dim"], **sizes))
    features = torch.randn(2, 17, RESAMPLER["embedding_dim"])
    tensors = {f"weights.{key}": t for key, t in resampler.state_dict().items()}
    tensors |= {"input": features, "output": resampler(features)}
    tensors["output_for_zero_input"] = resampler(torch.zeros_like(features[:1]))
    folder.write("resampler", tensors, args=RESAMPLER)
    backbone = official_models.unconditional_backbone(GoldenFolder(folder.path))
    adapter = randomised(FaceAdapter(backbone, 0, RESAMPLER["num_queries"], lora_rank=4, projection=resampler))
    order = backbone.unet.attn_processors
    folder.write(
        "animator",
        {f"module.{key}": t for key, t in adapter.state_dict().items()},
        attn_processor_order=[name for name in order if "motion_modules" not in name],
    )


def _write_attention(folder: VariantFolder) -> None:
    hidden_dim, context_dim, tokens = (ATTENTION[key] for key in ("hidden", "cross_attention_dim", "num_tokens"))
    module = randomised(FaceAttention(hidden_dim, context_dim, tokens, 1.0, ATTENTION["rank"]))
    attn = nn.ModuleDict(
        {
            "to_q": nn.Linear(hidden_dim, hidden_dim, bias=False),
            "to_k": nn.Linear(context_dim, hidden_dim, bias=False),
            "to_v": nn.Linear(context_dim, hidden_dim, bias=False),
            "to_out": nn.ModuleList([nn.Linear(hidden_dim, hidden_dim), nn.Identity()]),
        }
    )
    attn.heads = ATTENTION["heads"]
    hidden = torch.randn(2, 7, hidden_dim, requires_grad=True)
    context = torch.randn(2, 9 + tokens, context_dim, requires_grad=True)
    cotangent = torch.randn(2, 7, hidden_dim)
    output = module(attn, hidden, context)
    (output * cotangent).sum().backward()
    tensors = {f"processor.{key}": t for key, t in module.state_dict().items()}
    tensors |= {f"attn.{key}": t for key, t in attn.state_dict().items()}
    tensors |= {f"grad.processor.{key}": p.grad for key, p in module.named_parameters()}
    tensors |= {"grad.hidden_states": hidden.grad, "grad.encoder_hidden_states": context.grad}
    tensors |= {"hidden_states": hidden, "encoder_hidden_states": context, "cotangent": cotangent}
    folder.write("lora_face_attn", tensors | {"output.scale_1.0": output}, args=ATTENTION)


def _write_unet_io(folder: VariantFolder, made: GoldenFolder) -> None:
    backbone = official_models.unconditional_backbone(made)
    sample, text = torch.randn(2, 4, FRAMES, LATENT, 12), torch.randn(2, 77, TEXT)
    long, timesteps = torch.randn(1, 4, OTHER_FRAMES, 8, LATENT), torch.tensor([900, 40])
    features = torch.randn(2, 17, RESAMPLER["embedding_dim"])
    with torch.no_grad():
        plain = backbone.predict(sample, timesteps, text)
        adapter = official_models.face_adapter(made, backbone)
        adapter.attach(backbone)
        tokens = adapter.id_tokens(features[:, None])
        context = torch.cat([text, tokens], dim=1)
        tensors = {
            "sample": sample,
            "text": text,
            "timesteps": timesteps,
            "clip_hidden": features,
            "face_tokens": tokens,
            "out.plain": plain,
            "out.adapter_scale_1.0": backbone.predict(sample, timesteps, context),
            "out.one_frame": backbone.predict(sample[:, :, :1], timesteps, context),
            f"sample{OTHER_FRAMES}": long,
            f"out{OTHER_FRAMES}": backbone.predict(long, torch.tensor([TIMESTEP]), context[:1]),
        }
        backbone.double()
        adapter.double()
        tensors["out64.adapter_scale_1.0"] = backbone.predict(sample.double(), timesteps, context.double())
        backbone.float()
        adapter.float()
    clean, noise, times = torch.randn(sample.shape), torch.randn(sample.shape), torch.tensor([250, 611])
    noisy = backbone.scheduler.add_noise(clean, noise, times)
    prediction = backbone.predict(noisy, times, torch.cat([text, adapter.id_tokens(features[:, None])], dim=1))
    loss = denoising_loss(prediction, noise)
    loss.backward()
    tensors |= {"train.x0": clean, "train.noise": noise, "train.timesteps": times, "train.noisy": noisy}
    tensors |= {"train.pred": prediction, "train.loss": loss.view(1)}
    gradients = {name: p.grad for name, p in adapter.named_parameters()}
    tensors |= {f"train.gradnorm.{name}": gradient.norm().view(1) for name, gradient in gradients.items()}
    tensors["train.grad.image_proj_model.latents"] = gradients["image_proj_model.latents"]
    folder.write("unet3d_io", tensors)


def _write_pipeline(folder: VariantFolder, made: GoldenFolder) -> None:
    backbone, encoder = official_models.backbone(made), official_models.vision_encoder(made)
    sampler = Sampler(backbone, encoder, official_models.face_adapter(made, backbone, PIPELINE["scale"]))
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    context, negative = sampler.guidance_contexts([picture.numpy()], PIPELINE["prompt"], PIPELINE["negative_prompt"])
    settings = SamplingSettings(FRAMES, SIZE, SIZE, PIPELINE["steps"], PIPELINE["guidance_scale"], "", 8)
    steps: list[Tensor] = []
    video = sampler.denoise(context, negative, PIPELINE["seed"], settings, on_step=steps.append)
    initial = torch.randn(1, 4, FRAMES, LATENT, LATENT, generator=torch.Generator().manual_seed(PIPELINE["seed"]))
    ids = backbone.tokenizer([PIPELINE["prompt"]], padding="max_length", max_length=77, return_tensors="pt").input_ids
    tensors = {
        "ref0": picture,
        "prompt_ids": ids,
        "prompt_embeds": context[:, :77],
        "negative_prompt_embeds": negative[:, :77],
        "face_tokens.ref0": context[:, 77:],
        "face_tokens.uncond": negative[:, 77:],
        "single.latents_init": initial,
        "single.latents_per_step": torch.stack(steps),
        "single.timesteps": sampler._pipeline.scheduler.timesteps,
        "single.video_first_last_sub3": video[[0, -1], :, ::3, ::3].transpose(0, 1)[None],
    }
    folder.write("pipeline", tensors, args=PIPELINE | {"scheduler": made.args("scheduler")})
    _write_sparse_io(folder, made, sampler, torch.cat([context, negative]))


def _write_sparse_io(folder: VariantFolder, made: GoldenFolder, sampler: Sampler, contexts: Tensor) -> None:
    sparse = official_models.sparse_controlnet(made)
    condition, frames = torch.randn(1, 4, 1, LATENT, LATENT), 4
    whole, mask = torch.zeros(1, 4, frames, LATENT, LATENT), torch.zeros(1, 1, frames, LATENT, LATENT)
    whole[:, :, [1]], mask[:, :, [1]] = condition, 1
    text = torch.randn(1, 77, TEXT)
    down, middle = sparse(
        torch.zeros(1, 4, frames, LATENT, LATENT),
        torch.tensor([300]),
        text.repeat_interleave(frames, dim=0),
        whole,
        conditioning_scale=0.4,
        conditioning_mask=mask,
        return_dict=False,
    )
    controlled: list[Tensor] = []
    sampler.denoise(
        *contexts.split(1),
        PIPELINE["seed"],
        SamplingSettings(FRAMES, SIZE, SIZE, 2, PIPELINE["guidance_scale"], "", 8),
        on_step=controlled.append,
        pipeline=sparse_control_pipeline(sampler.backbone, sparse),
        conditioning_frames=condition,
        controlnet_frame_indices=[1],
    )
    tensors = {"cond_latents": condition, "cond_index": torch.tensor([1]), "timestep": torch.tensor([300])}
    tensors |= {"sample": torch.randn(1, 4, frames, LATENT, LATENT), "text": text}
    tensors |= {"mid": middle.unflatten(0, (1, frames)).transpose(1, 2)}
    tensors |= {"down.2": down[2].unflatten(0, (1, frames)).transpose(1, 2)}
    tensors |= {"down_abs_mean": torch.stack([residual.abs().mean() for residual in down])}
    tensors["pipeline.latents_per_step"] = torch.stack(controlled)
    folder.write("sparse_controlnet_io", tensors, note="direct call: conditioning_scale 0.4, text only")


if __name__ == "__main__":
    write_variant(Path(sys.argv[1]), GoldenFolder(Path(sys.argv[2])))
