from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idanim.study import work
from idanim.study.plan import Cell, plan, read_variants
from idanim.study.settings import DONE, mixed, training_settings
from idanim.study.work import Task, TaskFailedError, is_done, run_cells
from idanim.types import IdanimError


def write(path: Path) -> float:
    path.write_text("")
    return 1.0


def fail(path: Path) -> float:
    raise TaskFailedError(f"no {path.name}")


def test_a_task_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    lines: list[str] = []
    pool = work._Pool(2, 4, lines.append)
    names = ["a", "bad", "c"]
    tasks = deque(Task(name, fail if name == "bad" else write, (tmp_path / name,)) for name in names)

    def after(task: Task) -> list[Task]:
        return [Task("after c", write, (tmp_path / "d",))] if task.name == "c" else []

    failures = pool.run(tasks, after)
    assert failures == {"bad": "no bad"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]
    assert len(lines) == 4
    assert lines[-1].startswith("[4/4]")


KILLED = """
import sys
from collections import deque
from pathlib import Path
from test_work import linger
from idanim.study.work import Task, _Pool

if __name__ == "__main__":
    _Pool(1, 1, print).run(deque([Task("linger", linger, (Path(sys.argv[1]),))]), lambda task: [])
"""


def linger(path: Path) -> float:
    path.write_text(str(os.getpid()))
    time.sleep(60)
    return 60.0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_when_the_study_is_killed(tmp_path: Path) -> None:
    script, started = tmp_path / "study.py", tmp_path / "pid"
    script.write_text(KILLED)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(work.__file__).parents[2])])
    study = subprocess.Popen([sys.executable, script, started], env=os.environ | {"PYTHONPATH": path})
    worker = int(wait_for(lambda: started.read_text() if started.is_file() else ""))
    study.kill()
    study.wait()
    assert wait_for(lambda: not is_running(worker))


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


def is_running(pid: int) -> bool:
    """Whether a process does anything; one that ended and was not waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def die(path: Path) -> float:
    os._exit(1)


def test_a_process_that_dies_ends_the_study_in_words() -> None:
    pool = work._Pool(1, 1, print)
    with pytest.raises(IdanimError, match="want of memory"):
        pool.run(deque([Task("die", die, (Path(),))]), lambda task: [])


def test_done_with_other_settings_is_refused(tmp_path: Path) -> None:
    assert not is_done(tmp_path, ["a=1"], dict)
    (tmp_path / DONE).write_text(json.dumps({"arguments": ["a=1", "seed=0"], "seconds": 3}))
    assert is_done(tmp_path, ["a=1", "seed=0"], dict)
    with pytest.raises(IdanimError, match=r"other settings \(a=1, a=2\)"):
        is_done(tmp_path, ["a=2", "seed=0"], dict)


def test_done_with_a_default_that_changed_since_is_refused(tmp_path: Path) -> None:
    content = {"arguments": ["a=1"], "settings": {"a": 1, "lr": 0.1, "gone": 2}}
    (tmp_path / DONE).write_text(json.dumps(content))
    assert is_done(tmp_path, ["a=1"], lambda: dict(content["settings"]))
    with pytest.raises(IdanimError, match=r"other settings \(lr: 0\.1 → 0\.2\)"):
        is_done(tmp_path, ["a=1"], lambda: {"a": 1, "lr": 0.2})
    assert is_done(tmp_path, ["a=1"], lambda: {"a": 1, "lr": 0.1, "new": 3})  # a key that came since


def test_runs_that_were_not_made_alike_are_named(tmp_path: Path) -> None:
    cells = plan(read_variants("first_frame"), [0], ["trainer.max_steps=60"], ["num_identities=2"], tmp_path)
    for cell in cells:
        for folder, arguments in ((cell.folder, cell.training.arguments), (cell.folder / "evaluation", cell.arguments)):
            folder.mkdir(parents=True)
            settings = training_settings(cell.training) if folder == cell.folder else None
            (folder / DONE).write_text(json.dumps({"arguments": arguments, "settings": settings}))
    assert mixed(cells) == []
    settings = training_settings(cells[1].training)
    assert (settings["trainer.max_steps"], settings["reference (option)"]) == (60, "first_frame")
    changed = {"arguments": cells[1].training.arguments, "settings": settings | {"training.optimizer.lr": 0.5}}
    (cells[1].folder / DONE).write_text(json.dumps(changed))
    (note,) = mixed(cells)
    assert note.startswith("not trained alike")
    assert "first_frame/seed_0 with trainer.max_steps=60, then → now training.optimizer.lr: 0.5 → " in note
    (cells[1].folder / DONE).write_text(json.dumps({"arguments": [*cells[1].training.arguments, "more=1"]}))
    assert "trainer.max_steps=60, more=1" in mixed(cells)[0]


def test_complete_figures_do_not_pass_for_those_of_other_training(tmp_path: Path) -> None:
    def cells(*typed: str) -> list[Cell]:
        return plan(read_variants("random_ref"), [0], typed, ["num_identities=2"], tmp_path)

    (cell,) = cells("trainer.max_steps=60")
    for folder, arguments in ((cell.folder, cell.training.arguments), (cell.folder / "evaluation", cell.arguments)):
        folder.mkdir(parents=True)
        (folder / DONE).write_text(json.dumps({"arguments": arguments, "seconds": 3}))
    assert run_cells(cells("trainer.max_steps=60"), 1) == {}
    with pytest.raises(IdanimError, match=r"other settings \(trainer.max_steps=100, trainer.max_steps=60\)"):
        run_cells(cells("trainer.max_steps=100"), 1)


def test_what_is_raised_is_logged_and_comes_out_as_words(tmp_path: Path) -> None:
    def broken() -> None:
        with work._logged(tmp_path / "run"):
            print("so far so good")
            raise RuntimeError("out of memory")

    with pytest.raises(IdanimError, match=r"RuntimeError: out of memory \(see .*log.txt\)"):
        broken()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.startswith("so far so good\nTraceback")


@pytest.mark.slow
def test_a_study_runs_is_not_redone_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variants of the toy world from videos to tables; then again with one of them undone."""
    from idanim.study.__main__ import main
    from idanim.toyworld.make_videos import film, write_videos

    videos = film(num_people=8, clips_per_person=2, num_frames=16, size_px=144, seed=40000)
    write_videos(tmp_path / "videos", videos)
    curate(monkeypatch, tmp_path)
    size = ["trainer.max_steps=2", "evaluation.num_identities=2", "evaluation.sampling.num_inference_steps=2"]
    few = ["evaluation.num_strangers=2", "evaluation.prompts=toy"]
    shards = f"data.shards={tmp_path / 'shards'}"
    command = ["study", "first_frame", "seeds=[0]", "jobs=2", *size, *few, shards, f"output={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", list(command))
    main()
    adapter = tmp_path / "out" / "random_ref" / "paper" / "seed_0" / "adapter.safetensors"
    made = adapter.stat().st_mtime_ns
    result = json.loads((tmp_path / "out" / "first_frame" / "variants.json").read_text())
    names = {variant["name"] for variant in result["variants"]}
    assert names == {"paper", "first_frame"}
    assert result["variants"][0]["figures"]["prompt_attributes"]["mean"] > 0.5
    (tmp_path / "out" / "first_frame" / "first_frame" / "seed_0" / "evaluation" / DONE).unlink()
    markdown = tmp_path / "results.md"
    monkeypatch.setattr(sys, "argv", [*command, f"results={markdown}"])
    main()
    assert adapter.stat().st_mtime_ns == made
    assert "## first_frame" in markdown.read_text()
    assert (tmp_path / "results" / "first_frame.png").is_file()
    cells = plan(read_variants("first_frame"), [0], [], [], tmp_path / "out")
    assert all((cell.folder / "evaluation" / DONE).is_file() for cell in cells)


def curate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from idanim.curate import main

    settings = ["clip.size=32", "shards.val_fraction=0.25", "link.warn_similarity=0.99"]
    paths = [f"input={folder / 'videos'}", f"output={folder / 'shards'}"]
    monkeypatch.setattr(sys, "argv", ["curate", *paths, *settings])
    main()
