"""Captions: those given in files beside the videos, and the stage that writes the others once all clips are cut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from tqdm import tqdm

from idanim.captioning.caption import STATES, USABLE, ClipCaptions
from idanim.captioning.captioner import Captioner
from idanim.curation.decision import RejectedError
from idanim.curation.results import Result
from idanim.curation.sources import MAX_SIDECAR_BYTES, SourceVideo
from idanim.data.sample import CAPTION_KINDS
from idanim.files import parse_json, read_text

UNCAPTIONED = "A video of a person."
"""Caption of a clip that was given none, until it is captioned."""

LISTED_TROUBLES = 50


@dataclass(frozen=True)
class Sidecar:
    """What the files beside a video say.

    Attributes:
        captions: text by kind ("attribute", "action", "unified"), whitespace made single.
        identity: name of the person, if given.
    """

    captions: dict[str, str] = field(default_factory=dict)
    identity: str | None = None

    @property
    def states(self) -> dict[str, str]:
        """What became of each kind of caption so far."""
        return dict.fromkeys(self.captions, "given") or {"unified": "template"}


def read_sidecar(video: SourceVideo) -> Sidecar:
    """Read `<video>.json` and `<video>.txt`.

    The JSON is an object with any of the keys "attribute", "action", "unified" and "identity", all text; other
    keys are left alone. The text file is the unified caption, unless the JSON has one.

    Raises:
        RejectedError: "bad_sidecar", rather than training on a wrong caption in silence.
    """
    captions: dict[str, str] = {}
    identity = None
    for path in video.sidecars:
        try:
            text = read_text(path, MAX_SIDECAR_BYTES)
            content = parse_json(text, path.name) if path.suffix == ".json" else {"unified": text}
            json.dumps(content, ensure_ascii=False).encode()  # JSON can name half characters, which no file holds
        except (OSError, ValueError, RecursionError) as error:
            raise RejectedError("bad_sidecar", f"{path.name}: can't be read ({error})") from error
        if not isinstance(content, dict):
            raise RejectedError("bad_sidecar", f"{path.name}: holds a {type(content).__name__}, expected an object")
        for kind in (*CAPTION_KINDS, "identity"):
            value = content.get(kind)
            if value is not None and not isinstance(value, str):
                raise RejectedError("bad_sidecar", f"{path.name}: {kind!r} is a {type(value).__name__}, expected text")
            if value and value.strip():
                if kind == "identity":
                    identity = value.strip()
                else:
                    captions.setdefault(kind, " ".join(value.split()))
    return Sidecar(captions, identity)


def caption_one(captioner: Captioner, result: Result) -> Result:
    """An accepted result with its captions.

    Raises:
        IdanimError: wrong settings, or the file of the result was damaged.
    """
    return replace(result, captions=captioner.caption(result.meta(), result.video))


def caption_all(captioner: Captioner, results: Sequence[Result]) -> list[Result]:
    """Caption the clips of accepted results, several at once, with a progress bar where models write.

    What models answered is kept by `captioner.answers`, so that a killed run goes on and a later one asks nothing
    twice. The captions do not depend on how many clips are worked on at once.

    Returns:
        One result each, in the same order.

    Raises:
        IdanimError: wrong settings. Answers so far stay.
        OSError: an answer can't be written. Those written before stay.
    """
    bar = tqdm(total=len(results), desc="caption", unit="clip", disable=not captioner.models)
    captioned = []
    with bar, ThreadPoolExecutor(captioner.concurrency, "caption") as pool:
        for result in _in_order(pool, captioner, results):
            captioned.append(result)
            bar.update()
    return captioned


def _in_order(pool: ThreadPoolExecutor, captioner: Captioner, results: Sequence[Result]) -> Iterator[Result]:
    # Handed out a few at a time, so that an error or Ctrl-C waits for those under way only.
    waiting = iter(results)
    ahead = [pool.submit(caption_one, captioner, result) for result in islice(waiting, 8 * captioner.concurrency)]
    try:
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(caption_one, captioner, result) for result in islice(waiting, 1)]
    finally:
        for future in ahead:
            future.cancel()


def caption_summary(results: Sequence[Result]) -> dict[str, Any]:
    """How the captions of accepted clips came out, as plain data.

    Returns:
        "states": by kind, how many clips are in each state; "without_text": clips on which only the template stands;
        "troubles": the first captions that came to no text, with the reason in words.
    """
    states: dict[str, Counter[str]] = {}
    troubles: list[dict[str, str]] = []
    without_text = 0
    for result in results:
        captions = result.captions or ClipCaptions({}, {})
        for kind, state in captions.states.items():
            states.setdefault(kind, Counter())[state] += 1
            if state not in USABLE and len(troubles) < LISTED_TROUBLES:
                source, text = result.decision.source, captions.details.get(kind, "")
                troubles.append({"source": source, "kind": kind, "state": state, "text": text})
        without_text += not {"given", "written"} & set(captions.states.values())
    ordered = {kind: {state: counts[state] for state in STATES if counts[state]} for kind, counts in states.items()}
    return {"states": ordered, "without_text": without_text, "troubles": troubles}
