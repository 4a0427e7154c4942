"""The public files that the paper's recipe needs: what they are, how to get them, whether they are whole.

    python -m idanim.weights list   [name…] [--folder weights]
    python -m idanim.weights pull   name… | --all
    python -m idanim.weights verify [name…]

Files come from the Hugging Face Hub (`HF_ENDPOINT` names a mirror), into `<folder>/<repository>/<path>`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from idanim.models.weight_file import read_weights
from idanim.types import IdanimError


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
    """

    name: str
    repo: str
    path: str
    size_mb: int
    licence: str
    purpose: str
    needed_by: tuple[str, ...]

    def local(self, folder: Path) -> Path:
        """Where it lies."""
        return folder / _folder_of(self.repo) / self.path


_BOTH = ("train", "generate")
_RAIL = "CreativeML OpenRAIL-M"
_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CATALOGUE = (
    PublicFile("sd15-unet", _BASE, "unet/diffusion_pytorch_model.safetensors", 3438, _RAIL, "SD1.5 UNet", _BOTH),
    PublicFile("sd15-unet-config", _BASE, "unet/config.json", 1, _RAIL, "its sizes", _BOTH),
    PublicFile("sd15-vae", _BASE, "vae/diffusion_pytorch_model.safetensors", 335, _RAIL, "SD1.5 VAE", _BOTH),
    PublicFile("sd15-vae-config", _BASE, "vae/config.json", 1, _RAIL, "its sizes", _BOTH),
    PublicFile("sd15-text", _BASE, "text_encoder/model.safetensors", 492, _RAIL, "CLIP text encoder", _BOTH),
    PublicFile("sd15-text-config", _BASE, "text_encoder/config.json", 1, _RAIL, "its sizes", _BOTH),
    PublicFile("sd15-vocab", _BASE, "tokenizer/vocab.json", 1, _RAIL, "tokenizer", _BOTH),
    PublicFile("sd15-merges", _BASE, "tokenizer/merges.txt", 1, _RAIL, "tokenizer", _BOTH),
    PublicFile("sd15-tokenizer-config", _BASE, "tokenizer/tokenizer_config.json", 1, _RAIL, "tokenizer", _BOTH),
    PublicFile("motion-v2", "guoyww/animatediff", "mm_sd_v15_v2.ckpt", 1818, "Apache-2.0", "motion modules", _BOTH),
    PublicFile("motion-v3", "guoyww/animatediff", "v3_sd15_mm.ckpt", 1673, "Apache-2.0", "motion modules", ()),
    PublicFile(
        "sparsectrl-rgb", "guoyww/animatediff", "v3_sd15_sparsectrl_rgb.ckpt", 1988, "Apache-2.0", "picture control", ()
    ),
    PublicFile(
        "sparsectrl-scribble",
        "guoyww/animatediff",
        "v3_sd15_sparsectrl_scribble.ckpt",
        1992,
        "Apache-2.0",
        "sketch control",
        (),
    ),
    PublicFile(
        "image-encoder",
        "h94/IP-Adapter",
        "models/image_encoder/model.safetensors",
        2528,
        "Apache-2.0",
        "CLIP ViT-H/14, the face encoder",
        _BOTH,
    ),
    PublicFile(
        "image-encoder-config",
        "h94/IP-Adapter",
        "models/image_encoder/config.json",
        1,
        "Apache-2.0",
        "its sizes",
        _BOTH,
    ),
    PublicFile(
        "plus-face",
        "h94/IP-Adapter",
        "models/ip-adapter-plus-face_sd15.safetensors",
        98,
        "Apache-2.0",
        "what the adapter starts from",
        ("train",),
    ),
    PublicFile(
        "animator", "ID-Animator/ID-Animator", "animator.ckpt", 247, "Apache-2.0", "official adapter", ("generate",)
    ),
)
COMMANDS = ("list", "pull", "verify")


def chosen(names: Sequence[str]) -> list[PublicFile]:
    """Files of the catalogue by name; all of them without names.

    Raises:
        IdanimError: a name that is not in the catalogue.
    """
    known = {file.name: file for file in CATALOGUE}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise IdanimError(f"there is no file {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(CATALOGUE)


def pull(files: Iterable[PublicFile], folder: Path) -> list[Path]:
    """Download files that are not there; an interrupted download goes on where it stopped.

    Raises:
        IdanimError: the Hub can't be reached, refuses, or gives a damaged file.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    paths = []
    for file in files:
        try:
            hf_hub_download(file.repo, file.path, local_dir=folder / _folder_of(file.repo), endpoint=endpoint)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise IdanimError(f"{file.name}: {file.repo}/{file.path} could not be downloaded ({reason})") from error
        problem = problem_of(file, folder)
        if problem is not None:
            raise IdanimError(problem)
        paths.append(file.local(folder))
    return paths


def problem_of(file: PublicFile, folder: Path) -> str | None:
    """What is wrong with a local file, in words; None = it is whole."""
    path = file.local(folder)
    if not path.is_file():
        return f"{path}: there is no such file"
    if path.suffix not in (".ckpt", ".bin", ".safetensors"):
        return None if path.stat().st_size else f"{path}: the file is empty; download it again"
    try:
        read_weights(path)
    except IdanimError as error:
        return str(error)
    return None


def listing(files: Iterable[PublicFile], folder: Path) -> str:
    """A line for each file, and what is missing for which command."""
    files = list(files)
    width = max(len(file.name) for file in files)
    there = {file.name for file in files if file.local(folder).is_file()}
    lines = [
        f"{'✓' if file.name in there else '·'} {file.name:<{width}}  {file.size_mb:>5} MB  {file.repo}/{file.path}  "
        f"{file.licence}  {file.purpose}"
        for file in files
    ]
    for command in ("train", "generate"):
        missing = [file.name for file in files if command in file.needed_by and file.name not in there]
        lines.append(f"{command}: " + (f"missing {', '.join(missing)}" if missing else "everything is there"))
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> None:
    if options.command == "pull" and not (options.names or options.all):
        raise IdanimError("say which files, or --all")
    files = chosen(options.names)
    if options.command == "pull":
        pull(files, options.folder)
    if options.command != "verify":
        print(listing(files, options.folder))
        return
    problems = [problem for file in files if (problem := problem_of(file, options.folder)) is not None]
    if problems:
        raise IdanimError("\n".join(problems))
    print(f"{len(files)} files are whole")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m idanim.weights", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("names", nargs="*", metavar="name", help="as `list` shows them")
    parser.add_argument("--folder", type=Path, default=Path("weights"), help="where the files lie")
    parser.add_argument("--all", action="store_true", help="pull everything")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (IdanimError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
