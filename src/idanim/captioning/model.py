"""What a model that writes captions has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from idanim.types import UInt8Array


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: as it came.
        cut_off: whether the model was stopped before it was done.
    """

    text: str
    cut_off: bool = False


class NoAnswerError(Exception):
    """A model gave no answer to one question; the next one may go well.

    Attributes:
        state: a key of `idanim.captioning.caption.STATES`.
    """

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


class CaptionModel(Protocol):
    """Answers questions about pictures; used from several threads at once."""

    @property
    def fingerprint(self) -> str:
        """Names everything that the answers depend on besides the question."""
        ...

    @property
    def concurrency(self) -> int:
        """How many questions it takes at once."""
        ...

    def answer(self, prompt: str, pictures: tuple[UInt8Array, ...]) -> Answer:
        """Answer one question.

        Args:
            prompt: the question.
            pictures: frames [H, W, 3] uint8 RGB in order of time; none for a question about text.

        Raises:
            NoAnswerError: this question went unanswered.
            IdanimError: no question would be answered: wrong settings.
        """
        ...
