"""A real HTTP server that talks like an OpenAI-compatible one, and misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server sends back."""

    body: str | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


def completion(text: Any, finish_reason: str = "stop", tokens: int = 10) -> Reply:
    """A chat completion as a server sends it."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Reply(json.dumps(body), headers={"Content-Type": "application/json"})


@dataclass
class Server:
    """A running server.

    Attributes:
        url: its base_url.
        requests: bodies of all requests so far.
        times: when they came.
        most_at_once: how many were under way at the same time, at most.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serve(reply: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Server]:
    """Serve on a free port.

    Args:
        reply: (number of the request from 0, its body) → what is sent.
    """
    guard = threading.Lock()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal at_once
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard:
                number = len(server.requests)
                server.requests.append(body)
                server.times.append(time.monotonic())
                at_once += 1
                server.most_at_once = max(server.most_at_once, at_once)
            sent = reply(number, body) if self.path == "/v1/chat/completions" else Reply("", 404)
            time.sleep(sent.wait_s)
            content = sent.body.encode() if isinstance(sent.body, str) else sent.body
            with guard:
                at_once -= 1
            try:
                self.send_response(sent.status)
                for name, value in sent.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client has given up

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_port}/v1")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def prompt_of(request: dict[str, Any]) -> str:
    """The text of a question."""
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def pictures_of(request: dict[str, Any]) -> list[str]:
    """The data URLs of a question's pictures."""
    content = request["messages"][0]["content"]
    return [] if isinstance(content, str) else [part["image_url"]["url"] for part in content[:-1]]
