"""A sample as the tensors of one training step: what is fed, and which tokens of answers are learned how well.

Shapes: R questions (rows) of at most L tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.vlm.loading import Checkpoint
from vlm3_ros.vlm.prompt import common_length

Abridged = Mapping[str, tuple[int, int]]  # by task: tokens at the start and at the end of answers that are kept
IGNORED = -100  # label of a token that is not learned, as in transformers


@dataclass(frozen=True, eq=False)
class Rows:
    """Questions of one task with their answers, padded behind their ends."""

    task: str
    exchanges: list[Exchange]
    tokens: Tensor  # [R, L]
    depth: Tensor  # [R, L] positions behind the prefix; those that are left out leave gaps
    labels: Tensor  # [R, L] the token that follows each, IGNORED where it is not learned
    digits: Tensor  # [R, L] which digit of a number that token is, see _digits
    asked: Tensor  # [R] the last token of a question that is its own: what is asked is known there
    named: list[tuple[int, int]]  # (row, token) where a name or region in a question ends, all in their order


@dataclass(frozen=True, eq=False)
class Lesson:
    """A sample as tensors."""

    pixels: Tensor
    grids: Tensor  # [pictures, 3]
    sizes: list[tuple[int, int]]  # (rows, columns) of tokens of each picture
    groups: list[tuple[list[int], Rows]]  # the text its questions begin with, and the rest


def lesson(sample: Sample, checkpoint: Checkpoint, abridged: Abridged | None = None) -> Lesson:
    """Tokens, patches and labels of a sample; only answers are learned.

    To save time early in training, lessons can be ``abridged``: what all questions of a task say between their own
    part and the answer is not fed, and of answers to the tasks in there only so many tokens at the start and at the
    end. The others keep their positions.
    """
    pixels, grids, sizes = checkpoint.pixels(list(sample.pictures))
    groups = []
    for task, exchanges in groupby(sample.exchanges, key=lambda exchange: exchange.task):
        groups.append(_rows(task, list(exchanges), checkpoint, abridged))
    return Lesson(pixels, grids, sizes, groups)


def _rows(
    task: str, exchanges: list[Exchange], checkpoint: Checkpoint, abridged: Abridged | None
) -> tuple[list[int], Rows]:
    exchanges = [replace(exchange, question=checkpoint.chat.worded(exchange.question)) for exchange in exchanges]
    prompts = checkpoint.chat.questions([exchange.question for exchange in exchanges])
    texts = [exchange.answer for exchange in exchanges]
    encoded = checkpoint.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    named = _named(exchanges, checkpoint)
    head, tail = _shared(prompts)
    head = min([head, *(token for _, token in named)])  # what is named is each question's own, even if all name it
    built = []
    for prompt, text, tokens, spans in zip(
        prompts, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        answer = [*tokens, checkpoint.end_tokens[0]]
        row = _row(prompt[head:], answer, [*_digits(text, spans), 0])
        if abridged is not None:
            row = _abridged(row, tail, len(prompt) - head, abridged.get(task, (len(answer), 0)))
        built.append(row)
    asked = [len(prompt) - head - tail - 1 for prompt in prompts]
    rows = Rows(
        task=task,
        exchanges=exchanges,
        tokens=_padded([row.tokens for row in built], 0),
        depth=_padded([row.depth for row in built], 0),
        labels=_padded([row.labels for row in built], IGNORED),
        digits=_padded([row.digits for row in built], 0),
        asked=torch.tensor(asked),
        named=[(row, min(token - head, asked[row])) for row, token in named],
    )
    return prompts[0][:head], rows


class _Row(NamedTuple):
    """One of the Rows, its fields as there."""

    tokens: list[int]
    depth: list[int]
    labels: list[int]
    digits: list[int]


def _row(question: list[int], answer: list[int], digits: list[int]) -> _Row:
    """``digits`` of the answer's tokens."""
    tokens = [*question, *answer[:-1]]
    before = len(question) - 1
    return _Row(tokens, list(range(len(tokens))), [IGNORED] * before + answer, [0] * before + digits)


def _abridged(row: _Row, tail: int, length: int, kept: tuple[int, int]) -> _Row:
    """Without the ``tail`` of a question of so many tokens, its last one apart, and with so much of the answer
    ``kept`` at its start and end."""
    start, (first, last) = length - 1, kept
    cut = range(start + first, max(start + first, len(row.tokens) - last))
    at = [*range(length - tail), *(i for i in range(start, len(row.tokens)) if i not in cut)]
    return _Row(*([values[i] for i in at] for values in row))


def _padded(sequences: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, sequences))
    return torch.tensor([row + [value] * (longest - len(row)) for row in sequences])


def _named(exchanges: Sequence[Exchange], checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """(row, token of the question) where what it names ends, for all that it names."""
    texts = [exchange.question for exchange in exchanges]
    offsets = checkpoint.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        (row, bisect_left([end for _, end in offsets[row]], at))
        for row, exchange in enumerate(exchanges)
        for at in reading.named(exchange)
    ]


def _digits(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """For each token of an answer which digit of a number it is, counted from the first that is not 0; those before
    it, the sign and the first token of the answer, often all that it says, count as the first.

    0 for what is no digit, or in a region that is only repeated from the question.
    """
    repeated = [span.span() for span in reading.REGION.finditer(text)]
    places, count = [], 0
    for number, (start, end) in enumerate(spans):
        token, is_repeated = text[start:end], any(first <= start < last for first, last in repeated)
        is_digit = token.isdigit() and not is_repeated
        is_sign = token[-1:] in ("+", "-") and text[end : end + 1].isdigit()
        if is_digit:
            count += bool(count or token != "0")
        elif token != ".":
            count = 0
        places.append(max(1, count) if is_digit else int(is_sign or number == 0))
    return places


def _shared(prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many tokens prompts share at their starts and at their ends, with at least one between; (0, 1) for one."""
    if len(prompts) == 1:
        return 0, 1
    shortest = min(map(len, prompts))
    head = min(common_length(prompts), shortest - 2)
    tail = common_length([prompt[::-1] for prompt in prompts])
    return head, max(1, min(tail, shortest - head - 1))
