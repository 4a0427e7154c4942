"""The catalogue of public files that the paper's recipe needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from idanim.models.weight_kind import (
    ADAPTER,
    IMAGE_ENCODER,
    IP_ADAPTER,
    LORA,
    MOTION,
    MOTION_DIFFUSERS,
    SPARSE_CONTROL,
)


def _folder_of(repo: str) -> str:
    return repo.split("/")[1]


@dataclass(frozen=True)
class PublicFile:
    """A file on the Hugging Face Hub.

    Attributes:
        name: what it is called on the command line.
        repo: repository on the Hub.
        path: the file in it.
        size_mb: about how large it is.
        licence: its licence, as its repository says; read it there before you use the file.
        purpose: what it is for.
        needed_by: commands that do without it only where their configuration names another file.
        kind: what its content must be, as in `idanim.models.weight_kind`; "" = nothing that is told apart there.
        sha256: hash of the file; "" = not known.
        hash_seen: where that hash was read: "repository" = on the file's own page or in a commit of its repository;
            "copies" = only in copies of that repository, so that a difference is told but refuses nothing.
    """

    name: str
    repo: str
    path: str
    size_mb: int
    licence: str
    purpose: str
    needed_by: tuple[str, ...]
    kind: str = ""
    sha256: str = ""
    hash_seen: str = ""

    def local(self, folder: Path) -> Path:
        """Where it lies."""
        return folder / _folder_of(self.repo) / self.path


_BOTH = ("train", "generate")
_RAIL = "CreativeML OpenRAIL-M"
_APACHE = "Apache-2.0"
_BASE, _MOTION, _IP = "stable-diffusion-v1-5/stable-diffusion-v1-5", "guoyww/animatediff", "h94/IP-Adapter"
_LCM = "wangfuyun/AnimateLCM"
OWN, COPIES = "repository", "copies"


def _sd15(name: str, path: str, size_mb: int, purpose: str, sha256: str = "") -> PublicFile:
    seen = COPIES if sha256 else ""
    return PublicFile(f"sd15-{name}", _BASE, path, size_mb, _RAIL, purpose, _BOTH, "", sha256, seen)


def _animatediff(name: str, path: str, size_mb: int, purpose: str, kind: str, sha256: str) -> PublicFile:
    needed_by = _BOTH if name == "motion-v2" else ()
    return PublicFile(name, _MOTION, path, size_mb, _APACHE, purpose, needed_by, kind, sha256, OWN)


def _distilled(name: str, repo: str, path: str, size_mb: int, licence: str, purpose: str, kind: str) -> PublicFile:
    # Their hashes were not seen anywhere that could be trusted.
    return PublicFile(name, repo, path, size_mb, licence, purpose, (), kind)


CATALOGUE = (
    _sd15(
        "unet",
        "unet/diffusion_pytorch_model.safetensors",
        3438,
        "SD1.5 UNet",
        "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
    ),
    _sd15("unet-config", "unet/config.json", 1, "its sizes"),
    _sd15(
        "vae",
        "vae/diffusion_pytorch_model.safetensors",
        335,
        "SD1.5 VAE",
        "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
    ),
    _sd15("vae-config", "vae/config.json", 1, "its sizes"),
    _sd15(
        "text",
        "text_encoder/model.safetensors",
        492,
        "CLIP text encoder",
        "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334",
    ),
    _sd15("text-config", "text_encoder/config.json", 1, "its sizes"),
    _sd15("vocab", "tokenizer/vocab.json", 1, "tokenizer"),
    _sd15("merges", "tokenizer/merges.txt", 1, "tokenizer"),
    _sd15("tokenizer-config", "tokenizer/tokenizer_config.json", 1, "tokenizer"),
    _animatediff(
        "motion-v1",
        "mm_sd_v15.ckpt",
        1672,
        "motion modules",
        MOTION,
        "cf16ea656cb16124990c8e2c70a29c793f9841f3a2223073fac8bd89ebd9b69a",
    ),
    _animatediff(
        "motion-v2",
        "mm_sd_v15_v2.ckpt",
        1818,
        "motion modules",
        MOTION,
        "69ed0f5fef82b110aca51bcab73b21104242bc65d6ab4b8b2a2a94d31cad1bf0",
    ),
    _animatediff(
        "motion-v3",
        "v3_sd15_mm.ckpt",
        1673,
        "motion modules",
        MOTION,
        "2412711886f61091846f53204aabc38aa6e09356d62a9808abe4daa802168343",
    ),
    _animatediff(
        "sparsectrl-rgb",
        "v3_sd15_sparsectrl_rgb.ckpt",
        1988,
        "picture control",
        SPARSE_CONTROL,
        "c93f27a3cd15edf99bbddf4522509f2e831f515cc7db9c820d955037ddafbe45",
    ),
    _animatediff(
        "sparsectrl-scribble",
        "v3_sd15_sparsectrl_scribble.ckpt",
        1992,
        "sketch control",
        SPARSE_CONTROL,
        "148399d3267e104bee1b1171100af0ad7e125c4f99aacada21342d778eaf3896",
    ),
    PublicFile(
        "image-encoder",
        _IP,
        "models/image_encoder/model.safetensors",
        2528,
        _APACHE,
        "CLIP ViT-H/14, the face encoder",
        _BOTH,
        IMAGE_ENCODER,
        "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030",
        OWN,
    ),
    PublicFile("image-encoder-config", _IP, "models/image_encoder/config.json", 1, _APACHE, "its sizes", _BOTH),
    PublicFile(
        "plus-face",
        _IP,
        "models/ip-adapter-plus-face_sd15.safetensors",
        98,
        _APACHE,
        "what the adapter starts from",
        ("train",),
        IP_ADAPTER,
        "1c9edc21af6f737dc1d6e0e734190e976cfacf802d6b024b77aa3be922f7569b",
        OWN,
    ),
    PublicFile(
        "animator",
        "ID-Animator/ID-Animator",
        "animator.ckpt",
        247,
        _APACHE,
        "official adapter",
        ("generate",),
        ADAPTER,
        "0ab08ce162afe4fd45d2a10cf96a88ff54cadd42690aecfca74603721d6fd8b7",
        COPIES,
    ),
    _distilled("animatelcm-motion", _LCM, "AnimateLCM_sd15_t2v.ckpt", 1813, "MIT", "sampler=animatelcm", MOTION),
    _distilled("animatelcm-lora", _LCM, "AnimateLCM_sd15_t2v_lora.safetensors", 135, "MIT", "sampler=animatelcm", LORA),
    _distilled(
        "lightning-motion",
        "ByteDance/AnimateDiff-Lightning",
        "animatediff_lightning_4step_diffusers.safetensors",
        908,
        _RAIL,
        "sampler=lightning",
        MOTION_DIFFUSERS,
    ),
)
