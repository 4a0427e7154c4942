"""Captions and other given facts: from a file beside the video, else from a template."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from idanim.curation.decision import RejectedError
from idanim.curation.sources import SourceVideo
from idanim.data.sample import CAPTION_KINDS


@dataclass(frozen=True)
class Sidecar:
    """What the files beside a video say.

    Attributes:
        captions: text by kind ("attribute", "action", "unified"), whitespace made single.
        identity: name of the person, if given.
    """

    captions: dict[str, str] = field(default_factory=dict)
    identity: str | None = None


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
            text = path.read_text(encoding="utf-8-sig")
            content = json.loads(text) if path.suffix == ".json" else {"unified": text}
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


@dataclass(frozen=True)
class CaptionTemplate:
    """The caption of a video that nobody described.

    Attributes:
        text: the unified caption.
    """

    text: str

    def fill(self, captions: dict[str, str]) -> dict[str, str]:
        """The captions given, or the template's where there are none."""
        return captions or {"unified": self.text}
