"""What the server keeps of pages that were closed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
VISITS = """
import http.client, json, sys, time
from urllib.parse import urlsplit

from idanim.config import compose
from idanim.web.server import serving

sys.path.insert(0, sys.argv[1])
from load import Page

def kept():
    queue, holder = served._queue, served.state_holder
    return {
        "settings": len(holder.session_data),
        "times": len(holder.time_last_used),
        "requests": len(queue.event_ids_to_events),
        "numbers of requests": len(queue.pending_event_ids_session),
        "statistics": len(queue.event_analytics),
    }

small = ("sampling.num_frames=1", "sampling.num_inference_steps=1", "device=cpu", "app.port=0")
expected = {"settings": 1, "times": 1, "requests": 0, "numbers of requests": 1, "statistics": 1}
with serving(compose("app", small)) as served:
    connection = http.client.HTTPConnection(urlsplit(served.local_url).netloc)
    connection.request("GET", "/config")
    config = json.loads(connection.getresponse().read())
    stays = Page(served.local_url, config)
    assert stays.begin() == ""
    for number in range(6):
        page = Page(served.local_url, config)
        photo = page.upload("a.png", b"no picture")
        assert page.begin() == ""
        if number % 3 == 0:
            assert "not a readable picture" in page.generate(photo)[0]
        if number % 3 == 1:
            page.abandon(photo)
        page.leave()
    end = time.monotonic() + 20
    while kept() != expected and time.monotonic() < end:
        time.sleep(0.1)
    assert kept() == expected, kept()
    assert stays.begin() == ""
"""


@pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed: pip install -e '.[app]'")
def test_closed_pages_are_forgotten_and_open_ones_are_not() -> None:
    command = [sys.executable, "-c", VISITS, str(BENCHMARKS)]  # a process of its own: Gradio closes not all it opens
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
