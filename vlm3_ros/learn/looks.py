"""The forward pass of training: one look, and all questions about it behind the one prefix that they share.

As in inference (`vlm.engine`), pictures and the text that all questions begin with are computed once. Each question
and its answer see that prefix and themselves, so the result is that of one sequence per question; a test holds it
equal to transformers' own forward pass. Attention is plain PyTorch, for gradients have to flow through both parts.

Shapes: P tokens of the prefix, R questions (rows) of at most L tokens, H heads, Hkv key heads, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm3_ros.learn.data.sample import Exchange, Sample
from vlm3_ros.vlm import attention
from vlm3_ros.vlm.interface import Picture
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.loading import Checkpoint
from vlm3_ros.vlm.prompt import common_length, mrope_positions

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
    digits: Tensor  # [R, L] 0 where that token is no digit, else which one of its number, zeros in front not counted
    asked: Tensor  # [R] the last token of a question that is its own: what is asked is known there


@dataclass(frozen=True, eq=False)
class Lesson:
    """A sample as tensors."""

    pixels: Tensor
    grids: Tensor  # [pictures, 3]
    sizes: list[tuple[int, int]]  # (rows, columns) of tokens of each picture
    tokens: list[int]  # from the start of the chat to the end of the last picture
    groups: list[tuple[list[int], Rows]]  # the text its questions begin with, and the rest


def lesson(sample: Sample, checkpoint: Checkpoint, abridged: Abridged | None = None) -> Lesson:
    """Tokens, patches and labels of a sample; only answers are learned.

    To save time early in training, lessons can be ``abridged``: what all questions of a task say between their own
    part and the answer is not fed, and of answers to the tasks in there only so many tokens at the start and at the
    end. The others keep their positions.
    """
    pixels, grids, sizes = checkpoint.pixels(list(sample.pictures))
    tokens = checkpoint.chat.pictures([rows * columns for rows, columns in sizes])
    groups = []
    for task, exchanges in groupby(sample.exchanges, key=lambda exchange: exchange.task):
        groups.append(_rows(task, list(exchanges), checkpoint, abridged))
    return Lesson(pixels, grids, sizes, tokens, groups)


def _rows(
    task: str, exchanges: list[Exchange], checkpoint: Checkpoint, abridged: Abridged | None
) -> tuple[list[int], Rows]:
    prompts = checkpoint.chat.questions([exchange.question for exchange in exchanges])
    texts = [exchange.answer for exchange in exchanges]
    answers = checkpoint.tokenizer(texts, add_special_tokens=False)["input_ids"]
    answers = [[*answer, checkpoint.end_tokens[0]] for answer in answers]
    head, tail = _shared(prompts)
    built: list[tuple[list[int], list[int], list[int], int]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        own = len(prompt) - head - tail  # tokens of this question alone
        fed = [*prompt[head:], *answer[:-1]]
        labels = [IGNORED] * (len(prompt) - head - 1) + answer
        depth = list(range(len(fed)))
        if abridged is not None:
            first, last = abridged.get(task, (len(answer), 0))
            start = own + tail - 1  # of what is answered
            cut = range(start + first, max(start + first, len(fed) - last))
            kept = [*range(own), *(i for i in range(start, len(fed)) if i not in cut)]
            fed, labels, depth = ([values[i] for i in kept] for values in (fed, labels, depth))
        built.append((fed, depth, labels, own - 1))
    longest = max(len(row) for row, *_ in built)

    def padded(sequences: Iterable[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (longest - len(row)) for row in sequences])

    rows = Rows(
        task=task,
        exchanges=exchanges,
        tokens=padded((fed for fed, *_ in built), 0),
        depth=padded((depth for _, depth, *_ in built), 0),
        labels=padded((labels for *_, labels, _ in built), IGNORED),
        digits=padded((_digits(labels, checkpoint) for *_, labels, _ in built), 0),
        asked=torch.tensor([asked for *_, asked in built]),
    )
    return prompts[0][:head], rows


def _digits(tokens: Sequence[int], checkpoint: Checkpoint) -> list[int]:
    """1 for every token that is the first digit of a number other than 0 (or a 0 before it), 2 for its second, ...;
    0 for what is no digit."""
    alphabet = checkpoint.tokenizer.convert_tokens_to_ids([*"0123456789."])
    digits, zero, point = set(alphabet[:10]), alphabet[0], alphabet[10]
    places, count = [], 0
    for token in tokens:
        if token in digits:
            count += bool(count or token != zero)
        elif token != point:
            count = 0
        places.append(max(1, count) if token in digits else 0)
    return places


def _shared(prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many tokens prompts share at their starts and at their ends, with at least one between; (0, 1) for one."""
    if len(prompts) == 1:
        return 0, 1
    shortest = min(map(len, prompts))
    head = min(common_length(prompts), shortest - 2)
    tail = common_length([prompt[::-1] for prompt in prompts])
    return head, max(1, min(tail, shortest - head - 1))


@dataclass(frozen=True, eq=False)
class Result:
    """What the model makes of a lesson."""

    visual: Tensor  # [V, hidden] the picture's tokens as the language model gets them
    rows: list[
        tuple[Rows, Tensor, list[Tensor]]
    ]  # and the last hidden states [R, L, hidden], and those of all layers
    prefix: list[Tensor]  # [P, hidden] hidden states of the pictures' tokens after each layer


class SharedPrefix:
    """Runs lessons through a model, with gradients.

    With ``recompute``, layers run again in the backward pass instead of keeping what they computed.
    """

    def __init__(self, checkpoint: Checkpoint, recompute: bool = False):
        self._checkpoint, self._recompute = checkpoint, recompute
        self._visual = checkpoint.model.model.visual
        self.language = LanguageModel(checkpoint.model)

    def see(self, pictures: Sequence[Picture]) -> tuple[Tensor, list[tuple[int, int]]]:
        """The tokens [V, hidden] of pictures, all in a row, and (rows, columns) of each."""
        pixels, grids, sizes = self._checkpoint.pixels(list(pictures))
        return self._look(pixels, grids).pooler_output, sizes

    def _look(self, pixels: Tensor, grids: Tensor) -> Any:
        """The vision tower's output; ``pooler_output`` [V, hidden] are the pictures' tokens."""
        return self._visual(pixels.to(self._visual.dtype), grid_thw=grids, return_dict=True)

    def __call__(self, lesson: Lesson) -> Result:
        checkpoint, language = self._checkpoint, self.language
        seen = self._look(lesson.pixels, lesson.grids)
        ids = torch.tensor(lesson.tokens, device=checkpoint.device)
        images = (ids == checkpoint.image_token).nonzero()[:, 0]
        text = language.embed(ids)
        x = text.index_copy(0, images, seen.pooler_output.to(text.dtype))
        positions = mrope_positions(lesson.tokens, checkpoint.image_token, lesson.sizes)
        keys: dict[int, Tensor] = {}  # by layer
        values: dict[int, Tensor] = {}
        states: list[Tensor] = []

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            keys.setdefault(layer, k)
            values.setdefault(layer, v)
            assert q is not None
            return attention.causal(q, k, v, language.scale)

        deepstack = (images, seen.deepstack_features)
        language.run(x, positions.to(x.device), attend, None, deepstack, states, self._recompute)
        start = int(positions.max()) + 1
        rows = [self._rows(keys, values, start, head, rows) for head, rows in lesson.groups]
        return Result(seen.pooler_output, rows, [state[images] for state in states])

    def _rows(
        self, keys: dict[int, Tensor], values: dict[int, Tensor], start: int, head: list[int], rows: Rows
    ) -> tuple[Rows, Tensor, list[Tensor]]:
        """The questions of one task behind the pictures' keys and values and their common beginning."""
        language = self.language
        device = keys[0].device
        if head:
            keys, values = self._extended(keys, values, start, head)
        count, length = rows.tokens.shape
        mask = torch.full((length, length), float("-inf"), device=device).triu(1)
        states: list[Tensor] = []

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            assert q is not None
            return tree(q, k, v, keys[layer], values[layer], mask, count, language.scale)

        positions = (start + len(head) + rows.depth.reshape(1, -1)).expand(3, -1)
        x = language.embed(rows.tokens.reshape(-1).to(device))
        out = language.run(x, positions.to(device), attend, None, None, states, self._recompute)
        shape = (count, length, -1)
        return rows, out.view(shape), [state.view(shape) for state in states]

    def _extended(
        self, keys: dict[int, Tensor], values: dict[int, Tensor], start: int, head: list[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Keys and values with those of the text that follows the pictures."""
        language = self.language
        device = keys[0].device
        mask = torch.full((len(head), len(head)), float("-inf"), device=device).triu(1)
        longer_keys: dict[int, Tensor] = {}
        longer_values: dict[int, Tensor] = {}

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            longer_keys.setdefault(layer, torch.cat([keys[layer], k]))
            longer_values.setdefault(layer, torch.cat([values[layer], v]))
            if q is None:
                return k
            return tree(q, k, v, keys[layer], values[layer], mask, 1, language.scale)

        positions = (start + torch.arange(len(head))).expand(3, -1).to(device)
        nothing = torch.empty(0, dtype=torch.long, device=device)
        x = language.embed(torch.tensor(head, device=device))
        language.run(x, positions, attend, nothing, recompute=self._recompute)
        return longer_keys, longer_values


def tree(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, mask: Tensor, rows: int, scale: float
) -> Tensor:
    """Attention [R · L, H, D] of rows to the prefix [P, Hkv, D] they share and to their own tokens [R · L, Hkv, D].

    ``mask`` [L, L] is added to the scores among a row's own tokens.
    """
    heads, kv_heads, channels = q.shape[1], k.shape[1], q.shape[2]
    group = heads // kv_heads
    length = q.shape[0] // rows
    q = q.view(rows, length, kv_heads, group, channels).permute(2, 3, 0, 1, 4) * scale  # [Hkv, G, R, L, D]
    own_k, own_v = (x.view(rows, length, kv_heads, channels).permute(2, 0, 1, 3) for x in (k, v))  # [Hkv, R, L, D]
    shared_k, shared_v = (x.transpose(0, 1) for x in (prefix_k, prefix_v))  # [Hkv, P, D]
    to_shared = (q.reshape(kv_heads, -1, channels) @ shared_k.transpose(1, 2)).view(kv_heads, group, rows, length, -1)
    to_own = q @ own_k.unsqueeze(1).transpose(-1, -2) + mask
    weights = torch.cat([to_shared, to_own], dim=-1).softmax(-1, dtype=torch.float32).to(own_v.dtype)
    of_shared, of_own = weights.split([to_shared.shape[-1], length], dim=-1)
    out = (of_shared.reshape(kv_heads, -1, of_shared.shape[-1]) @ shared_v).view(kv_heads, group, rows, length, -1)
    out = out + of_own @ own_v.unsqueeze(1)
    return out.permute(2, 3, 0, 1, 4).reshape(rows * length, heads, channels)


def answer_loss(
    language: LanguageModel, rows: Rows, states: Tensor, first_digits: float = 1.0, later_digits: float = 1.0
) -> Tensor:
    """Cross entropy of the answers' tokens, their mean; digits weigh more or less than other tokens.

    ``first_digits`` is the weight of the first two of a number, ``later_digits`` that of those behind.
    """
    labels = rows.labels.to(states.device)
    learned = labels != IGNORED
    losses = F.cross_entropy(language.all_logits(states[learned]), labels[learned], reduction="none")
    weigh = torch.tensor([1.0, first_digits, first_digits, later_digits], device=states.device)
    weights = weigh[rows.digits.to(states.device)[learned].clamp(max=3)]
    return (losses * weights).sum() / weights.sum()
