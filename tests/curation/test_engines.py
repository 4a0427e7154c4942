"""Engines: every item gets its result or a named reason, whatever happens to workers; the same results from all."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fragile_work import die_at_once, fail_at_once, make_fragile
from square_faces import curate, curate_in_a_process, person, write_mp4
from test_curate import fill, report, shard_bytes

from idanim.curation.dispatch import MAX_LOSSES, Dispatcher, GivenUp, WorkerDiedError
from idanim.curation.local_engine import LocalEngine
from idanim.types import IdanimError

TROUBLE = [(0, ""), (1, "dies"), (2, ""), (3, "dies once"), (4, "hangs"), (5, ""), (6, "dies"), (7, "")]


class FakeWorkers:
    """Workers in this process that do what an item's plan says, one entry a try: "ok", "dies" or "hangs"."""

    def __init__(self, plans=None, dead_starts=0):
        self.plans = {name: list(plan) for name, plan in (plans or {}).items()}
        self.dead_starts = dead_starts
        self.alive = set()
        self.num_started = 0
        self.most_alive = 0

    def new(self):
        worker = FakeWorker(self)
        self.alive.add(worker)
        self.num_started += 1
        self.most_alive = max(self.most_alive, len(self.alive))
        return worker

    def wait(self, workers, timeout_s):
        assert set(workers) <= self.alive
        ready = [worker for worker in workers if worker.does != "hangs"]
        if not ready:
            assert timeout_s is not None, "would wait for ever"
            time.sleep(timeout_s)
        return ready[:2]


class FakeWorker:
    def __init__(self, workers):
        self.workers = workers
        self.item = None
        self.does = "dies" if workers.dead_starts > 0 else "ok"
        workers.dead_starts -= 1

    def give(self, item):
        assert self in self.workers.alive
        self.item = item
        plan = self.workers.plans.get(item, [])
        self.does = plan.pop(0) if plan else "ok"

    def take(self):
        if self.does == "dies":
            raise WorkerDiedError("exit code -9")
        return None if self.item is None else f"{self.item} done"

    def kill(self):
        self.workers.alive.discard(self)


class TestDispatcher:
    @pytest.mark.parametrize("num_workers", [1, 3, 100])
    def test_every_item_once_whatever_happens(self, num_workers):
        items = [f"item {i}" for i in range(20)]
        workers = FakeWorkers({"item 3": ["dies"], "item 4": ["dies", "dies", "dies"], "item 5": ["hangs"]})
        pairs = list(Dispatcher(workers, items, num_workers, timeout_s=0.05).run())
        found = dict(pairs)
        assert len(pairs) == len(found) == 20
        assert found.pop("item 4").reason == "kills_worker"
        assert found.pop("item 5").reason == "timed_out"
        assert found == {item: f"{item} done" for item in found}
        assert workers.alive == set()
        assert workers.most_alive <= num_workers

    def test_what_was_measured_is_told(self):
        workers = FakeWorkers({"dies": ["dies"] * 9, "hangs": ["hangs"]})
        found = dict(Dispatcher(workers, ["dies", "hangs"], 2, timeout_s=0.2).run())
        assert (found["dies"].measured, found["dies"].threshold) == (MAX_LOSSES, MAX_LOSSES)
        assert found["hangs"].measured >= found["hangs"].threshold == 0.2

    def test_no_more_workers_than_items(self):
        workers = FakeWorkers()
        assert len(list(Dispatcher(workers, ["a", "b"], 50).run())) == 2
        assert workers.num_started == 2
        assert list(Dispatcher(workers, [], 5).run()) == []

    def test_workers_that_can_not_start_end_the_run_and_a_hiccup_does_not(self):
        assert len(list(Dispatcher(FakeWorkers(dead_starts=MAX_LOSSES), ["a"], 1).run())) == 1
        workers = FakeWorkers(dead_starts=99)
        with pytest.raises(IdanimError, match="before they have begun"):
            list(Dispatcher(workers, ["a"], 4).run())
        assert workers.alive == set()

    def test_a_run_that_is_left_leaves_no_worker(self):
        workers = FakeWorkers()
        run = Dispatcher(workers, list("abcdef"), 3).run()
        next(run)
        run.close()
        assert workers.alive == set()


def outcome(result):
    return result.reason if isinstance(result, GivenUp) else result


def check_trouble(engine, folder):
    """An engine with a time limit survives everything in TROUBLE."""
    found = dict(engine.map(functools.partial(make_fragile, folder), TROUBLE))
    assert {number: outcome(result) for (number, _), result in found.items()} == {
        0: 0, 1: "kills_worker", 2: 4, 3: 6, 4: "timed_out", 5: 10, 6: "kills_worker", 7: 14,
    }  # fmt: skip
    assert {number: (folder / str(number)).stat().st_size for number in (1, 3, 4, 6, 7)} == {
        1: 2,
        3: 2,
        4: 1,
        6: 2,
        7: 1,
    }


class TestLocalEngine:
    def test_a_dying_worker(self, tmp_path):
        found = dict(LocalEngine(1).map(functools.partial(make_fragile, tmp_path), [(1, "dies once"), (2, "")]))
        assert found == {(1, "dies once"): 2, (2, ""): 4}

    @pytest.mark.slow
    def test_dying_and_hanging_workers(self, tmp_path):
        check_trouble(LocalEngine(2, timeout_s=2), tmp_path)

    @pytest.mark.slow
    def test_errors_of_the_work_end_the_run_as_they_are(self, tmp_path):
        for make_work, words in ((make_fragile, "1 is a wrong setting"), (fail_at_once, "no models there")):
            with pytest.raises(IdanimError, match=words):
                list(LocalEngine(1).map(functools.partial(make_work, tmp_path), [(1, "fails")]))

    @pytest.mark.slow
    def test_workers_that_die_at_their_start(self, tmp_path):
        with pytest.raises(IdanimError, match=r"before they have begun .*exit code -9"):
            list(LocalEngine(1).map(functools.partial(die_at_once, tmp_path), [(1, "")]))

    def test_without_processes(self, tmp_path):
        assert list(LocalEngine(0).map(functools.partial(make_fragile, tmp_path), [(1, ""), (2, "")])) == [
            ((1, ""), 2),
            ((2, ""), 4),
        ]

    def test_settings(self):
        with pytest.raises(IdanimError, match="workers=-1"):
            LocalEngine(-1)
        with pytest.raises(IdanimError, match=r"engine\.timeout_s=0"):
            LocalEngine(1, 0)

    def test_workers_end_with_their_parent(self, tmp_path):
        program = (
            "import os, signal, functools, pathlib\n"
            "from fragile_work import make_fragile\n"
            "from idanim.curation.local_engine import LocalEngine\n"
            "if __name__ == '__main__':\n"
            f"    work = functools.partial(make_fragile, pathlib.Path({str(tmp_path)!r}))\n"
            "    results = LocalEngine(1).map(work, [(i, '') for i in range(9)])\n"
            "    next(results)\n"
            "    import multiprocessing\n"
            "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        (tmp_path / "program.py").write_text(program)
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        for _ in range(100):
            if not Path(f"/proc/{int(done.stdout)}").exists():
                return
            time.sleep(0.1)
        pytest.fail("the worker lives on")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("videos"))
    write_mp4(folder / "dora__0.mp4", person(44, colour="green", shade=70))
    return folder


@pytest.fixture(scope="module")
def reference(videos, tmp_path_factory):
    return shard_bytes(curate(videos, tmp_path_factory.mktemp("reference")))


class TestCuration:
    @pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
    def test_the_same_bytes_from_processes(self, videos, tmp_path, reference, workers):
        assert shard_bytes(curate(videos, tmp_path / "out", f"workers={workers}")) == reference

    @pytest.mark.slow
    def test_videos_that_kill_or_hang_are_rejected_and_tried_again(self, videos, tmp_path, reference, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setenv("SQUARE_FACES_DIE_SHADE", "70")  # dora's
            patch.setenv("SQUARE_FACES_HANG_SHADE", "20")  # bea's
            output = curate(videos, tmp_path / "out", "workers=2", "engine.timeout_s=3")
        reasons = {row["source"]: row["reason"] for row in report(output)["decisions"]}
        assert {name: reason for name, reason in reasons.items() if reason} == {
            "bea__0.mp4": "timed_out",
            "dora__0.mp4": "kills_worker",
        }
        assert shard_bytes(curate(videos, output)) == reference

    @pytest.mark.slow
    def test_a_killed_driver(self, videos, tmp_path, reference):
        output = tmp_path / "out"
        killed = curate_in_a_process(videos, output, "workers=2", environment={"SQUARE_FACES_KILL_PARENT_AFTER": "20"})
        assert killed.returncode == -signal.SIGKILL
        assert list(output.glob("*.tar")) == []
        assert shard_bytes(curate(videos, output, "workers=2")) == reference


class TestRay:
    def test_without_ray_it_is_said_how_to_get_it(self, monkeypatch):
        from idanim.curation.ray_engine import RayEngine

        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(IdanimError, match=r"pip install 'idanim\[ray\]'"):
            RayEngine(1)

    @pytest.mark.slow
    def test_dying_and_hanging_actors_and_the_same_bytes(self, videos, tmp_path, reference, monkeypatch):
        ray = pytest.importorskip("ray")
        from idanim.curation.ray_engine import RayEngine

        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a busy machine,
        monkeypatch.setenv("RAY_worker_niceness", "0")  # where actors of the default niceness hardly run at all
        here = Path(__file__).parent  # actors find the modules of the tests by the environment alone
        paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        (tmp_path / "tried").mkdir()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
        try:
            check_trouble(RayEngine(2, timeout_s=5), tmp_path / "tried")
            with pytest.raises(IdanimError, match="1 is a wrong setting"):
                list(RayEngine(1).map(functools.partial(make_fragile, tmp_path / "tried"), [(1, "fails")]))
            assert shard_bytes(curate(videos, tmp_path / "out", "engine=ray", "workers=2")) == reference
        finally:
            ray.shutdown()
