"""What is installed: exact versions, and the hashes of their files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_LOCKED = {"torch", "ray", "msgpack"}
"""Several builds of one version; an extra that `make setup` leaves out, and what it needs."""


def pinned(file: str) -> dict[str, str]:
    """Package → version."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_every_constraint_is_exact() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)


def test_the_lock_is_that_of_the_constraints() -> None:
    constraints, lock = pinned("constraints.txt"), pinned("requirements.lock")
    assert constraints.keys() - lock.keys() == NOT_LOCKED, "make lock"
    assert {name: lock[name] for name in constraints.keys() & lock.keys()} == {
        name: version for name, version in constraints.items() if name in lock
    }, "make lock"


def test_every_locked_file_has_a_hash_and_no_build_of_torch_is_among_them() -> None:
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text().split("\n", 2)[2])
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert not [name for name in pinned("requirements.lock") if re.match(r"torch$|triton|cuda|nvidia", name)]
