"""A web server that fails in every way: serves a folder, or what another server answers."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class FaultyServer(ThreadingHTTPServer):
    """`faults[name]` are what happens to the next GET requests of a file, then all is well.

    A status such as "500"; "cut", "silent" (`silence_s`) and "slow" after half of the content; "too long": more is
    announced than comes; "wrong": zeros of the right length. Under "HEAD <name>" the same for HEAD requests.

    Args:
        folder: what is served; None with `behind`.
        behind: port of the server whose answers are passed on.
    """

    daemon_threads = True
    silence_s = 3.0

    def __init__(self, folder: Path | None, behind: int | None = None) -> None:
        self.folder, self.behind = folder, behind
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.queries: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, target: str, headers: Mapping[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and content without a fault."""
        if self.behind is None:
            assert self.folder is not None
            path = self.folder / urlsplit(target).path.lstrip("/")
            return (200, [], path.read_bytes()) if path.is_file() else (404, [], b"")
        connection = http.client.HTTPConnection("127.0.0.1", self.behind)
        with contextlib.closing(connection):
            connection.request(method, target, headers=dict(headers))
            response = connection.getresponse()
            kept = [(key, value) for key, value in response.getheaders() if key.lower() not in _OWN_HEADERS]
            if method == "HEAD":
                kept.append(("Content-Length", response.headers["Content-Length"] or "0"))
            return response.status, kept, response.read()


_OWN_HEADERS = ("content-length", "connection", "transfer-encoding", "date", "server")


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.rpartition("/")[2]
        name = name if self.command == "GET" else f"{self.command} {name}"
        self.server.requests[name] += 1
        self.server.queries.append(parts.query)
        fault = self.server.faults[name].pop(0) if self.server.faults.get(name) else "none"
        status, headers, content = (int(fault), [], b"") if fault.isdecimal() else self._answer()
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        if self.command == "GET" or not headers:
            self.send_header("Content-Length", str(len(content) + 1000 * (fault == "too long")))
        self.end_headers()
        with contextlib.suppress(OSError):
            for part in self._damaged(fault, content):
                self.wfile.write(part)
                self.wfile.flush()

    def _answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        return self.server.answer(self.command, self.path, self.headers)

    def _damaged(self, fault: str, content: bytes) -> Iterator[bytes]:
        if fault in ("cut", "slow", "silent"):
            yield content[: len(content) // 2]
            if fault == "cut":
                self.connection.close()
                return
            time.sleep(self.server.silence_s if fault == "silent" else 0.3)
            yield content[len(content) // 2 :]
        else:
            yield bytes(len(content)) if fault == "wrong" else content


@contextlib.contextmanager
def serving(server: FaultyServer) -> Iterator[FaultyServer]:
    """Until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
