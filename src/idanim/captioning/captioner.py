"""The captions of one clip: an attribute caption, an action caption, and both merged into one (paper §3.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from idanim.captioning.answers import AnswerStore
from idanim.captioning.caption import Caption, ClipCaptions, judge
from idanim.captioning.frames import ClipFrames, even_frames, median_frame
from idanim.captioning.model import Answer, CaptionModel, NoAnswerError
from idanim.data.sample import CAPTION_KINDS, CaptionKind, ClipMeta
from idanim.types import IdanimError


@dataclass(frozen=True)
class Captioner:
    """Writes the captions that a clip was not given.

    Attributes:
        models: who writes captions of a kind; kinds without a model are not written.
        prompts: the question for each kind that has a model. That for "unified" holds {attribute} and {action}.
        template: unified caption of a clip that has no other text.
        num_frames: frames that the action caption is written from, evenly over the clip.
        max_px: longer side of a picture that a model is shown, at most.
        max_words: of a caption at most.
        answers: what models have answered before.
    """

    models: Mapping[CaptionKind, CaptionModel]
    prompts: Mapping[CaptionKind, str]
    template: str
    num_frames: int
    max_px: int
    max_words: int
    answers: AnswerStore

    def __post_init__(self) -> None:
        if not self.template.strip():
            raise IdanimError("captions.text is empty: it stands where a clip has no other caption")
        if self.num_frames < 1 or self.max_px < 16 or self.max_words < 1:
            raise IdanimError(
                f"captions.num_frames={self.num_frames} max_px={self.max_px} max_words={self.max_words}: "
                "wanted at least 1, 16 and 1"
            )
        for kind in self.models:
            if not self.prompts.get(kind, "").strip():
                raise IdanimError(f"captions.prompts.{kind}: a prompt is needed, since captions.{kind} names a model")
        missing = [part for part in ("{attribute}", "{action}") if part not in self.prompts.get("unified", "")]
        if "unified" in self.models and missing:
            raise IdanimError(f"captions.prompts.unified: {' and '.join(missing)} must stand in it")

    @property
    def concurrency(self) -> int:
        """Clips that are worked on at once."""
        return max((model.concurrency for model in self.models.values()), default=1)

    def caption(self, meta: ClipMeta, read_video: Callable[[], bytes]) -> ClipCaptions:
        """All captions of a clip: those it was given, and those of models.

        Args:
            meta: its record, with the given captions.
            read_video: gives its mp4; not called when no model looks at the clip.

        Raises:
            IdanimError: wrong settings; no clip would be captioned.
        """
        captions: dict[CaptionKind, Caption] = {}
        for kind in CAPTION_KINDS:
            if meta.caption_states.get(kind) != "template" and meta.captions.get(kind):
                captions[kind] = Caption("given", meta.captions[kind])
        wanted = [kind for kind in CAPTION_KINDS if kind in self.models and kind not in captions]
        if {"attribute", "action"} & set(wanted):
            captions |= self._look(meta, read_video(), [kind for kind in wanted if kind != "unified"])
        if "unified" in wanted:
            captions["unified"] = self._merge(captions)
        return ClipCaptions.of({kind: captions[kind] for kind in CAPTION_KINDS if kind in captions}, self.template)

    def _look(self, meta: ClipMeta, video: bytes, kinds: list[CaptionKind]) -> dict[CaptionKind, Caption]:
        """The captions that are written from frames."""
        indices: dict[CaptionKind, list[int]] = {
            "attribute": [median_frame(meta.num_frames)],
            "action": even_frames(meta.num_frames, self.num_frames),
        }
        frames = ClipFrames(video, [i for kind in kinds for i in indices[kind]], self.max_px)
        content = hashlib.sha256(video).hexdigest()
        captions: dict[CaptionKind, Caption] = {}
        for kind in kinds:
            prompt = self.prompts[kind]

            def ask(model: CaptionModel, prompt: str = prompt, shown: list[int] = indices[kind]) -> Answer:
                return model.answer(prompt, frames.pictures(shown))

            captions[kind] = self._ask(kind, prompt, ask, content, indices[kind], self.max_px)
        return captions

    def _merge(self, captions: Mapping[CaptionKind, Caption]) -> Caption:
        """The unified caption, written from the other two."""
        texts: dict[str, str] = {}
        for kind in ("attribute", "action"):
            caption = captions.get(kind)
            if caption is None or not caption.text:
                return Caption("no_source", detail=f"there is no {kind} caption to merge")
            texts[kind] = caption.text
        # In one go: a caption that holds braces is nobody's placeholder.
        prompt = re.sub(r"\{(attribute|action)\}", lambda match: texts[match[1]], self.prompts["unified"])
        return self._ask("unified", prompt, lambda model: model.answer(prompt, ()))

    def _ask(self, kind: CaptionKind, prompt: str, ask: Callable[[CaptionModel], Answer], *content: Any) -> Caption:
        model = self.models[kind]
        key = self.answers.key(model.fingerprint, prompt, *content)
        try:
            answer = self.answers.find_or_ask(key, lambda: ask(model))
        except NoAnswerError as error:
            return Caption(error.state, detail=str(error))
        return judge(answer.text, self.max_words, answer.cut_off)
