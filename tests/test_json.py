"""JSON that anybody may have written, read by a fast reader and, where that refuses, by Python's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from idanim.files import parse_json
from idanim.types import IdanimError


def test_every_number_is_the_same_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**63, 2000).view(np.float64)
    numbers = [float(x) for x in (*bits, *random.standard_normal(2000)) if np.isfinite(x)]
    whole = [0, -1, 2**53 + 1, -(2**63), 2**64 - 1]
    content = json.dumps([*numbers, *whole, -0.0, 5e-324])
    assert list(map(repr, parse_json(content, "x"))) == list(map(repr, json.loads(content)))


@pytest.mark.parametrize(
    "content",
    [b"[NaN]", b"[1e400]", b"\xef\xbb\xbf1", "[1]".encode("utf-16"), b'"\\ud800"', b'{"a": 1, "a": 2}', '"\u2028"'],
)
def test_what_python_reads_is_read(content: bytes | str) -> None:
    assert repr(parse_json(content, "x")) == repr(json.loads(content))


@pytest.mark.parametrize("content", [b"[1.0,]", b'"\xff"', b"[" * 5000 + b"]" * 5000, b"", b"[1" + b"0" * 5000 + b"]"])
def test_what_python_refuses_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(IdanimError, match="x: can't be read as JSON"):
        parse_json(content, "x")
