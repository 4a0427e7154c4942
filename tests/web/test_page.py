"""The page in a headless browser: upload, generate, mix, play, stop, and what it says to mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import start_browser
from PIL import Image
from toy_people import take_photos

if find_spec("gradio") is None:
    pytest.skip("Gradio is not installed: pip install -e '.[app]'", allow_module_level=True)

ARGUMENTS = (
    *("sampling.num_frames=4", "sampling.num_inference_steps=4", "device=cpu", "seed=1"),
    *("app.port=0", "app.limits.upload_mb=1", "app.limits.num_steps=900", "app.limits.queue=1"),
)
PATIENCE_S = 60


@dataclass(frozen=True)
class Server:
    """The program as somebody starts it."""

    url: str
    temporary: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "idanim.app", *ARGUMENTS, f"output={folder / 'log'}"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    log = folder / "server.log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            yield Server(url_in(log, process), temporary)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    assert not list(temporary.glob("*idanim*")), "temporary files are left behind"


def url_in(log: Path, process: Any) -> str:
    """The address that the program prints once it serves."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return match.group()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return take_photos(tmp_path_factory.mktemp("photos"), ["ada__1.png", "bob.png"])


class Page:
    """What somebody does with an open page."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url
        self.reload()

    def reload(self) -> None:
        """A page as it is at first."""
        self.browser.get(self.url)
        self.wait(lambda: self.find("#photos input[type=file]"))

    def find(self, selector: str) -> Any:
        found = self.browser.find_elements("css selector", selector)
        return found[0] if found else None

    def text(self, selector: str) -> str:
        return self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent).join(' ')", selector
        )

    def wait(self, ready: Callable[[], Any], why: str = "") -> Any:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            value = ready()
            if value:
                return value
            time.sleep(0.1)
        shown = self.text("#status, #gallery, .toast-wrap")
        raise AssertionError(f"{why or 'not ready'} after {PATIENCE_S} s; the page shows: {shown}")

    def click(self, selector: str) -> None:
        self.browser.execute_script("arguments[0].click()", self.wait(lambda: self.find(selector)))

    def upload(self, *files: Path, into: str = "#photos") -> None:
        self.browser.find_element("css selector", f"{into} input[type=file]").send_keys("\n".join(map(str, files)))

    def upload_and_wait(self, *files: Path) -> None:
        self.upload(*files)
        self.wait(lambda: all(file.stem in self.text("#photos") for file in files), "not uploaded")

    def fill(self, selector: str, value: str) -> None:
        field = self.wait(lambda: self.find(f"{selector} textarea, {selector} input"))
        self.browser.execute_script(
            "const f = arguments[0]; const kind = f.tagName == 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;"
            "Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(f, arguments[1]);"
            "f.dispatchEvent(new Event('input', {bubbles: true})); f.dispatchEvent(new Event('blur'));",
            field,
            value,
        )

    def choose(self, selector: str, text: str) -> None:
        for option in self.browser.find_elements("css selector", f"{selector} label"):
            if text in option.get_attribute("textContent"):
                self.browser.execute_script("arguments[0].querySelector('input').click()", option)
                return
        raise AssertionError(f"{selector} has no {text}")

    def open(self, heading: str) -> None:
        """Open the fields under a heading, which are not there before."""
        self.click(f"{heading} > button")

    def generate(self) -> str:
        self.click("#generate")
        return self.wait(lambda: "Finished" in self.text("#status") and self.text("#status"), "not finished")

    def error(self) -> str:
        """The text of the error that comes up."""
        return self.wait(lambda: self.text(".toast-wrap"), "no error comes up")

    def captions(self) -> list[str]:
        elements = self.browser.find_elements("css selector", "#gallery .caption-label")
        return [element.get_attribute("textContent").strip() for element in elements]

    def asked_hosts(self) -> set[str]:
        """Everything that the browser asked another machine for since it was asked last."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))}


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Any]:
    """Started after the server and closed before it: a server waits for pages that are still open."""
    driver = start_browser()
    online = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, server: Server) -> Page:
    return Page(browser, server.url)


def test_upload_generate_play(page: Page, photos: list[Path]) -> None:
    page.browser.get_log("performance")
    page.upload_and_wait(photos[0])
    page.fill("#prompt", "a person wearing a red hat")
    page.generate()
    (caption,) = page.captions()
    assert re.fullmatch(r"similarity to ada -?\d\.\d\d · face in \d of 4 frames · seed 1", caption)
    assert re.search(r"video_001_seed_1\s*\.mp4.*video_001_seed_1\s*\.json", page.text("#files"))
    if os.environ.get("IDANIM_SCREENSHOT"):
        page.browser.save_screenshot(os.environ["IDANIM_SCREENSHOT"])
    page.click("#gallery .thumbnail-item")
    played = (
        "const v = [...document.querySelectorAll('#gallery video')].pop(); if (!v) return 0; v.muted = true; v.play();"
        "return v.videoWidth == 32 && v.currentTime"
    )
    page.wait(lambda: page.browser.execute_script(played), "the video does not play")
    assert page.asked_hosts() == set()


def test_mixed_and_from_one_to_the_other(page: Page, photos: list[Path]) -> None:
    page.upload_and_wait(*photos)
    page.open("#identity")
    page.choose("#use", "mixed")
    page.fill("#weights", "0.7, 0.7")
    page.click("#generate")
    assert "they sum to 1.4, expected 1" in page.error()
    page.fill("#weights", "0.7, 0.3")
    page.generate()
    (mixed,) = page.captions()
    assert re.match(r"similarity to ada \S+, bob \S+ · face", mixed)
    page.choose("#use", "from one to the other")
    page.fill("#sweep", "2")
    page.click("#generate")
    page.wait(lambda: len(page.captions()) == 3, "not both ends")
    assert mixed in page.captions()[2]  # the newest come first


def test_mistakes_are_told(page: Page, photos: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    (tmp_path / "words.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)).save(tmp_path / "large.png")
    page.click("#generate")
    assert "no photo: upload one of the person" in page.error()
    for name, words in (("grey", "finds no face in grey.png"), ("words", "words.png: not a readable picture")):
        page.reload()
        page.upload_and_wait(tmp_path / f"{name}.png")
        page.click("#generate")
        assert words in page.error()
        assert str(Path(tmp_path).anchor + "tmp") not in page.error()
    page.reload()
    page.upload(tmp_path / "large.png")
    assert "exceed the maximum allowed size of 1.0 Mb" in page.error()
    page.reload()
    (tmp_path / "words.txt").write_text("no picture")
    page.upload(tmp_path / "words.txt")
    assert "Invalid file type" in page.error()
    page.reload()
    page.upload_and_wait(photos[0])
    page.fill("#prompt", " ")
    page.click("#generate")
    assert "the prompt is empty" in page.error()


def test_an_example_fills_in_photo_and_prompt(page: Page) -> None:
    page.click("#examples .gallery-item:nth-of-type(2)")
    page.wait(lambda: "face" in page.text("#photos"), "no photo")
    page.generate()
    assert page.captions()[0].startswith("similarity to face ")


def test_a_full_queue_is_told_and_stop_ends_the_work(page: Page, server: Server, photos: list[Path]) -> None:
    page.upload_and_wait(photos[0])
    page.open("#sampling")
    page.fill("#steps", "900")
    page.click("#generate")
    page.wait(lambda: re.search(r"\d+/900", page.text("#gallery")), "no progress")
    running = page.browser.current_window_handle
    others = []
    for _ in range(2):
        page.browser.switch_to.new_window("tab")
        other = Page(page.browser, server.url)
        assert other.captions() == []
        other.click("#generate")
        others.append(page.browser.current_window_handle)
    assert "the queue is full: 1 request waits" in other.error()
    page.browser.switch_to.window(running)
    page.click("#stop")
    page.wait(lambda: "Stopped; 0 videos were finished" in page.text("#status"), "not stopped")
    for handle, words in zip(others, ("no photo", "the queue is full"), strict=True):
        page.browser.switch_to.window(handle)
        assert words in other.error()
        page.browser.close()
    page.browser.switch_to.window(running)


def test_only_uploaded_files_are_read(server: Server, photos: list[Path]) -> None:
    for path in ("/etc/hostname", str(photos[0]), f"{server.url}/config"):
        file = {"path": path, "orig_name": "face.png", "meta": {"_type": "gradio.FileData"}}
        assert "similarity" not in (said := Call(server, "outside", [file]).error())
        assert "no photo" not in said
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{server.url}/gradio_api/file={photos[0]}")


class Call:
    """A request for videos past the page, with the page's first values but for the photos."""

    def __init__(self, server: Server, session: str, photos: list[Any]) -> None:
        self.url, self.session = f"{server.url}/gradio_api/queue", session
        with urllib.request.urlopen(f"{server.url}/config") as answer:
            config = json.load(answer)
        function = max(config["dependencies"], key=lambda dependency: len(dependency["inputs"]))
        values = {component["id"]: component["props"].get("value") for component in config["components"]}
        data = [photos, *(values[field] for field in function["inputs"][1:])]
        body = json.dumps({"data": data, "fn_index": function["id"], "session_hash": session}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/join", body, headers)).close()

    def error(self) -> str:
        """What comes instead of videos."""
        with urllib.request.urlopen(f"{self.url}/data?session_hash={self.session}", timeout=PATIENCE_S) as lines:
            for line in lines:
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    assert not message["success"]
                    return str(message["output"])
        raise AssertionError("the answer ends early")
