"""A model behind any OpenAI-compatible server: vLLM, ollama, llama.cpp, or a service."""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from idanim.captioning.model import Answer, NoAnswerError
from idanim.pictures import encode_jpeg
from idanim.types import IdanimError, UInt8Array

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

_SETTINGS_ARE_WRONG = (401, 403, 404)  # key, permission, address or model: the next question would fail as well


class ServerModel:
    """Sends questions to `<base_url>/chat/completions`.

    Connection errors, time-outs, 408, 409, 429 and 5xx are tried again with growing pauses, or after the pause that the
    server asks for (up to two minutes); then the question counts as failed.

    Args:
        base_url: of the server, usually ending in /v1.
        model: as the server calls it.
        api_key_env: environment variable that holds the key; None sends none.
        options: more fields of each request, such as temperature and max_tokens.
        concurrency: requests at once.
        timeout_s: of waiting for a reply, or for its next part.
        max_retries: of one question.
        give_up_after: so many failed questions in a row, and no more are asked.
        budget_requests: questions of this run at most, with the retries of those that were answered.
        budget_tokens: tokens of this run, as the server counts them, after which no more questions are asked; those
            under way end.

    Raises:
        IdanimError: a setting that can't be, the variable of the key is not set, or the openai package is missing.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        options: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        max_retries: int = 5,
        give_up_after: int = 10,
        budget_requests: int | None = None,
        budget_tokens: int | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise IdanimError(f"captions.model.base_url={base_url!r}: expected http://… or https://…")
        if concurrency < 1 or timeout_s <= 0 or max_retries < 0 or give_up_after < 1:
            raise IdanimError(
                f"captions.model: concurrency={concurrency} timeout_s={timeout_s} max_retries={max_retries} "
                f"give_up_after={give_up_after}: wanted ≥ 1, > 0, ≥ 0, ≥ 1"
            )
        self.base_url, self.model, self.concurrency = base_url, model, concurrency
        self._key = _read_key(api_key_env)
        self._options = dict(options or {})
        self._timeout_s, self._max_retries, self._give_up_after = timeout_s, max_retries, give_up_after
        self._budget_requests, self._budget_tokens = budget_requests, budget_tokens
        self._slots = threading.BoundedSemaphore(concurrency)
        self._guard = threading.Lock()
        self._requests = self._tokens = self._failures_in_a_row = 0
        _ = self._client  # a missing package is told before the work begins

    @property
    def fingerprint(self) -> str:
        """Model and options; where the server stands does not matter."""
        return json.dumps(["server", self.model, self._options], sort_keys=True)

    @cached_property
    def _client(self) -> OpenAI:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise IdanimError("captions by a server need the openai package: pip install 'idanim[captions]'") from error
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # else it has a line on every request
        return OpenAI(base_url=self.base_url, api_key=self._key, timeout=self._timeout_s, max_retries=self._max_retries)

    def answer(self, prompt: str, pictures: tuple[UInt8Array, ...]) -> Answer:
        """Ask the server; see `CaptionModel.answer`."""
        content: list[dict[str, Any]] = [_as_data_url(rgb) for rgb in pictures]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}] if content else prompt}]
        with self._slots:
            self._check_budget()
            try:
                reply = self._send(messages)
            except NoAnswerError:
                self._count(failed=True)
                raise
            self._count(failed=False)
            return reply

    def _check_budget(self) -> None:
        with self._guard:
            if self._failures_in_a_row >= self._give_up_after:
                text = f"not asked: {self.base_url} failed {self._failures_in_a_row} times in a row"
                raise NoAnswerError("failed", text)
            if self._budget_requests is not None and self._requests >= self._budget_requests:
                raise NoAnswerError("over_budget", f"{self._requests} of {self._budget_requests} requests are spent")
            if self._budget_tokens is not None and self._tokens >= self._budget_tokens:
                raise NoAnswerError("over_budget", f"{self._tokens} of {self._budget_tokens} tokens are spent")
            self._requests += 1

    def _count(self, failed: bool) -> None:
        with self._guard:
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0

    def _send(self, messages: list[dict[str, Any]]) -> Answer:
        import openai

        try:
            # The raw reply: what is no chat completion, a web page for instance, is told apart below.
            raw = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=cast("list[ChatCompletionMessageParam]", messages),
                extra_body=self._options,
            )
        except openai.APIStatusError as error:
            text = f"{self.base_url} replied {error.status_code}: {_short(error.response.text)}"
            if error.status_code in _SETTINGS_ARE_WRONG:
                raise IdanimError(
                    f"{text}. Look at captions.model.base_url, .model and .api_key_env; finished videos and captions "
                    "are kept"
                ) from error
            raise NoAnswerError("failed", text) from error
        except openai.APIError as error:  # no connection, or none in time
            raise NoAnswerError("failed", f"{self.base_url}: {error.__cause__ or error}") from error
        with self._guard:
            self._requests += raw.retries_taken
        body = raw.http_response.text
        answer, tokens = _read_reply(body)
        with self._guard:
            self._tokens += tokens
        return answer


def _read_key(variable: str | None) -> str:
    if variable is None:
        return "none"  # the client wants some key; servers of one's own take any
    key = os.environ.get(variable, "").strip()
    if not key:
        raise IdanimError(f"captions.model.api_key_env={variable}: this environment variable is not set")
    return key


def _as_data_url(rgb: UInt8Array) -> dict[str, Any]:
    text = base64.b64encode(encode_jpeg(rgb)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{text}"}}


def _read_reply(body: str) -> tuple[Answer, int]:
    """The answer in the body of a reply, and the tokens that it cost.

    Raises:
        NoAnswerError: "html" or "not_an_answer".
    """
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text = choice["message"]["content"] or choice["message"].get("refusal") or ""
        if not isinstance(text, str):
            raise TypeError("its content is no text")
        usage = content.get("usage") or {}
        return Answer(text, choice.get("finish_reason") == "length"), int(usage.get("total_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        state = "html" if body.lstrip()[:1] == "<" else "not_an_answer"
        raise NoAnswerError(state, f"the reply is no chat completion: {_short(body)}") from error


def _short(text: str) -> str:
    return " ".join(text[:400].split())[:120] or "(nothing)"
