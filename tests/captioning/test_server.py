"""The client of a captioning server, against a real HTTP server that misbehaves."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from caption_server import Reply, completion, pictures_of, prompt_of, serve

from idanim.captioning.model import NoAnswerError
from idanim.captioning.server import ServerModel
from idanim.types import IdanimError

FRAME = np.zeros((16, 16, 3), np.uint8)


def model(url, **settings):
    return ServerModel(url, "tiny", **{"max_retries": 0, "timeout_s": 10.0} | settings)


def state_of(model, prompt="Say."):
    with pytest.raises(NoAnswerError) as caught:
        model.answer(prompt, ())
    return caught.value.state, str(caught.value)


def test_a_question_as_it_is_sent():
    with serve(lambda number, body: completion("A man.")) as server:
        answer = model(server.url, options={"temperature": 0, "max_tokens": 9}).answer("Who?", (FRAME, FRAME))
    assert (answer.text, answer.cut_off) == ("A man.", False)
    (request,) = server.requests
    assert request["model"] == "tiny"
    assert (request["temperature"], request["max_tokens"]) == (0, 9)
    assert prompt_of(request) == "Who?"
    assert len(pictures_of(request)) == 2
    assert all(url.startswith("data:image/jpeg;base64,/9j/") for url in pictures_of(request))


def test_an_answer_that_was_stopped():
    with serve(lambda number, body: completion("A man who", "length")) as server:
        assert model(server.url).answer("Who?", ()).cut_off


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (Reply("<!DOCTYPE html><html>log in</html>", headers={"Content-Type": "text/html"}), "html"),
        (Reply("\n <html>", headers={"Content-Type": "application/json"}), "html"),
        (Reply("nonsense"), "not_an_answer"),
        (Reply(""), "not_an_answer"),
        (Reply(b"\xff\xfe\x00{"), "not_an_answer"),
        (Reply("[" * 100_000), "not_an_answer"),
        (Reply("{}"), "not_an_answer"),
        (Reply('{"choices": []}'), "not_an_answer"),
        (Reply('{"choices": null}'), "not_an_answer"),
        (Reply('{"choices": [{"message": null}]}'), "not_an_answer"),
        (Reply('{"choices": [{"message": {"content": 5}}]}'), "not_an_answer"),
        (Reply('{"choices": [{"message": {"content": "A"}}], "usage": 5}'), "not_an_answer"),
        (Reply('{"error": {"message": "too many images"}}', 400), "failed"),
        (Reply("<html>Bad Gateway</html>", 502), "failed"),
    ],
)
def test_replies_that_are_none(reply, state):
    with serve(lambda number, body: reply) as server:
        found, text = state_of(model(server.url))
    assert found == state
    assert len(text) < 300


def test_empty_content_is_an_empty_answer():
    with serve(lambda number, body: completion(None)) as server:
        assert model(server.url).answer("Who?", ()).text == ""


def test_rate_limiting_waits_as_long_as_the_server_says():
    busy = Reply("{}", 429, {"Retry-After": "1"})
    with serve(lambda number, body: busy if number < 2 else completion("A man.")) as server:
        assert model(server.url, max_retries=2).answer("Who?", ()).text == "A man."
    waits = np.diff(server.times)
    assert len(waits) == 2
    assert all(waits > 0.95)


def test_errors_of_the_server_are_tried_again_and_then_told():
    with serve(lambda number, body: Reply("{}", 503) if number == 0 else completion("A man.")) as server:
        assert model(server.url, max_retries=1).answer("Who?", ()).text == "A man."
    with serve(lambda number, body: Reply("busy", 429)) as server:
        found, text = state_of(model(server.url, max_retries=1))
    assert found == "failed"
    assert "429" in text
    assert len(server.requests) == 2


def test_a_slow_server_is_given_up():
    with serve(lambda number, body: Reply("{}", wait_s=1.5)) as server:
        start = time.monotonic()
        found, text = state_of(model(server.url, timeout_s=0.3))
        assert time.monotonic() - start < 1.4
    assert found == "failed"
    assert "timed out" in text


def test_no_server_at_all_and_then_no_more_questions():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    absent = model(url, give_up_after=2)
    assert state_of(absent)[0] == "failed"
    assert "Connection refused" in state_of(absent)[1]
    assert "not asked" in state_of(absent)[1]


def test_a_success_resets_the_failures_in_a_row():
    with serve(lambda number, body: Reply("", 500) if number % 2 == 0 else completion("A man.")) as server:
        flaky = model(server.url, give_up_after=2)
        for _ in range(4):
            assert "500" in state_of(flaky)[1]
            assert flaky.answer("Who?", ()).text == "A man."


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_settings_end_the_run_in_words(status):
    told = pytest.raises(IdanimError, match=rf"replied {status}.*captions\.model\.base_url")
    with serve(lambda number, body: Reply('{"error": "no"}', status)) as server, told:
        model(server.url, max_retries=3).answer("Who?", ())
    assert len(server.requests) == 1


def test_budgets():
    with serve(lambda number, body: completion("A man.", tokens=40)) as server:
        few = model(server.url, budget_requests=2)
        assert [few.answer("Who?", ()).text for _ in range(2)] == ["A man."] * 2
        assert state_of(few) == ("over_budget", "2 of 2 requests are spent")
        cheap = model(server.url, budget_tokens=60)
        assert [cheap.answer("Who?", ()).text for _ in range(2)] == ["A man."] * 2
        assert state_of(cheap) == ("over_budget", "80 of 60 tokens are spent")
    assert len(server.requests) == 4


def test_at_most_so_many_requests_at_once():
    with serve(lambda number, body: Reply(completion("A man.").body, wait_s=0.1)) as server:
        shared = model(server.url, concurrency=2)
        with ThreadPoolExecutor(6) as pool:
            assert len(list(pool.map(lambda _: shared.answer("Who?", ()), range(6)))) == 6
    assert server.most_at_once == 2


def test_settings_that_can_not_be(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(IdanimError, match="SOME_KEY: this environment variable is not set"):
        model("http://localhost/v1", api_key_env="SOME_KEY")
    with pytest.raises(IdanimError, match="base_url='localhost'"):
        model("localhost")
    with pytest.raises(IdanimError, match="concurrency=0"):
        model("http://localhost/v1", concurrency=0)


def test_the_key_is_sent_and_is_no_part_of_the_fingerprint(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with_key = model("http://localhost/v1", api_key_env="SOME_KEY")
    assert with_key._client.api_key == "secret"
    assert with_key.fingerprint == model("http://elsewhere/v1").fingerprint
    assert with_key.fingerprint != model("http://elsewhere/v1", options={"seed": 1}).fingerprint
