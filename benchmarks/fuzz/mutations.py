"""What is done to files: bytes for those of machines, words for those of people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

NASTY = (
    *("NaN", "-Infinity", "1e999", "-1", "0", "null", "true", "[]", "{}", '""', '"\\u0000"', "9" * 400, "1e-320"),
    *("[" * 3000, "a: &a [*a]", "\ufeff", ",", "\r", "\x00", "\t", "!!python/object:x", "99999999999999999999"),
)
ODD = (None, True, 0, -1, 1e308, 10**400, math.nan, math.inf, -math.inf, "", "1", "a\0b", "x" * 5000, [], {}, [[]])
WORDS = re.compile(r"[^\s,:\[\]{}]+|[,:\[\]{}\n]")


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of a file changed, moved or gone."""
    ways: tuple[Callable[[bytearray, int, np.random.Generator], bytearray], ...] = (
        _flip,
        _flip,
        _cut,
        _zero,
        _repeat,
        _integer,
        _remove,
    )
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if found:
            found = ways[rng.integers(len(ways))](found, int(rng.integers(len(found))), rng)
    return bytes(found)


def misspelt(text: str, rng: np.random.Generator) -> bytes:
    """Some words of a text replaced, doubled or gone; in the end its bytes may be those of no text."""
    words = list(WORDS.finditer(text))
    for match in sorted(rng.choice(words, min(len(words), int(rng.integers(1, 4))), False), key=lambda m: -m.start()):
        new = (NASTY[rng.integers(len(NASTY))], "", match.group() * 2)[rng.integers(3)]
        text = text[: match.start()] + new + text[match.end() :]
    data = text.encode("latin-1" if rng.random() < 0.05 else "utf-8", errors="replace")
    if rng.random() < 0.1:
        data = data[: int(rng.integers(len(data) + 1))]
    return damaged(data, rng) if rng.random() < 0.1 else data


def odd(value: Any, rng: np.random.Generator) -> Any:
    """JSON with the same form and one odd value somewhere in it."""
    inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not len(inner) or rng.random() < 0.15:
        return (*ODD, [value], {"a": value})[rng.integers(len(ODD) + 2)]
    key = inner[rng.integers(len(inner))]
    changed = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.1:
        del changed[key]
    else:
        changed[key] = odd(value[key], rng)
    return changed


def _flip(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    data[at] ^= 1 << int(rng.integers(8))
    return data


def _cut(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    return data[:at]


def _zero(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    length = int(rng.integers(1, 64))
    data[at : at + length] = bytes(len(data[at : at + length]))
    return data


def _repeat(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    return data[:at] + data[max(0, at - int(rng.integers(1, 512))) :]


def _integer(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    size = int(rng.choice([1, 2, 4, 8]))
    value = (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), int(rng.integers(2**63)) % 2 ** (8 * size))
    data[at : at + size] = value[rng.integers(len(value))].to_bytes(size, "little")
    return data


def _remove(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    del data[at : at + int(rng.integers(1, 128))]
    return data
