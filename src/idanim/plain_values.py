"""Values as people type them: what Hydra's grammar would refuse or take for something else is quoted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from idanim.types import IdanimError

TYPED_PATHS = (
    "input",
    "output",
    "ckpt",
    "references",
    "people",
    "recipe",
    "videos",
    "manifest",
    "weights",
    "data.shards",
    "data.latents",
    "faces.root",
    "captions.model.path",
    "control.images",
    "scoring.clip",
    "protocol.curricular",
    "protocol.inception",
)
TEXT_KEYS = (
    *TYPED_PATHS,
    "prompt",
    "faces.pack",
    "sampling.negative_prompt",
    "captions.text",
    "captions.prompts.attribute",
    "captions.prompts.action",
    "captions.prompts.unified",
)
"""Keys whose value is taken letter by letter, unless it is a [list] or `null`."""

SHORT_NAMES = {"launcher": "hydra/launcher"}
"""Other names of keys, in every program."""

ASSIGNMENT = re.compile(r"^(?P<key>[+~]{0,2}[A-Za-z_][\w.@/\-]*)=(?P<value>.*)$", re.DOTALL)
"""`key=value`, with what Hydra takes in front of a key."""


def plain_arguments(
    arguments: Iterable[str], positional: str | None = None, aliases: Mapping[str, str] | None = None
) -> list[str]:
    """Quote the values that Hydra's grammar would refuse or take for something else.

    Text keys are taken letter by letter. Any other value that does not parse is text. Outside a sweep
    (`--multirun`) a comma is a comma; inside one it separates values, unless a blank follows it.

    Raises:
        IdanimError: an empty path.
    """
    arguments = list(arguments)
    sweeping = bool({"-m", "--multirun"} & set(arguments))
    result = []
    for argument in arguments:
        match = ASSIGNMENT.match(argument)
        if match:
            key = _unaliased(match["key"], match["value"], {**SHORT_NAMES, **(aliases or {})})
            result.append(_plain_assignment(key, match["value"], sweeping))
        elif positional and not argument.startswith("-"):
            result.append(_plain_assignment(positional, argument, sweeping))
        else:
            result.append(argument)
    return result


def _unaliased(key: str, value: str, aliases: Mapping[str, str]) -> str:
    if value.startswith("[") and f"{key}=[" in aliases:
        return aliases[f"{key}=["]
    return aliases.get(key, key)


def name_jobs_by_what_varies(arguments: Iterable[str]) -> list[str]:
    """The override that keeps what all jobs of a sweep share out of their folder names; none without a sweep."""
    arguments = list(arguments)
    if not {"-m", "--multirun"} & set(arguments):
        return []
    overrides = OverridesParser.create().parse_overrides([a for a in arguments if ASSIGNMENT.match(a)])
    shared = [override.key_or_group for override in overrides if not override.is_sweep_override()]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]"]


def _plain_assignment(key: str, value: str, sweeping: bool) -> str:
    assignment = f"{key}={value}"
    is_list = value.startswith("[") and value.endswith("]")
    if value == "" and key.lstrip("+") in TYPED_PATHS:
        raise IdanimError(f"{key}= is empty: a path is needed (an unset variable of the shell?)")
    if value in ("", "null"):
        return assignment
    try:
        override = OverridesParser.create().parse_override(assignment)
    except HydraException:
        override = None
    if value[0] in "'\"" and value[0] == value[-1] and override is not None and isinstance(override.value(), str):
        return assignment  # quoted by the user, or by this function in the process that started this one
    if key.lstrip("+") in TEXT_KEYS and not is_list:
        is_path = key.lstrip("+") in TYPED_PATHS and "://" not in value  # of a URL a slash would be lost
        return f"{key}={_quote(str(Path(value).expanduser()) if is_path else value)}"
    if override is None and is_list:
        return f"{key}=[{','.join(_quote(item.strip()) for item in value[1:-1].split(','))}]"
    prose = ", " in value and not is_list
    if override is None or (override.is_sweep_override() and (not sweeping or prose)):
        return f"{key}={_quote(value)}"
    return assignment


def _quote(text: str) -> str:
    """The text as a quoted string of Hydra's grammar, with interpolations escaped."""
    escaped = text.replace("${", "\\${")
    return QuotedString(text=escaped, quote=Quote.double).with_quotes()
