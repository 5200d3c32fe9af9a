"""Small damages to bytes and to JSON."""

from __future__ import annotations

import copy
import random
from typing import Any


def mutated_bytes(content: bytes, rng: random.Random, within: int) -> tuple[bytes, str]:
    """Some bytes flipped, left out, doubled or cut off, within the first so many; and what was done."""
    if not content:
        return b"x", "a byte more"
    at = rng.randrange(min(len(content), max(1, within)))
    kind = rng.choice(("flip", "flip", "cut", "gap", "double", "noise", "empty", "deep"))
    if kind == "flip":
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(min(len(content), max(1, within)))
            flipped[place] ^= 1 << rng.randrange(8)
        return bytes(flipped), f"bits flipped near {at}"
    length = rng.choice((1, 4, 64, 1000))
    if kind == "cut":
        return content[:at], f"cut at {at}"
    if kind == "gap":
        return content[:at] + content[at + length :], f"{length} bytes left out at {at}"
    if kind == "double":
        return content[:at] + content[at : at + length] * 2 + content[
            at + length :
        ], f"{length} bytes doubled at {at}"
    if kind == "noise":
        return content[:at] + rng.randbytes(length) + content[at + length :], f"{length} bytes of noise at {at}"
    if kind == "deep":
        return content[:at] + b"[" * 100_000 + content[at:], f"100000 lists begun at {at}"
    return b"", "empty"


def odd_value(rng: random.Random) -> Any:
    """A value that is seldom expected."""
    numbers = (0, -1, 1, 2, 3, 7, 1e9, 10**6, 10**12, 10**30, 0.5, -0.0, float("nan"), float("inf"), -float("inf"))
    texts = ("", "abc", "1", "é" * 3, "x" * 10_000, "\x00", "../../etc", "\ud800", "<|im_end|>")
    deep: Any = []
    for _ in range(rng.choice((1, 20, 100))):
        deep = [deep]
    others = (None, True, False, [], {}, [None], [1, 2, 3], ["a"], {"a": 1}, {"type": "text"}, deep)
    return rng.choice((rng.choice(numbers), rng.choice(texts), rng.choice(others)))


def mutated_json(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy with one value replaced, left out or put elsewhere; and what was done."""
    content = copy.deepcopy(content)
    places = []

    def walk(value: Any, path: str) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(items)[:200]:
            places.append((value, key, f"{path}.{key}"))
            walk(inner, f"{path}.{key}")

    walk(content, "")
    if not places or rng.random() < 0.02:
        return (new := odd_value(rng)), f"is {str(new)[:40]}"
    shallow = [place for place in places if place[2].count(".") <= 2]
    parent, key, path = rng.choice(shallow if rng.random() < 0.7 and shallow else places)
    if rng.random() < 0.2:
        del parent[key]
        return content, f"without {path}"
    old = parent[key]
    if type(old) in (int, float) and rng.random() < 0.4:
        parent[key] = rng.choice((old + 1, old - 1, old * 2, -old, str(old), [old], old * 10**6))
    else:
        parent[key] = odd_value(rng)
    return content, f"{path} is {str(parent[key])[:40]}"
