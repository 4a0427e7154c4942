"""One direction of imports: the table of DESIGN, held by walking the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "idanim"
BASE = {"types", "files"}
MAY_IMPORT = {
    "types": set(),
    "files": {"types"},
    "config": {"types", "plain_values", "sweep_jobs", "freed_memory"},
    "sweep_jobs": {"types"},
    "plain_values": {"types"},
    "freed_memory": set(),
    "pictures": {"types"},
    "video": {"types", "video_frame", "video_part"},
    "video_encoding": {"types"},
    "video_frame": {"types", "video_part"},
    "video_part": set(),
    "faces": {"types"},
    "data": BASE | {"video", "pictures"},
    "captioning": BASE | {"video", "pictures", "data"},
    "curation": BASE
    | {"video", "video_encoding", "video_frame", "video_part", "pictures", "faces", "data", "captioning"},
    "models": BASE,
    "training": BASE | {"models"},
    "generation": BASE | {"video", "video_encoding", "pictures", "models"},
    "metrics": BASE | {"video", "video_encoding", "pictures", "faces", "models"},
    "toyworld": BASE | {"freed_memory", "data", "models", "video", "video_encoding", "pictures", "faces"},
}
CURATION_MAY_USE_OF_DATA = {"idanim.data.sample", "idanim.data.shards"}
ENTRY_POINTS = {
    "app",
    "assembly",
    "compare",
    "curate",
    "evaluation",
    "evaluation_report",
    "generate",
    "generated_video",
    "generation_inputs",
    "inspect_shards",
    "jobs",
    "generator",
    "person_videos",
    "pareto",
    "previews",
    "recipe",
    "reference_faces",
    "shard_people",
    "study",
    "systems",
    "trained_judge",
    "tune",
    "training_run",
    "variants",
    "web",
    "weights",
}


def imported_modules(path: Path) -> set[str]:
    """Every `idanim.…` module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name for name in names if name.startswith("idanim.")}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def is_entry_point(path: Path) -> bool:
    """A program: at the top, or what `python -m idanim.<package>` runs."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py") in ENTRY_POINTS or path.name == "__main__.py"


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_keep_their_direction(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if is_entry_point(path) or own == "__init__":
        return
    assert own in MAY_IMPORT, f"{own} is neither a known package nor an entry point"
    for module in imported_modules(path):
        allowed = MAY_IMPORT[own] | {own}
        assert room(module) in allowed, f"{path.name} imports {module}; {own} may import {sorted(allowed)}"
        if own == "curation" and room(module) == "data" and module.count(".") >= 2:
            assert any(module.startswith(name) for name in CURATION_MAY_USE_OF_DATA), f"{path.name}: {module}"


def test_nobody_imports_an_entry_point_but_entry_points() -> None:
    for path in FILES:
        if not is_entry_point(path):
            assert not {room(m) for m in imported_modules(path)} & ENTRY_POINTS, path


def test_hydra_stays_in_config() -> None:
    for path in FILES:
        text = path.read_text()
        knows = any(word in text for word in ("import hydra", "from hydra", "omegaconf"))
        assert not knows or path.name in ("config.py", "plain_values.py", "sweep_jobs.py"), path
