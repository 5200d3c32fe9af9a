"""The forward pass of training: one look, and all questions about it behind the one prefix that they share.

As in inference (`vlm.engine`), pictures and the text that all questions begin with are computed once. Each question
and its answer see that prefix and themselves, so the result is that of one sequence per question; a test holds it
equal to transformers' own forward pass. Attention is plain PyTorch, for gradients have to flow through both parts.

Shapes: P tokens of the prefix, V of them pictures', R questions (rows) of at most L tokens, H heads, Hkv key heads,
D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm3_ros.learn.lesson import IGNORED, Lesson, Rows
from vlm3_ros.vlm import attention
from vlm3_ros.vlm.interface import Picture
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.loading import Checkpoint
from vlm3_ros.vlm.prompt import mrope_positions


@dataclass(frozen=True, eq=False)
class Visual:
    """What the vision tower makes of pictures."""

    tokens: Tensor  # [V, hidden], all in a row
    deepstack: list[Tensor]  # [V, hidden], what is added to them after each of the first text layers
    sizes: list[tuple[int, int]]  # (rows, columns) of tokens of each picture

    def split(self, counts: Sequence[int]) -> list[Visual]:
        """The first so many pictures, the next, and so on."""
        sizes = iter(self.sizes)
        own = [[next(sizes) for _ in range(count)] for count in counts]
        lengths = [sum(rows * columns for rows, columns in several) for several in own]
        parts = [x.split(lengths) for x in (self.tokens, *self.deepstack)]
        return [Visual(tokens, deep, several) for tokens, *deep, several in zip(*parts, own, strict=True)]


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the text layers make of pictures."""

    visual: Visual
    images: Tensor  # [V] which of the P tokens are the pictures'
    queries: dict[int, Tensor]  # [V, H, D] by layer, of the pictures' tokens
    keys: dict[int, Tensor]  # [P, Hkv, D] by layer
    values: dict[int, Tensor]
    states: list[Tensor]  # [V, hidden] of the pictures' tokens after each layer
    end: int  # position of what follows


@dataclass(frozen=True, eq=False)
class Answered:
    """What the text layers make of questions and their answers."""

    rows: Rows
    last: Tensor  # [R, L, hidden], of which the next tokens are told
    states: list[Tensor]  # [R, L, hidden] after each layer
    queries: dict[int, Tensor]  # [R, L, H, D] by layer


@dataclass(frozen=True, eq=False)
class Result:
    """What the model makes of a lesson."""

    prefix: Prefix
    answered: list[Answered]  # by task


class SharedPrefix:
    """Runs lessons through a model, with gradients.

    With ``recompute``, layers run again in the backward pass instead of keeping what they computed.
    """

    def __init__(self, checkpoint: Checkpoint, recompute: bool = False):
        self._checkpoint, self._recompute = checkpoint, recompute
        self._visual = checkpoint.model.model.visual
        self.language = LanguageModel(checkpoint.model)

    def __call__(self, lesson: Lesson) -> Result:
        prefix = self.read(self._look(lesson.pixels, lesson.grids, lesson.sizes))
        return Result(prefix, [self._rows(prefix, head, rows) for head, rows in lesson.groups])

    def see(self, pictures: Sequence[Picture]) -> Visual:
        """Pictures through the vision tower."""
        return self._look(*self._checkpoint.pixels(list(pictures)))

    def _look(self, pixels: Tensor, grids: Tensor, sizes: list[tuple[int, int]]) -> Visual:
        seen = self._visual(pixels.to(self._visual.dtype), grid_thw=grids, return_dict=True)
        return Visual(seen.pooler_output, seen.deepstack_features, sizes)

    def read(self, visual: Visual) -> Prefix:
        """Pictures through the text layers, as the start of a chat."""
        checkpoint, language = self._checkpoint, self.language
        tokens = checkpoint.chat.pictures([rows * columns for rows, columns in visual.sizes])
        ids = torch.tensor(tokens, device=checkpoint.device)
        images = (ids == checkpoint.image_token).nonzero()[:, 0]
        text = language.embed(ids)
        x = text.index_copy(0, images, visual.tokens.to(text.dtype))
        positions = mrope_positions(tokens, checkpoint.image_token, visual.sizes)
        queries: dict[int, Tensor] = {}
        keys: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        states: list[Tensor] = []

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            assert q is not None
            queries.setdefault(layer, q[images])
            keys.setdefault(layer, k)
            values.setdefault(layer, v)
            return attention.causal(q, k, v, language.scale)

        deepstack = (images, visual.deepstack)
        language.run(x, positions.to(x.device), attend, None, deepstack, states, self._recompute)
        states = [state[images] for state in states]
        return Prefix(visual, images, queries, keys, values, states, int(positions.max()) + 1)

    def _rows(self, prefix: Prefix, head: list[int], rows: Rows) -> Answered:
        """The questions of one task behind the pictures and their common beginning."""
        language, start = self.language, prefix.end
        keys, values = prefix.keys, prefix.values
        device = keys[0].device
        if head:
            keys, values = self._extended(keys, values, start, head)
        count, length = rows.tokens.shape
        mask = torch.full((length, length), float("-inf"), device=device).triu(1)
        queries: dict[int, Tensor] = {}
        states: list[Tensor] = []

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            assert q is not None
            queries.setdefault(layer, q.unflatten(0, (count, length)))
            return tree(q, k, v, keys[layer], values[layer], mask, count, language.scale)

        positions = (start + len(head) + rows.depth.reshape(1, -1)).expand(3, -1)
        x = language.embed(rows.tokens.reshape(-1).to(device))
        out = language.run(x, positions.to(device), attend, None, None, states, self._recompute)
        shape = (count, length, -1)
        return Answered(rows, out.view(shape), [state.view(shape) for state in states], queries)

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
    language: LanguageModel, answered: Answered, first_digits: float = 1.0, later_digits: float = 1.0
) -> Tensor:
    """Cross entropy of the answers' tokens, their mean; what they say weighs more or less than other tokens.

    ``first_digits`` is the weight of an answer's first token, of signs and of the first two digits of a number,
    ``later_digits`` that of the digits behind those.
    """
    rows, last = answered.rows, answered.last
    labels = rows.labels.to(last.device)
    learned = labels != IGNORED
    losses = F.cross_entropy(language.all_logits(last[learned]), labels[learned], reduction="none")
    weigh = torch.tensor([1.0, first_digits, first_digits, later_digits], device=last.device)
    weights = weigh[rows.digits.to(last.device)[learned].clamp(max=3)]
    return (losses * weights).sum() / weights.sum()
