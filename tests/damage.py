"""Damage done to files, each kind drawn from a seed."""

from collections.abc import Callable

import numpy as np

Bytes = bytes
Damage = Callable[[Bytes, np.random.Generator], Bytes]


def flip_bits(data, rng):
    """A few bytes anywhere."""
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 40)):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def break_header(data, rng):
    """Bytes among the first 2 kB: sizes, counts, rates."""
    damaged = bytearray(data)
    for place in rng.integers(0, min(len(data), 2048), rng.integers(1, 12)):
        damaged[place] = int(rng.integers(0, 256))
    return bytes(damaged)


def blank_middle(data, rng):
    """Zeros over a stretch in the middle."""
    start, length = int(len(data) * rng.uniform(0.2, 0.7)), int(len(data) * rng.uniform(0.01, 0.3))
    return data[:start] + bytes(length) + data[start + length :]


def noise_middle(data, rng):
    """Noise over a stretch in the middle."""
    start, length = int(len(data) * rng.uniform(0.2, 0.7)), int(len(data) * rng.uniform(0.01, 0.3))
    return data[:start] + rng.bytes(length) + data[start + length :]


def cut_off(data, rng):
    """The end is missing."""
    return data[: int(len(data) * rng.uniform(0, 1))]


def cut_out(data, rng):
    """A stretch is missing."""
    start = int(len(data) * rng.uniform(0, 0.9))
    return data[:start] + data[start + int(rng.integers(1, 5000)) :]


def swap(data, rng):
    """Two halves in the wrong order."""
    middle = int(rng.integers(1, len(data)))
    return data[middle:] + data[:middle]


def append(data, rng):
    """Something else behind the end."""
    return data + rng.bytes(int(rng.integers(1, 5000)))


KINDS: tuple[Damage, ...] = (flip_bits, break_header, blank_middle, noise_middle, cut_off, cut_out, swap, append)
