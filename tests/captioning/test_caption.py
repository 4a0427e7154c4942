"""What becomes of an answer."""

import pytest

from idanim.captioning.caption import Caption, ClipCaptions, judge


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("A woman with red hair smiles.", "written"),
        ("A man says sorry and apologizes to the camera.", "written"),
        ("I see a man who cannot stop laughing.", "written"),
        ("Une femme rit. 一个人在笑", "written"),
        ("", "empty"),
        (" \n\t ", "empty"),
        ("…!?", "empty"),
        ("<think>The user wants", "empty"),
        ("I'm sorry, I can't help with identifying people.", "refused"),
        ("I’m sorry, but I can’t assist with that.", "refused"),
        ("Sorry, I cannot describe this.", "refused"),
        ("I cannot identify the person.", "refused"),
        ("I am unable to see pictures.", "refused"),
        ("As an AI language model, I don't have eyes.", "refused"),
        ("Unfortunately, I can't view videos.", "refused"),
        ("<!DOCTYPE html><html><body>502 Bad Gateway</body></html>", "html"),
        ("Here you are: <p>A man</p>", "html"),
        ("the " * 60, "repeats"),
        ("one " + " ".join(f"word{i}" for i in range(30)), "too_long"),
    ],
)
def test_every_answer_has_its_state(answer, state):
    caption = judge(answer, max_words=30)
    assert caption.state == state
    assert bool(caption.text) == (state == "written")
    assert bool(caption.detail) == (state != "written")


def test_a_broken_off_answer_is_too_long():
    assert judge("A man who", 30, cut_off=True).state == "too_long"


def test_what_is_taken_away():
    assert judge("<think>hm, hair?</think>\n“A man\nwith \x00a  hat.”", 30).text == "A man with a hat."
    assert judge("A \ud800man", 30).text == "A man"  # half a character, which no file takes
    assert judge('A man says "hello"', 30).text == 'A man says "hello"'


def test_the_template_stands_only_where_there_is_no_text():
    failed = Caption("failed", detail="down")
    one = ClipCaptions.of({"attribute": Caption("written", "A man"), "unified": failed}, "Somebody")
    assert one.texts == {"attribute": "A man"}
    assert one.states == {"attribute": "written", "unified": "failed"}
    none = ClipCaptions.of({"attribute": failed, "unified": failed}, "Somebody")
    assert none.texts == {"unified": "Somebody"}
    assert none.states == {"attribute": "failed", "unified": "failed"}
    assert none.details == {"attribute": "down", "unified": "down"}
    assert ClipCaptions.of({}, "Somebody").states == {"unified": "template"}
