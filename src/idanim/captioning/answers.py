"""Answers of models on disk: what was once answered is never asked again, and a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from idanim.captioning.model import Answer
from idanim.files import write_json


class AnswerStore:
    """One small JSON file an answer, in `<folder>/<first two digits of the key>/<key>.json`.

    An answer is written first and used then: whoever asks again, in this run or in a later one, gets the same. The
    first answer to a question stays. Failures are not kept.

    Args:
        folder: where they are kept; made when the first one is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    @staticmethod
    def key(*parts: object) -> str:
        """Names a question by all that it consists of; parts must be what JSON can hold."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def find_or_ask(self, key: str, ask: Callable[[], Answer]) -> Answer:
        """The answer kept under a key, else the one that `ask` gives, kept from now on.

        Raises:
            NoAnswerError: `ask` raised it; nothing is kept.
            OSError: the answer can't be written.
        """
        path = self._folder / key[:2] / f"{key}.json"
        with self._guard:
            lock = self._locks[key]
        with lock:  # the same question from two threads is asked once
            found = _read(path)
            if found is None:
                found = ask()
                write_json(path, asdict(found))
            with self._guard:
                self._locks.pop(key, None)  # whoever comes now finds the file
        return found


def _read(path: Path) -> Answer | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Answer(str(content["text"]), bool(content["cut_off"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or not one of ours
        return None
