"""A vision-language model of transformers, run in this process."""

from __future__ import annotations

import json
import logging
import threading
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from idanim.captioning.model import Answer, NoAnswerError
from idanim.types import IdanimError, UInt8Array

log = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    model: Any
    processor: Any


class TransformersModel:
    """Answers by `generate` of any chat model that transformers knows, greedily, one question at a time.

    Loaded when the first question comes, so that curating before it needs no memory for it.

    Args:
        path: folder with the model, as `save_pretrained` or a download of the hub lays it out.
        model_class: of transformers.
        processor_class: of transformers. Those of Qwen-VL, LLaVA-OneVision and Video-LLaVA need torchvision.
        device: torch device.
        dtype: name of a torch dtype for the weights.
        max_new_tokens: length of an answer at most.
        as_video: several pictures go in as one video instead of as pictures; Video-LLaVA knows no other way.

    Raises:
        IdanimError: no such folder, class, device or dtype.
    """

    concurrency = 1

    def __init__(
        self,
        path: str,
        model_class: str = "AutoModelForImageTextToText",
        processor_class: str = "AutoProcessor",
        device: str = "cuda",
        dtype: str = "bfloat16",
        max_new_tokens: int = 200,
        as_video: bool = False,
    ) -> None:
        self._path = Path(path).expanduser()
        if not (self._path / "config.json").is_file():
            raise IdanimError(f"{self._path}: no config.json; give the folder of a model, nothing is downloaded")
        self._model_class, self._processor_class = _class_of(model_class), _class_of(processor_class)
        self._dtype = getattr(torch, dtype, None)
        if not isinstance(self._dtype, torch.dtype):
            raise IdanimError(f"dtype={dtype}: expected the name of a torch dtype, such as bfloat16 or float32")
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise IdanimError(f"device={device}: there is no CUDA device here; device=cpu is slow but works")
        self._settings = [self._path.name, model_class, dtype, max_new_tokens, as_video]
        self._max_new_tokens, self._as_video = max_new_tokens, as_video
        self._turn = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """The folder's name, its config.json and the settings."""
        config = (self._path / "config.json").read_text(encoding="utf-8")
        return json.dumps(["transformers", config, *self._settings])

    @cached_property
    def _loaded(self) -> _Loaded:
        try:
            processor = self._processor_class.from_pretrained(self._path, local_files_only=True)
            model = self._model_class.from_pretrained(self._path, dtype=self._dtype, local_files_only=True)
        except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
            reason = str(error).strip() or type(error).__name__
            raise IdanimError(f"{self._path}: can't be loaded: {reason}") from error
        return _Loaded(model.to(self._device).eval(), processor)

    def answer(self, prompt: str, pictures: tuple[UInt8Array, ...]) -> Answer:
        """Ask the model; see `CaptionModel.answer`."""
        with self._turn:
            loaded = self._loaded
            try:
                return self._generate(loaded, prompt, pictures)
            except torch.OutOfMemoryError as error:
                raise IdanimError(
                    f"{self._path.name}: not enough memory for one question; lower captions.num_frames or "
                    "captions.max_px. Captions so far are kept"
                ) from error
            except (RuntimeError, ValueError, IndexError) as error:  # of this question; the next may go well
                raise NoAnswerError("failed", f"{self._path.name}: {type(error).__name__}: {error}") from error

    @torch.inference_mode()
    def _generate(self, loaded: _Loaded, prompt: str, pictures: tuple[UInt8Array, ...]) -> Answer:
        model, processor = loaded
        messages = [{"role": "user", "content": [*self._shown(pictures), {"type": "text", "text": prompt}]}]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._device, self._dtype)
        output = model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        text: str = processor.tokenizer.decode(new, skip_special_tokens=True)
        return Answer(text, len(new) >= self._max_new_tokens)

    def _shown(self, pictures: tuple[UInt8Array, ...]) -> list[dict[str, Any]]:
        images = [Image.fromarray(rgb) for rgb in pictures]
        if self._as_video and len(images) > 1:
            return [{"type": "video", "video": images}]
        return [{"type": "image", "image": image} for image in images]


def _class_of(name: str) -> Any:
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError as error:
        raise IdanimError(f"{name}: transformers {transformers.__version__} has no such class") from error
