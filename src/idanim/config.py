"""The command line and the configuration: with `plain_values` and `sweep_jobs`, the only place that knows Hydra.

An entry point is a function of one `Run`, decorated with `@program("<config name>")`. What a user types
is quoted where Hydra's grammar would stumble, checked against the known keys, composed, and turned into
a plain dict. Components are built from it with `build`, the only caller of `hydra.utils.instantiate`.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import idanim.sweep_jobs  # noqa: F401 (conf/ asks it for names)
from idanim.freed_memory import keep_freed_memory
from idanim.plain_values import ASSIGNMENT, name_jobs_by_what_varies, plain_arguments
from idanim.types import IdanimError, StoppedBySignalError, without_secrets

CONF_DIR = next(path for path in (Path(__file__).parents[2] / "conf", Path(__file__).parent / "conf") if path.is_dir())
NO_REPORTS = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Libraries report nothing of their use, unless the environment says otherwise; W&B has its own setting, `logger=`."""


@dataclass(frozen=True)
class Run:
    """What an entry point gets.

    Attributes:
        config: the composed configuration, resolved, as plain dicts and lists.
        output: the folder this run writes to; in a sweep the job's own folder.
        choices: the option chosen for each config group, for instance {"backbone": "tiny"}.
        git_sha: commit of the working tree, or "unknown".
        overrides: what was typed, each as Hydra takes it.
    """

    config: dict[str, Any]
    output: Path
    choices: dict[str, str]
    git_sha: str
    overrides: tuple[str, ...] = ()


def build(node: Mapping[str, Any], group: str | None = None, /, **kwargs: Any) -> Any:
    """Build the component that a config node describes by its `_target_`, with `kwargs` added.

    Args:
        node: of the configuration.
        group: config group that chooses the component, where it may be switched off; for the words of an error.
        kwargs: more arguments of the component.

    Raises:
        IdanimError: the component's own complaint, an argument that it does not take, or no `_target_`: settings typed
            for a component that is switched off.
    """
    if "_target_" not in node:
        given = ", ".join(sorted(map(str, node))) or "{}"
        options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")) if group else []
        names = " or ".join(f"{group}={name}" for name in options if name != "none")
        raise IdanimError(
            f"{group + ': ' if group else ''}{given}: settings of a component that is not chosen; "
            f"choose {names or 'it'}, or leave them out"
        )
    _refuse_interpolations(node, str(node.get("_target_")))
    try:
        return instantiate(dict(node), _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, IdanimError | OSError):
            raise error.__cause__ from error
        raise IdanimError(f"{node.get('_target_')}: {error.__cause__ or error}") from error


def _refuse_interpolations(node: Any, where: str) -> None:
    """A resolved node has none left, but text of a file may look like one, and Hydra would look it up."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            _refuse_interpolations(value, f"{where}.{key}")
    elif isinstance(node, list):
        for item in node:
            _refuse_interpolations(item, where)
    elif isinstance(node, str) and "${" in node:
        raise IdanimError(f"{where}={node[:80]!r}: '${{' can't be part of a setting here; write it without")


def built_or_plain(value: Any, group: str | None = None) -> Any:
    """What a config node with a `_target_` gives, for instance a path inside the package; any other value as it is.

    `group` as in `build`.
    """
    return build(value, group) if isinstance(value, Mapping) else value


def program(
    config_name: str, positional: str | None = None, aliases: Mapping[str, str] | None = None
) -> Callable[[Callable[[Run], None]], Callable[[], None]]:
    """Make a function of a `Run` a command-line program.

    Args:
        config_name: file in `conf/` without its ending.
        positional: key that a bare first argument stands for, if the program takes one.
        aliases: other name → key, for a name that Hydra would take for a config group. A name that ends in "=["
            stands for the key only where the value is a list.
    """

    def decorate(task: Callable[[Run], None]) -> Callable[[], None]:
        errors: list[IdanimError] = []

        @functools.wraps(task)
        def job(cfg: DictConfig) -> None:
            try:
                task(_start_run(cfg))
            except IdanimError as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # Hydra says in which job
                errors.append(error)  # past Hydra, whose own line would come before ours; its callbacks see no failure

        def main() -> None:
            # Without torchvision transformers warns at import that it falls back to PIL, which is what we use.
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # advice to install more
            for name, value in NO_REPORTS.items():
                os.environ.setdefault(name, value)
            keep_freed_memory()
            try:
                sys.argv[1:] = plain_arguments(sys.argv[1:], positional, aliases)
                check_overrides(config_name, sys.argv[1:])
                sys.argv += name_jobs_by_what_varies(sys.argv[1:])
                os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach this function unformatted
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(job)()
                if errors:
                    raise errors.pop()
            except StoppedBySignalError as error:
                print(error, file=sys.stderr)
                sys.exit(error.EXIT_STATUS)
            except (IdanimError, HydraException, OmegaConfBaseException, OSError) as error:
                if os.environ.get("IDANIM_DEBUG"):
                    raise
                sys.exit(f"error: {error}\n(IDANIM_DEBUG=1 shows where)")
            except KeyboardInterrupt:
                sys.exit("interrupted")

        return main

    return decorate


def _start_run(cfg: DictConfig) -> Run:
    hydra_config = HydraConfig.get()
    runtime = hydra_config.runtime
    return _run(cfg, runtime.choices, Path(runtime.output_dir), tuple(hydra_config.overrides.task))


def compose(
    config_name: str, arguments: Iterable[str], aliases: Mapping[str, str] | None = None, check: bool = True
) -> Run:
    """What a program would get for these arguments of its command line, for use from Python; nothing is written.

    Args:
        config_name: file in `conf/` without its ending.
        arguments: as typed, for instance "faces=insightface".
        aliases: see `program`.
        check: name the right key where one is wrong; without it Hydra's own error must do, in half the time.

    Raises:
        IdanimError: a key or option that does not exist, or one that is needed.
    """
    overrides = plain_arguments(arguments, aliases=aliases)
    if check:
        check_overrides(config_name, overrides)
    with _composing():
        cfg = hydra.compose(config_name, overrides=overrides, return_hydra_config=True)
    choices = cfg.hydra.runtime.choices
    with open_dict(cfg):
        del cfg["hydra"]
    return _run(cfg, choices, Path(str(cfg.get("output", "."))), tuple(overrides))


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra ready to compose from `conf/`: that of the running program, or one for the moment."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            yield


def _run(cfg: DictConfig, choices: Mapping[str, Any], output: Path, overrides: tuple[str, ...]) -> Run:
    missing = missing_keys(OmegaConf.to_container(cfg, resolve=False))
    if missing:
        raise IdanimError(f"a value is needed for {', '.join(missing)}: add for instance {missing[0]}=…")
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    chosen = {k: v for k, v in choices.items() if not k.startswith("hydra") and isinstance(v, str)}
    return Run({str(k): v for k, v in config.items()}, output, chosen, git_sha(), overrides)


def missing_keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted keys of an unresolved configuration whose value must be given."""
    if isinstance(node, dict):
        return [key for name, value in node.items() for key in missing_keys(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix] if node == "???" else []


def git_sha() -> str:
    """Commit of the source tree, with "+" behind it where files differ from it; "unknown" outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# ---------------------------------------------------------------------------------- wrong keys and groups


def check_overrides(config_name: str, arguments: Iterable[str]) -> None:
    """Refuse an unknown key or group option, naming the nearest right ones.

    Raises:
        IdanimError: a key or option that does not exist.
    """
    texts = [argument for argument in arguments if ASSIGNMENT.match(argument)]
    overrides = OverridesParser.create().parse_overrides(texts)
    with _composing():
        loader = GlobalHydra.instance().config_loader()
        choices = []
        for override in overrides:
            group = override.key_or_group
            options = loader.get_group_options(group) if group.split("/")[0] in _groups() else []
            if options:
                choices.append([f"{group}={option}" for option in _check_options(override, options)])
        known: dict[str, Any] = {}
        for i in range(max(map(len, choices), default=1)):  # a sweep over groups may have keys in some jobs only
            known |= _known_keys(config_name, [options[min(i, len(options) - 1)] for options in choices])
    for override in overrides:
        key = override.key_or_group
        is_new = override.is_add() or override.is_force_add() or override.is_delete()
        if is_new or key.startswith("hydra") or key in known or key.split("/")[0] in _groups():
            continue
        parent = key.rpartition(".")[0]
        while parent and parent not in known:
            parent = parent.rpartition(".")[0]
        if parent and known[parent] == {}:
            continue  # a free-form dict
        typed = [name for name in dict.fromkeys([*known, *_groups()]) if not name.endswith("_")]
        names = difflib.get_close_matches(key, typed, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(names)}?" if names else f"known: {', '.join(k for k in known if '.' not in k)}"
        )
        raise IdanimError(f"there is no key {key!r}; {hint}")


def _groups() -> list[str]:
    return sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())


def _check_options(override: Override, options: list[str]) -> list[str]:
    """The options that an override chooses, as it would be typed; refuses those that do not exist."""
    if isinstance(override.value(), Glob):
        return options
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    names = [str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name]
    for name in names:
        if name not in options:
            near = difflib.get_close_matches(name, options, n=3, cutoff=0.4) or options
            raise IdanimError(f"there is no {override.key_or_group}={name}; did you mean {' or '.join(near)}?")
    return names or ["null"]


def _known_keys(config_name: str, groups: list[str]) -> dict[str, Any]:
    """Every key of the composed configuration, dotted → value."""
    known: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for name, value in node.items():
            known[f"{prefix}{name}"] = value
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(hydra.compose(config_name, overrides=groups)), "")
    return known


# ------------------------------------------------------------------------------- configurations in files


def storable(run: Run) -> dict[str, Any]:
    """The configuration as it goes into a checkpoint: group choices and plain values, no `_target_`, no signed URL."""
    values = _without_targets(run.config)
    if isinstance(data := values.get("data"), dict) and "shards" in data:
        data["shards"] = _without_secrets(data["shards"])
    return {"choices": run.choices, "values": values, "git_sha": run.git_sha}


def _without_secrets(location: Any) -> Any:
    if isinstance(location, list):
        return [_without_secrets(place) for place in location]
    return without_secrets(location) if isinstance(location, str) else location


def _without_targets(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_targets(v) for k, v in node.items() if not re.fullmatch("_.*_", str(k))}
    if isinstance(node, list):
        return [_without_targets(item) for item in node]
    return node


def restore(config_name: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Compose the configuration that `storable` described.

    What to build (`_target_`) comes from this package's own `conf/`, never from the file.

    Args:
        config_name: the program whose configuration was stored.
        stored: what `storable` returned.

    Raises:
        IdanimError: damaged, or a group option that this version does not have.
    """
    choices = stored.get("choices")
    values = stored.get("values")
    if not isinstance(choices, dict) or not isinstance(values, dict):
        raise IdanimError("the stored configuration is damaged: expected group choices and values")
    for group, option in choices.items():
        if (
            not (re.fullmatch(r"\w+", str(group)) and re.fullmatch(r"[\w-]+", str(option)))
            or not (CONF_DIR / group / f"{option}.yaml").is_file()
        ):
            raise IdanimError(f"the stored configuration chooses {group}={option}, which this version does not have")
    groups = [f"{group}={option}" for group, option in choices.items() if group != "experiment"]
    with _composing():
        cfg = hydra.compose(config_name, overrides=groups)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    replace_values(config, _without_targets(values))
    return {str(k): v for k, v in config.items()}


def replace_values(config: dict[Any, Any], changes: Mapping[str, Any]) -> None:
    """Put values into a configuration in place, key by key; nothing in them is interpolated.

    Args:
        config: a resolved configuration.
        changes: values nested like it.
    """
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            replace_values(config[key], value)
        else:
            config[key] = value
