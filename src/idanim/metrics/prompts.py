"""Prompt files: what the videos of an evaluation are asked to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from idanim.files import parse_json
from idanim.types import IdanimError

PROMPT_DIRS = (Path(__file__).parents[3] / "data" / "prompts", Path(__file__).parents[1] / "prompts")
"""Where the shipped prompt files lie: in the source tree, or inside an installed package."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what the video shall show.
        group: the axis it tries, for instance "clothing"; scores are also reported by it.
    """

    text: str
    group: str = "all"


def load_prompts(source: str | Iterable[str]) -> list[Prompt]:
    """Prompts from a file, from the name of a shipped file, or given one by one.

    A `.jsonl` file has one object {"prompt": text, "group": name} a line, group optional. Any other file has
    one prompt a line; empty lines and lines that start with # are left out. A prompt that appears twice
    counts once.

    Args:
        source: path of a file, name of a shipped file without its ending, a list of texts, or one text with a
            blank in it that is not the path of a file.

    Raises:
        IdanimError: no such file, no prompt in it, or a line that can't be read.
    """
    if isinstance(source, str) and " " in source.strip() and not Path(source).expanduser().is_file():
        source = [source]
    if isinstance(source, str):
        path = find_prompt_file(source)
        prompts = _read(path)
        where = str(path)
    else:
        texts = [text.strip() for text in source]
        if any(texts) and not all(texts):
            raise IdanimError(f"prompts={texts}: an empty prompt among others")
        prompts = [Prompt(text) for text in texts if text]
        where = "prompts=[…]"
    if not prompts:
        raise IdanimError(f"{where}: no prompt in it; write one prompt a line")
    return list(dict.fromkeys(prompts))


def find_prompt_file(source: str) -> Path:
    """The file that `prompts=<source>` means: a path, or the name of a shipped file.

    Raises:
        IdanimError: neither; the text lists the shipped files.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = sorted(p for folder in PROMPT_DIRS if folder.is_dir() for p in folder.glob("*.*") if p.suffix != ".md")
    for candidate in shipped:
        if candidate.stem == source:
            return candidate
    names = ", ".join(p.stem for p in shipped) or "none"
    raise IdanimError(f"prompts={source!r}: there is no such file; shipped: {names}; or give a list: prompts=[a,b]")


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise IdanimError(f"prompts={path}: not a UTF-8 text file ({error})") from error
    numbered = [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".jsonl":
        return [_from_json(line, f"{path}, line {i}") for i, line in numbered]
    return [Prompt(line) for _, line in numbered if not line.startswith("#")]


def _from_json(line: str, where: str) -> Prompt:
    row = parse_json(line, where)
    text = row.get("prompt") if isinstance(row, dict) else None
    group = row.get("group", "all") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip() or not isinstance(group, str):
        raise IdanimError(f'{where}: expected {{"prompt": "some text", "group": "some name"}}, got {line[:80]}')
    return Prompt(text.strip(), group)
