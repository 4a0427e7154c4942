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
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from idanim.files import sha256, write_text
from idanim.models.catalogue import CATALOGUE, COPIES, OWN, PublicFile
from idanim.models.weight_file import read_weights
from idanim.models.weight_kind import require_kind
from idanim.types import IdanimError

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
    """Download files that are not there or have a problem; an interrupted download goes on where it stopped.

    Raises:
        IdanimError: the Hub can't be reached, refuses, or gives a damaged file; or the folder holds stand-ins.
    """
    if _is_fake(folder):
        raise IdanimError(f"{folder} holds stand-ins, not the real files; give another --folder, or remove it")
    paths = []
    for file in files:
        if problem_of(file, folder) is not None:
            try:
                _download(file, folder)
            except (HTTPError, OSError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise IdanimError(f"{file.name}: {file.repo}/{file.path} could not be downloaded ({reason})") from error
        problem = problem_of(file, folder)
        if problem is not None:
            raise IdanimError(problem)
        paths.append(file.local(folder))
    return paths


def _download(file: PublicFile, folder: Path) -> None:
    # `hf_hub_download` throws away what it has when it is interrupted (huggingface_hub 2.4); these are gigabytes.
    path, endpoint = file.local(folder), os.environ.get("HF_ENDPOINT")
    url = hf_hub_url(file.repo, file.path, endpoint=endpoint)
    known = get_hf_file_metadata(url, endpoint=endpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{known.etag}.part")  # of that very version of the file
    if known.etag is None or (part.is_file() and known.size is not None and part.stat().st_size > known.size):
        part.unlink(missing_ok=True)  # of who knows which version, or written to by two at once
    with part.open("ab") as content:
        http_get(url, content, resume_size=content.tell(), headers=build_hf_headers(), expected_size=known.size)
    part.replace(path)


def problem_of(file: PublicFile, folder: Path) -> str | None:
    """What is wrong with a local file, in words; None = it is whole."""
    path = file.local(folder)
    if not path.is_file():
        return f"{path}: there is no such file"
    if path.suffix not in (".ckpt", ".bin", ".safetensors"):
        return None if path.stat().st_size else f"{path}: the file is empty; download it again"
    try:
        content = read_weights(path)
        if file.kind:
            require_kind(content, file.kind)
    except IdanimError as error:
        return str(error)
    if file.sha256 and file.hash_seen == OWN and not _is_fake(folder) and sha256(path) != file.sha256:
        return f"{path}: its content is not that of {file.repo}/{file.path} (another sha256); download it again"
    return None


def _is_fake(folder: Path) -> bool:
    return (folder / FAKE_NOTE).is_file()


def doubt_about(file: PublicFile, folder: Path) -> str | None:
    """What can't be said for sure of a file without a problem, in words; None = nothing."""
    path = file.local(folder)
    if _is_fake(folder):
        return None
    if file.sha256 and file.hash_seen == COPIES and sha256(path) != file.sha256:
        return f"{path}: another sha256 than in copies of {file.repo}; that repository may have changed"
    if not file.sha256:
        return f"{path}: its sha256 is not known, only its form was checked"
    return None


def listing(files: Iterable[PublicFile], folder: Path) -> str:
    """A line for each file, and what is missing for which command."""
    files = list(files)
    width = max(len(file.name) for file in files)
    there = {file.name for file in CATALOGUE if file.local(folder).is_file()}
    lines = [
        f"{'✓' if file.name in there else '·'} {file.name:<{width}}  {file.size_mb:>5} MB  {file.local(folder)}  "
        f"from {file.repo}  {file.licence}  {file.purpose}"
        for file in files
    ]
    for command in ("train", "generate"):
        missing = [file.name for file in CATALOGUE if command in file.needed_by and file.name not in there]
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
    if _is_fake(options.folder):
        print(f"{options.folder} holds stand-ins with random values, not the real files")


def _pull(options: argparse.Namespace) -> None:
    if not (options.names or options.all):
        raise IdanimError("say which files, or --all")
    pull(chosen(options.names), options.folder)
    _list(options)


def _verify(options: argparse.Namespace) -> None:
    files = chosen(options.names)
    if not options.names:  # all that programs need, and what else is there
        files = [file for file in files if file.needed_by or file.local(options.folder).is_file()]
    problems = [problem for file in files if (problem := problem_of(file, options.folder)) is not None]
    if problems:
        raise IdanimError("\n".join(problems))
    doubts = [doubt for file in files if (doubt := doubt_about(file, options.folder)) is not None]
    whole = "stand-ins with random values, of the true form" if _is_fake(options.folder) else "whole"
    print("\n".join([*doubts, f"{len(files)} files are {whole}"]))


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
