"""What an answer of a model is worth as a caption: usable text, or a named state that says why it is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from idanim.data.sample import CaptionKind

STATES = {
    "given": "from a file beside the video",
    "template": "nobody described the clip",
    "written": "by the model",
    "empty": "the answer holds no words",
    "refused": "the model says that it will not, or can't",
    "too_long": "more words than captions.max_words, or broken off",
    "repeats": "the same few words over and over",
    "html": "a web page or markup in place of an answer",
    "not_an_answer": "the server's reply is no chat completion",
    "failed": "the server or model failed; asked again next time",
    "over_budget": "not asked, the budget was spent; asked next time",
    "no_source": "a unified caption needs an attribute and an action caption",
}
"""Every state a caption can be in, with its meaning. Only the first three come with a text."""

USABLE = frozenset({"given", "template", "written"})

_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(
    r"<\s*(!doctype|/?\s*(html|head|body|title|script|style|div|span|p|a|br|h[1-6]|ul|li|table))\b", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"(i'?m|i am|we'?re|we are)( really| very| so| truly)? sorry\b|sorry\b|(i|we) apologi[sz]e|my apologies|"
    r"(unfortunately,? |regrettably,? |as an ai[^.]{0,60}?)?(i|we)( can'?t| can not| cannot|'?m unable| am unable|"
    r" are unable|'?m not able| am not able| won'?t| will not| must decline| do not have| don'?t have the)\b|"
    r"as an ai\b|unable to (assist|help|describe|comply)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Caption:
    """One caption of a clip.

    Attributes:
        state: a key of `STATES`.
        text: the caption; "" where the state comes with none.
        detail: why there is no text.
    """

    state: str
    text: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.state in STATES, self.state
        assert bool(self.text) == (self.state in USABLE), self


@dataclass(frozen=True)
class ClipCaptions:
    """The captions of one clip as they go into its sample.

    Attributes:
        texts: usable text by kind, at least one.
        states: what became of each kind that was given or asked for, a key of `STATES` each.
        details: why a kind has no text, in words.
    """

    texts: dict[str, str]
    states: dict[str, str]
    details: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, captions: Mapping[CaptionKind, Caption], template: str) -> ClipCaptions:
        """Gather captions; where none has a text, the template stands for the unified one, whose state stays."""
        texts: dict[str, str] = {kind: caption.text for kind, caption in captions.items() if caption.text}
        states: dict[str, str] = {kind: caption.state for kind, caption in captions.items()}
        if not texts:
            texts["unified"] = template
            states.setdefault("unified", "template")
        details: dict[str, str] = {kind: caption.detail for kind, caption in captions.items() if caption.detail}
        return cls(texts, states, details)


def judge(answer: str, max_words: int, cut_off: bool = False) -> Caption:
    """Make a caption of what a model answered.

    Thoughts in <think> tags, line breaks, characters that can't be printed and quotation marks around the whole are
    taken away; nothing else is changed.

    Args:
        answer: as it came.
        max_words: of a caption at most.
        cut_off: whether the model was stopped before it was done.
    """
    text = _THOUGHT.sub(" ", answer)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(text) > 1 and text[0] in "\"'“`" and text[-1] in "\"'”`":
        text = text[1:-1].strip()
    words = text.split()
    quote = f"the answer begins {text[:80]!r}"
    if not any(char.isalpha() for char in text):
        return Caption("empty", detail="the answer is empty" if not text else quote)
    if _MARKUP.search(text):
        return Caption("html", detail=quote)
    if _REFUSAL.match(text.replace("’", "'")):
        return Caption("refused", detail=quote)
    if len(words) >= 20 and len({word.lower() for word in words}) < 0.2 * len(words):
        return Caption("repeats", detail=quote)
    if cut_off or len(words) > max_words:
        how = "broken off" if cut_off else f"at most {max_words}"
        return Caption("too_long", detail=f"{len(words)} words, {how}; {quote}")
    return Caption("written", text)
