"""Which captions a clip gets, and what is asked for them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from drawn_people import NUM_FRAMES, SIZE_PX, make_sample

from idanim.captioning.answers import AnswerStore
from idanim.captioning.captioner import Captioner
from idanim.captioning.frames import ClipFrames, even_frames, median_frame
from idanim.captioning.model import Answer, NoAnswerError
from idanim.types import IdanimError

PROMPTS = {"attribute": "Looks?", "action": "Moves?", "unified": "Merge {action} into {attribute}."}


class Scripted:
    """Answers by prompt, and writes down what it was asked."""

    concurrency = 1
    fingerprint = "scripted"

    def __init__(self, **answers):
        self.answers = {"Looks?": "a man", "Moves?": "nods"} | answers
        self.asked = []

    def answer(self, prompt, pictures):
        self.asked.append((prompt, pictures))
        found = self.answers.get(prompt, "a man nods")
        if isinstance(found, Exception):
            raise found
        return Answer(found)


def captioner(tmp_path, model, kinds=("attribute", "action", "unified"), **changes):
    settings = {"template": "Somebody.", "num_frames": 3, "max_px": 512, "max_words": 30}
    return Captioner(
        models=dict.fromkeys(kinds, model),
        prompts=PROMPTS,
        answers=AnswerStore(tmp_path / "answers"),
        **settings | changes,
    )


def caption(own, **captions):
    sample = make_sample(1)
    states = dict.fromkeys(captions, "given") or {"unified": "template"}
    meta = replace(sample.meta, captions=captions or {"unified": "placeholder"}, caption_states=states)
    return own.caption(meta, lambda: sample.video)


def test_frames_of_a_clip():
    assert median_frame(1) == 0
    assert median_frame(16) == 7
    assert even_frames(16, 4) == [2, 6, 10, 14]
    assert even_frames(3, 8) == [0, 1, 2]
    assert even_frames(1, 1) == [0]
    frames = ClipFrames(make_sample(1).video, [1, 5, 5], 16)
    assert [rgb.shape for rgb in frames.pictures([5, 1])] == [(16, 16, 3)] * 2


def test_the_three_questions(tmp_path):
    model = Scripted()
    found = caption(captioner(tmp_path, model))
    assert found.texts == {"attribute": "a man", "action": "nods", "unified": "a man nods"}
    assert set(found.states.values()) == {"written"}
    (looks, median), (moves, whole), (merge, none) = model.asked
    assert (looks, moves, merge) == ("Looks?", "Moves?", "Merge nods into a man.")
    assert [len(median), len(whole), len(none)] == [1, 3, 0]
    sample = make_sample(1)
    expected = ClipFrames(sample.video, range(NUM_FRAMES), SIZE_PX).pictures(range(NUM_FRAMES))
    assert np.array_equal(median[0], expected[3])
    assert all(np.array_equal(a, expected[i]) for a, i in zip(whole, [1, 4, 6], strict=True))


def test_given_captions_are_kept_and_merged(tmp_path):
    model = Scripted()
    found = caption(captioner(tmp_path, model), attribute="a {action} woman", action="nods {attribute}")
    assert found.states == {"attribute": "given", "action": "given", "unified": "written"}
    assert [prompt for prompt, _ in model.asked] == ["Merge nods {attribute} into a {action} woman."]


def test_kinds_without_a_model(tmp_path):
    found = caption(captioner(tmp_path, Scripted(), kinds=("action",)))
    assert found.texts == {"action": "nods"}
    assert found.states == {"action": "written"}


def test_no_model_means_no_video_is_read(tmp_path):
    own = captioner(tmp_path, None, kinds=())
    meta = make_sample(1).meta
    assert own.caption(meta, lambda: pytest.fail("read")).texts == meta.captions
    assert caption(own).texts == {"unified": "Somebody."}
    assert caption(own).states == {"unified": "template"}


def test_failures_are_states_and_the_others_go_on(tmp_path):
    model = Scripted(**{"Looks?": "I'm sorry, I can't.", "Moves?": NoAnswerError("failed", "down")})
    found = caption(captioner(tmp_path, model))
    assert found.texts == {"unified": "Somebody."}
    assert found.states == {"attribute": "refused", "action": "failed", "unified": "no_source"}
    assert found.details["action"] == "down"
    model.answers["Moves?"] = "nods"
    again = caption(captioner(tmp_path, model))
    assert again.texts == {"action": "nods"}
    assert [prompt for prompt, _ in model.asked] == ["Looks?", "Moves?", "Moves?"]  # the refusal is not asked again


def test_an_answer_is_asked_for_once_and_what_it_depends_on_asks_again(tmp_path):
    model = Scripted()
    first = caption(captioner(tmp_path, model))
    model.answers = dict.fromkeys(model.answers, "something else")
    assert caption(captioner(tmp_path, model)) == first
    assert len(model.asked) == 3
    caption(captioner(tmp_path, model, num_frames=2))  # the action caption, and hence the merged one
    assert len(model.asked) == 5
    model.fingerprint = "another"
    caption(captioner(tmp_path, model))
    assert len(model.asked) == 8
    assert caption(captioner(tmp_path, model, max_words=1)).states["attribute"] == "too_long"
    assert len(model.asked) == 8


def test_damaged_kept_answers_are_asked_for_again(tmp_path):
    model = Scripted()
    caption(captioner(tmp_path, model))
    for path, content in zip(sorted((tmp_path / "answers").rglob("*.json")), ("", "[]", "{}"), strict=True):
        path.write_text(content)
    assert caption(captioner(tmp_path, model)).texts["unified"] == "a man nods"
    assert len(model.asked) == 6


def test_one_question_from_several_threads_is_asked_once(tmp_path):
    store = AnswerStore(tmp_path)
    barrier, asked = threading.Barrier(4), []

    def ask():
        asked.append(1)
        return Answer(f"answer {len(asked)}")

    def work(_):
        barrier.wait()
        return store.find_or_ask("ab" * 32, ask).text

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(4))) == {"answer 1"}
    assert asked == [1]
    assert json.loads((tmp_path / "ab" / f"{'ab' * 32}.json").read_text())["text"] == "answer 1"


def test_wrong_settings(tmp_path):
    with pytest.raises(IdanimError, match=r"captions\.text is empty"):
        captioner(tmp_path, Scripted(), template=" ")
    with pytest.raises(IdanimError, match="num_frames=0"):
        captioner(tmp_path, Scripted(), num_frames=0)
    with pytest.raises(IdanimError, match=r"\{attribute\} must stand in it"):
        replace(captioner(tmp_path, Scripted()), prompts=PROMPTS | {"unified": "Merge {action}"})
    with pytest.raises(IdanimError, match=r"captions\.prompts\.action"):
        replace(captioner(tmp_path, Scripted()), prompts=PROMPTS | {"action": ""})
