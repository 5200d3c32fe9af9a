"""A small tokenizer cut out of Qwen3's: it splits given texts in exactly the same way.

All single bytes, the added tokens, and of the merges only those by which byte pair encoding gets to a token that the
texts use. Other texts still encode, into more and shorter tokens.

python -m vlm3_ros.learn.tokenizer QWEN3/tokenizer.json OUT/tokenizer.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data.objects import about_regions
from vlm3_ros.learn.data.sample import Region
from vlm3_ros.tasks import depth, grounding, matching, pose
from vlm3_ros.tasks.pose import PoseAnswer


def trim(full: dict[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """The content of a tokenizer.json for ``texts``, from that of a byte-level BPE tokenizer."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_str(json.dumps(full)).encode
    added = {token["content"] for token in full["added_tokens"]}
    used = {token for text in texts for token in encode(text, add_special_tokens=False).tokens} - added
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in full["model"]["merges"]]
    rank = {merge: i for i, merge in enumerate(merges)}
    kept = sorted({merge for token in used for merge in _way_to(token, rank)}, key=rank.__getitem__)
    vocabulary = full["model"]["vocab"]
    tokens = [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if len(token) == 1]
    tokens += list(dict.fromkeys(a + b for a, b in kept))
    model = {**full["model"], "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [list(m) for m in kept]}
    numbered = [{**token, "id": len(tokens) + i} for i, token in enumerate(full["added_tokens"])]
    return {**full, "model": model, "added_tokens": numbered}


def _way_to(token: str, rank: dict[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """The merges by which byte pair encoding puts a token together, in order."""
    parts = list(token)
    while len(parts) > 1:
        merge = min(pairwise(parts), key=lambda pair: rank.get(pair, len(rank)))
        yield merge
        i = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == merge)
        parts[i : i + 2] = ["".join(merge)]


def protocol_texts(labels: Iterable[str]) -> Iterator[str]:
    """Questions and answers of every kind, with every name in ``labels``; numbers are digits in all of them."""
    yield "user\nassistant\nsystem\n"
    yield depth.PROMPT
    yield depth.answer(12.34)
    yield matching.PROMPT + matching.THINK
    yield matching.answer(12, 345)
    for way in (-1.0, 1.0):
        answer = PoseAnswer(89.7, (way, -way, way), (way, way, way), 1.98)
        yield from pose.answers(answer)
    yield from (question.text for question in pose.QUESTIONS)
    for label in labels:
        yield grounding.question(label).text
        yield grounding.answer([grounding.Box2D(label, 1, 2, 345, 678)] * 2)
    yield grounding.answer([])
    rng = np.random.default_rng(0)
    for sign in (-1.0, 1.0):
        near = Box3D("", 1.0, np.array([sign, sign, 3.0]), np.array([1.0, 2.0, 3.0]), np.eye(3)[:, [2, 0, 1]])
        far = Box3D("", 1.0, np.array([-sign, -sign, 6.0]), np.array([0.5, 0.5, 0.5]), near.rotation)
        regions = [Region("", (0, 0, 9, 9), 1.0, near), Region("", (10, 10, 90, 90), 1.0, far)]
        for exchange in about_regions(regions, (100, 100), 1.0, 1000, rng):
            yield exchange.question
            yield exchange.answer


LABELS = ("sofa", "bed", "cabinet", "bookshelf", "table", "chair", "stool", "plant", "lamp", "ball", "box", "bin")
MORE = ("vase", "television", "person", "door", "window", "picture")


def main() -> None:
    full = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    small = trim(full, protocol_texts((*LABELS, *MORE)))
    Path(sys.argv[2]).write_text(json.dumps(small, ensure_ascii=False), encoding="utf-8")
    print(f"{len(small['model']['vocab']) + len(small['added_tokens'])} tokens")


if __name__ == "__main__":
    main()
