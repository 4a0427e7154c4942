"""Many users at once on the web page, on the toy world, over the loopback.

    python benchmarks/load.py [--users 50] [--minutes 10]

Each user opens a page, uploads a photo, asks for a video, takes it with its json, and leaves; some leave while they
wait, some send a file that is no photo. It fails where a user is told anything but that the queue is full (or what is
wrong with that file), gets a video that is not theirs, where memory grows, or where files are left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image

from idanim.toyworld.make_videos import film

ARGUMENTS = (
    *("sampling.num_frames=2", "sampling.num_inference_steps=2", "device=cpu"),
    *("app.port=0", "app.limits.queue=20"),
)
KINDS = {"stays": 0.8, "leaves": 0.1, "sends words": 0.1}
MOST_GROWTH = 1.05
"""Memory at the end against that after a third of the time."""
PATIENCE_S = 300


class UnexpectedError(Exception):
    """A user was told something that should not be."""


@dataclass
class Tally:
    """What happened to all users together."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    waits_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, wait_s: float | None = None) -> None:
        """One more of these."""
        with self.lock:
            self.counts[what] += 1
            if wait_s is not None:
                self.waits_s.append(wait_s)

    def fail(self, what: str) -> None:
        """Something that must not happen."""
        with self.lock:
            self.errors.append(what)


# ---------------------------------------------------------------------------------------------- a user


class Page:
    """One open page, as the browser's part of Gradio speaks to the server."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self._address = urlsplit(url).netloc
        self._session = uuid.uuid4().hex[:12]
        button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "generate")
        functions = config["dependencies"]
        self._begin = next(f["id"] for f in functions if [button, "click"] in f["targets"])
        self._run = max(functions, key=lambda f: len(f["inputs"]))
        self._values = {c["id"]: c["props"].get("value") for c in config["components"]}
        self._fields = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
        self._heartbeat = self._connect()  # while it is open, the page is
        self._heartbeat.request("GET", f"/gradio_api/heartbeat/{self._session}")
        self._heartbeat.getresponse()

    def leave(self) -> None:
        """Close the page."""
        self._heartbeat.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=PATIENCE_S)

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        connection = self._connect()
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise UnexpectedError(f"{method} {path}: {answer.status} {content[:300].decode(errors='replace')}")
            return content
        finally:
            connection.close()

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a file; what the page's field holds then."""
        border = uuid.uuid4().hex
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        (path,) = json.loads(self._ask("POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={border}"))
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def begin(self) -> str:
        """Press "Generate"; what is told instead, "" where all is well."""
        return self._error(self._call(self._begin, []))

    def generate(self, photo: dict[str, Any], **values: Any) -> tuple[str, list[str]]:
        """Wait for the video: what is told instead, and the paths of all files that are offered."""
        data = [values.get(self._fields[i], self._values[i]) for i in self._run["inputs"]]
        answers = self._call(self._run["id"], [[photo], *data[1:]])
        offered = {path for answer in answers for path in re.findall(r'"path": "([^"]+)"', json.dumps(answer))}
        return self._error(answers), sorted(offered)

    def join(self, function: int, data: list[Any]) -> None:
        """Ask for something without waiting for the answer."""
        body = json.dumps({"data": data, "fn_index": function, "session_hash": self._session}).encode()
        self._ask("POST", "/gradio_api/queue/join", body)

    def _call(self, function: int, data: list[Any]) -> list[dict[str, Any]]:
        self.join(function, data)
        lines = self._ask("GET", f"/gradio_api/queue/data?session_hash={self._session}").splitlines()
        return [json.loads(line.removeprefix(b"data:")) for line in lines if line.startswith(b"data:")]

    def abandon(self, photo: dict[str, Any]) -> None:
        """Ask for a video and leave."""
        self.join(self._run["id"], [[photo], *(self._values[i] for i in self._run["inputs"][1:])])
        self.leave()

    @staticmethod
    def _error(answers: list[dict[str, Any]]) -> str:
        last = next((a for a in answers[::-1] if a.get("msg") == "process_completed"), None)
        if last is None:
            raise UnexpectedError(f"the answer ends early: {answers[-1:]}")
        return "" if last["success"] else str(last["output"].get("error"))

    def read(self, path: str) -> bytes:
        """A file that is offered."""
        return self._ask("GET", f"/gradio_api/file={quote(path)}")


class User(threading.Thread):
    """Comes again and again until the end, each time to a page of their own."""

    def __init__(self, number: int, url: str, config: dict[str, Any], photo: bytes, tally: Tally, end: float) -> None:
        super().__init__(daemon=True)
        self._name, self._number, self._url, self._config = f"guest_{number:02d}", number, url, config
        self._photo, self._tally, self._end = photo, tally, end
        self._random = random.Random(number)
        self._visits = 0

    def run(self) -> None:
        """Visit, and tell of everything that is not as it should be."""
        while time.monotonic() < self._end:
            kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
            self._visits += 1
            try:
                self._visit(kind)
            except (UnexpectedError, OSError, http.client.HTTPException, ValueError) as error:
                self._tally.fail(f"{self._name} ({kind}): {type(error).__name__}: {error}")
                traceback.print_exc(limit=2)
                time.sleep(1)
            time.sleep(self._random.uniform(0, 2))

    def _visit(self, kind: str) -> None:
        page = Page(self._url, self._config)
        try:
            content = b"no picture" if kind == "sends words" else self._photo
            photo = page.upload(f"{self._name}.png", content)
            started = time.monotonic()
            while said := page.begin():
                if "queue is full" not in said:
                    raise UnexpectedError(said)
                self._tally.count("told that the queue is full")
                if time.monotonic() > self._end:
                    return
                time.sleep(self._random.uniform(1, 4))
            if kind == "leaves":
                page.abandon(photo)
                self._tally.count("left while waiting")
                return
            seed = self._number * 1_000_000 + self._visits
            said, files = page.generate(photo, prompt=f"a person, {self._name}", seeds=str(seed))
            self._check(page, kind, seed, said, files)
            self._tally.count("file refused" if said else "videos", None if said else time.monotonic() - started)
        finally:
            page.leave()

    def _check(self, page: Page, kind: str, seed: int, said: str, files: list[str]) -> None:
        if kind == "sends words":
            if "not a readable picture" not in said or files:
                raise UnexpectedError(f"a file that is no photo gives {said!r}, {files}")
            return
        records = [page.read(path) for path in files if path.endswith(".json")]
        videos = [page.read(path) for path in files if path.endswith(".mp4")]
        if said or len(records) != 1 or not videos or any(video[4:8] != b"ftyp" for video in videos):
            raise UnexpectedError(f"{said!r}, files {files}")
        record = json.loads(records[0])
        mine = {"identity": self._name, "prompt": f"a person, {self._name}", "seed": seed}
        if {key: record[key] for key in mine} != mine:
            raise UnexpectedError(f"somebody else's video: {record}, expected {mine}")


# ------------------------------------------------------------------------------------------ the server


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """The program as somebody starts it: address and process id."""
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "idanim.app", *ARGUMENTS, f"output={folder / 'log'}"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    log = folder / "server.log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while not (match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(log.read_text())
                time.sleep(0.2)
            yield match.group(), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    words = [line for line in log.read_text().splitlines() if "Traceback" in line or "Error" in line]
    if words:
        print(f"the server's log has {len(words)} lines of errors, the first: {words[0]}")


def resident_mb(pid: int) -> float:
    """Memory of a process in 10⁶ bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 / 1e6  # type: ignore[index]


def stored_mb(folder: Path) -> float:
    """Size of all files below a folder in 10⁶ bytes, while others delete some."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total / 1e6


def photos(count: int) -> list[bytes]:
    """PNG photos of people of the toy world."""
    pictures = []
    for video in film(count, clips_per_person=1, num_frames=1, size_px=64, seed=20000):
        buffer = io.BytesIO()
        Image.fromarray(video.frames[0]).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return pictures


def load(url: str, pid: int, users: int, minutes: float, temporary: Path) -> tuple[Tally, list[float], list[float]]:
    """Let the users in for so long: what happened, memory over time in MB, and files on disk in MB."""
    address = urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    connection.request("GET", "/config")
    config = json.loads(connection.getresponse().read())
    tally, start = Tally(), time.monotonic()
    end = start + 60 * minutes
    pictures = photos(5)
    threads = [User(n, url, config, pictures[n % len(pictures)], tally, end) for n in range(users)]
    for thread in threads:
        thread.start()
    memory, disk = [], []
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end + PATIENCE_S:
        memory.append(resident_mb(pid))
        disk.append(stored_mb(temporary))
        if len(memory) % 20 == 1:
            print(f"{time.monotonic() - start:5.0f} s  {memory[-1]:.0f} MB  on disk {disk[-1]:.2f} MB  "
                  f"{dict(tally.counts)}", flush=True)  # fmt: skip
        time.sleep(1)
    stuck = sum(thread.is_alive() for thread in threads)
    if stuck:
        tally.fail(f"{stuck} users wait for ever")
    return tally, memory, disk


def trend(memory: list[float]) -> tuple[float, float]:
    """Of the last third of values, one a second: MB a minute, and the standard deviation around that line in MB."""
    last = memory[2 * len(memory) // 3 :]
    line = statistics.linear_regression(range(len(last)), last)
    rest = [value - line.intercept - line.slope * second for second, value in enumerate(last)]
    return 60 * line.slope, statistics.pstdev(rest)


def pages_open(temporary: Path) -> int:
    """Folders of pages, once the server has had time to see that all were closed."""
    end = time.monotonic() + 45
    while (folders := list(temporary.glob("idanim_app_*/tmp*"))) and time.monotonic() < end:
        time.sleep(1)
    return len(folders)


def main() -> None:
    """Run it, say what happened, and fail where something should not have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name) / "temporary"
        with server(Path(name)) as (url, pid):
            tally, memory, disk = load(url, pid, arguments.users, arguments.minutes, temporary)
            sessions = pages_open(temporary)
        left = [path for path in temporary.rglob("*") if path.is_file()]
    third = statistics.median(memory[len(memory) // 3 :][:5])
    last = statistics.median(memory[-5:])
    print(f"{arguments.users} users, {arguments.minutes:g} minutes: {dict(tally.counts)}")
    print(f"memory after a third {third:.0f} MB, at the end {last:.0f} MB, most {max(memory):.0f} MB")
    print("in the last third {:+.2f} MB a minute, around that line ± {:.1f} MB".format(*trend(memory)))
    print(f"files on disk: most {max(disk):.2f} MB; pages open at the end {sessions}; left behind {len(left)} files")
    if tally.waits_s:
        slow = sorted(tally.waits_s)[int(0.95 * (len(tally.waits_s) - 1))]
        print(f"a video after {statistics.median(tally.waits_s):.1f} s (median), {slow:.1f} s (95 %)")
    failures = [*tally.errors]
    if last > MOST_GROWTH * third:
        failures.append(f"memory grows: {third:.0f} → {last:.0f} MB")
    if left:
        failures.append(f"files are left behind: {left[:5]}")
    if sessions:
        failures.append(f"{sessions} pages were closed, but their folders are there")
    if not tally.counts["videos"]:
        failures.append("no video was made")
    print("\n".join(f"FAILED: {failure}" for failure in failures[:20]) or "as it should be")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
