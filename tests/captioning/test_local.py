"""Models of transformers' real classes, tiny and random: what they say is nonsense, how they are asked is not."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_vlms
import torch

from idanim.captioning.local import TransformersModel
from idanim.captioning.model import NoAnswerError
from idanim.types import IdanimError

BUILDERS = {
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "AutoModelForImageTextToText",
    "qwen2_5_vl": "AutoModelForImageTextToText",
    "qwen3_vl": "AutoModelForImageTextToText",
    "video_llava": "VideoLlavaForConditionalGeneration",
}
FRAMES = tuple(np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8))


def load(folder, name, **settings):
    torch.manual_seed(0)
    model, processor = getattr(tiny_vlms, name)()
    tiny_vlms.save(model, folder)
    own = TransformersModel(
        str(folder), BUILDERS[name], **{"device": "cpu", "dtype": "float32", "max_new_tokens": 6} | settings
    )
    if name == "llava_next":
        processor.save_pretrained(folder)
    else:  # its processor can't be read from a folder without torchvision, but be built from parts
        own._processor_class = SimpleNamespace(from_pretrained=lambda *_, **__: processor)
    return own


@pytest.mark.parametrize("name", BUILDERS)
def test_real_classes_answer_about_frames_and_about_text(tmp_path, name):
    own = load(tmp_path, name, as_video=name == "video_llava")
    one = own.answer("describe the person", FRAMES[:1])
    many = own.answer("describe the person", FRAMES)
    text = own.answer("describe the person", ())
    assert all(answer.cut_off for answer in (one, many, text))  # it can't stop
    assert set(one.text.split()) <= set(tiny_vlms.WORDS)
    assert own.answer("describe the person", FRAMES) == many
    seen = []
    own._loaded.model.register_forward_hook(lambda _model, _inputs, output: seen.append(output))
    for pictures in (FRAMES, FRAMES[::-1], FRAMES[:1]):
        own.answer("describe the person", pictures)
    first = [seen[i].logits[0, -1] for i in (0, 6, 12)]
    assert not torch.allclose(first[0], first[1])  # order matters, so every frame is looked at
    assert not torch.allclose(first[0], first[2])


def test_a_failing_question_is_named_and_the_next_one_goes_well(tmp_path):
    own = load(tmp_path, "llava_next")
    with pytest.raises(NoAnswerError, match="Error") as caught:
        own.answer("<image>", ())  # a placeholder without a picture
    assert caught.value.state == "failed"
    assert own.answer("describe", ()).cut_off


def test_what_the_fingerprint_depends_on(tmp_path):
    own = load(tmp_path, "llava_next")
    again = TransformersModel(str(tmp_path), device="cpu", max_new_tokens=7, dtype="float32")
    assert own.fingerprint != again.fingerprint


def test_wrong_settings_are_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(IdanimError, match=r"no config\.json"):
        TransformersModel(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(IdanimError, match="no such class"):
        TransformersModel(str(tmp_path), model_class="Nonsense", device="cpu")
    with pytest.raises(IdanimError, match="dtype=nonsense"):
        TransformersModel(str(tmp_path), dtype="nonsense", device="cpu")
    with pytest.raises(IdanimError, match="can't be loaded"):
        TransformersModel(str(tmp_path), device="cpu").answer("describe", ())
