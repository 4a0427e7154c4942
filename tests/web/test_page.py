"""The page in a headless browser: upload, generate, mix, play, stop, and what it says to mistakes."""

from __future__ import annotations

import io
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
    *("app.port=0", "app.limits.upload_mb=1", "app.limits.num_steps=900"),
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
    assert not list(temporary.iterdir()), "temporary files are left behind"


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
        self.browser = browser
        self.requests: list[str] = []
        browser.get(url)
        self.wait(lambda: self.find("#generate"))

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
def browser() -> Iterator[Any]:
    driver = start_browser()
    online = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, server: Server) -> Page:
    return Page(browser, server.url)


def test_upload_generate_play(page: Page, photos: list[Path]) -> None:
    page.upload_and_wait(photos[0])
    page.fill("#prompt", "a person wearing a red hat")
    status = page.generate()
    page.browser.save_screenshot("/tmp/wt/shot.png")
    print(status, page.captions(), page.asked_hosts())
