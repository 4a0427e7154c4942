"""The public files that the paper's recipe needs: what they are, how to get them, whether they are whole.

    python -m idanim.weights list   [name…] [--folder weights]
    python -m idanim.weights pull   name… | --all
    python -m idanim.weights verify [name…]
    python -m idanim.weights fake   <folder> [name…]            random values in their place, to try things out
    python -m idanim.weights export <ckpt> <file> --format …    an adapter for other programs

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

from idanim.files import write_text
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
FAKE_NOTE = "FAKE.txt"
"""Lies in a folder whose files are stand-ins."""
FORMATS = {"idanim": (".safetensors",), "official": (".ckpt", ".bin", ".pt"), "ip_adapter": (".safetensors", ".bin")}
"""Formats of adapters that are written, and the endings of their files."""


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
        IdanimError: the Hub can't be reached, refuses, or gives a damaged file; or the folder holds stand-ins.
    """
    if (folder / FAKE_NOTE).is_file():
        raise IdanimError(f"{folder} holds stand-ins, not the real files; give another --folder, or remove it")
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


def fake(files: Iterable[PublicFile], folder: Path, dtype: str) -> None:
    """Write stand-ins of the true sizes with random values, and a note that says so.

    Args:
        files: which.
        folder: new, empty, or one of stand-ins.
        dtype: of the tensors.

    Raises:
        IdanimError: the folder holds other files, or there is no such type.
    """
    from idanim.models.fake_weights import write_fake

    note = folder / FAKE_NOTE
    if folder.is_dir() and any(folder.iterdir()) and not note.is_file():
        raise IdanimError(f"{folder} holds files already; give an empty or a new folder")
    write_text(note, "The files in this folder hold random numbers: they show that programs run, and generate noise.\n")
    for file in files:
        print(f"writing {file.name}", flush=True)
        write_fake(file.name, file.local(folder), dtype)


def export(ckpt: Path, path: Path, layout: str) -> None:
    """Write an adapter in another format.

    Args:
        ckpt: a checkpoint of `train.py` (its moving average is taken), or an adapter file of others.
        path: file to write.
        layout: one of `FORMATS`.

    Raises:
        IdanimError: the file can't be read, or the format can't hold it; the text says why.
    """
    from idanim.models.adapter_file import read_adapter_file, write_adapter_file
    from idanim.models.checkpoint import NoStoredConfigError, read_adapter, write_adapter

    if path.suffix not in FORMATS[layout]:
        raise IdanimError(f"{path}: a file of format {layout} ends in {' or '.join(FORMATS[layout])}")
    try:
        checkpoint = read_adapter(ckpt)
    except NoStoredConfigError as error:
        if layout == "idanim":
            raise IdanimError(f"{error}; the format idanim stores it beside the weights") from error
        write_adapter_file(path, read_adapter_file(ckpt).state, layout)
        return
    if layout == "idanim":
        write_adapter(path, checkpoint.state, checkpoint.config)
    else:
        write_adapter_file(path, checkpoint.state, layout)


# ------------------------------------------------------------------------------------- the command line


def _list(options: argparse.Namespace) -> None:
    print(listing(chosen(options.names), options.folder))
    if (options.folder / FAKE_NOTE).is_file():
        print(f"{options.folder} holds stand-ins with random values, not the real files")


def _pull(options: argparse.Namespace) -> None:
    if not (options.names or options.all):
        raise IdanimError("say which files, or --all")
    pull(chosen(options.names), options.folder)
    _list(options)


def _verify(options: argparse.Namespace) -> None:
    files = chosen(options.names)
    problems = [problem for file in files if (problem := problem_of(file, options.folder)) is not None]
    if problems:
        raise IdanimError("\n".join(problems))
    print(f"{len(files)} files are whole")


def _fake(options: argparse.Namespace) -> None:
    files = chosen(options.names) if options.names else [file for file in CATALOGUE if file.needed_by]
    fake(files, options.folder, options.dtype)


def _export(options: argparse.Namespace) -> None:
    export(options.ckpt, options.file, options.format)
    print(options.file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m idanim.weights", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("list", _list, "what there is, and what is missing for which command"),
        ("pull", _pull, "download; an interrupted download goes on"),
        ("verify", _verify, "name damaged files"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("names", nargs="*", metavar="name", help="as `list` shows them")
        command.add_argument("--folder", type=Path, default=Path("weights"), help="where the files lie")
        if name == "pull":
            command.add_argument("--all", action="store_true", help="pull everything")
    command = commands.add_parser("fake", help="write stand-ins of the true sizes with random values")
    command.set_defaults(run=_fake)
    command.add_argument("folder", type=Path, help="a new folder")
    command.add_argument("names", nargs="*", metavar="name", help="by default what train and generate need")
    command.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    command = commands.add_parser("export", help="write an adapter in another format")
    command.set_defaults(run=_export)
    command.add_argument("ckpt", type=Path, help="checkpoint of train.py, or an adapter file of others")
    command.add_argument("file", type=Path, help="file to write")
    command.add_argument("--format", choices=FORMATS, required=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # see idanim.config.program
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (IdanimError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
