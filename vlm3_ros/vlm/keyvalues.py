"""Where keys and values live: once for what all questions share, and row by row for each question's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm3_ros.vlm import attention
from vlm3_ros.vlm.attention import Layout
from vlm3_ros.vlm.language import LanguageModel


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values [capacity, Hkv, D] a layer of the pictures and the text that all questions share."""

    language: LanguageModel
    keys: list[Tensor]
    values: list[Tensor]
    length: int  # tokens
    position: int  # of the next token; less than the length, for pictures take fewer positions than tokens

    @classmethod
    def of(
        cls,
        language: LanguageModel,
        x: Tensor,
        positions: Tensor,
        deepstack: tuple[Tensor, Sequence[Tensor]],
        room: int,
    ) -> Prefix:
        """From the first tokens [T, hidden] of the chat at ``positions`` [3, T]; with room for more text."""
        keys = _empty(language, (len(x) + room,))
        values = _empty(language, (len(x) + room,))

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            keys[layer][: len(k)], values[layer][: len(v)] = k, v
            return k if q is None else attention.causal(q, k, v, language.scale)

        nothing = torch.empty(0, dtype=torch.long, device=x.device)
        language.run(x, positions.to(x.device), attend, nothing, deepstack)
        return cls(language, keys, values, len(x), int(positions.max()) + 1)

    def extended(self, tokens: Sequence[int]) -> Prefix:
        """This prefix with common text behind it: in the same memory, valid until the next call of this method."""
        longer = replace(self, length=self.length + len(tokens), position=self.position + len(tokens))
        if tokens:
            own = OwnTokens(self, rows=1, capacity=len(tokens))
            own.feed([0], [tokens], [len(tokens)], [0])
            for layer, (k, v) in enumerate(zip(own.keys, own.values, strict=True)):
                self.keys[layer][self.length : longer.length] = k[0]
                self.values[layer][self.length : longer.length] = v[0]
        return longer


class OwnTokens:
    """Keys and values [rows, capacity, Hkv, D] a layer of each question's own tokens, all behind one `Prefix`."""

    def __init__(self, prefix: Prefix, rows: int, capacity: int):
        self._prefix = prefix
        self._language = prefix.language
        self.keys = _empty(prefix.language, (rows, capacity))
        self.values = _empty(prefix.language, (rows, capacity))
        self.used = 0  # own tokens that the longest row has taken so far

    @property
    def capacity(self) -> int:
        """Own tokens that there is room for in each row."""
        return self.keys[0].shape[1]

    def reserve(self, capacity: int) -> None:
        """Make room for so many own tokens in each row."""
        self.used = max(self.used, capacity)
        more = capacity - self.capacity
        if more > 0:
            for store in (self.keys, self.values):
                for layer, old in enumerate(store):
                    room = old.new_zeros(old.shape[0], max(more, 16), *old.shape[2:])
                    store[layer] = torch.cat([old, room], dim=1)

    def feed(
        self, rows: Sequence[int], tokens: Sequence[Sequence[int]], used: Sequence[int], reads: Sequence[int]
    ) -> Tensor:
        """Run new tokens: ``tokens[i]`` become the last of the ``used[i]`` own tokens of row ``rows[i]``.

        Returns the results [sum(reads), hidden] of the last ``reads[i]`` of them, row after row.
        """
        device = self._language.device
        counts = [len(new) for new in tokens]
        layout = Layout.ordered(rows, counts, used, device)
        flat = torch.tensor([token for new in tokens for token in new]).to(device, non_blocking=True)
        if reads == counts:
            return self.run(flat, layout, layout.slot)
        ends = torch.tensor(counts).cumsum(0).tolist()
        read = torch.tensor([t for end, n in zip(ends, reads, strict=True) for t in range(end - n, end)])
        wanted = Layout.ordered(rows, reads, used, device) if all(reads) else None
        return self.run(flat, layout, layout.slot, wanted, read.long().to(device, non_blocking=True))

    def run(
        self, tokens: Tensor, layout: Layout, depth: Tensor, wanted: Layout | None = None, read: Tensor | None = None
    ) -> Tensor:
        """Run new tokens [T] of a ``layout``, ``depth`` [T] positions behind the prefix.

        ``read`` picks the tokens whose results are returned and ``wanted`` is their layout; all tokens without them.
        """
        self.reserve(layout.keys)
        store = (layout.rows[layout.row], layout.slot)
        scale = self._language.scale

        def attend(layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[store], values[store] = k, v
            if q is None:
                return k
            prefix = self._prefix
            pk, pv = prefix.keys[layer][: prefix.length], prefix.values[layer][: prefix.length]
            seen = wanted if is_read and wanted is not None else layout
            return attention.merge(
                attention.to_prefix(q, pk, pv, scale), attention.to_own(q, keys, values, scale, seen)
            )

        positions = (self._prefix.position + depth).expand(3, -1)
        return self._language.run(self._language.embed(tokens), positions, attend, read)


def _empty(language: LanguageModel, tokens: tuple[int, ...]) -> list[Tensor]:
    """Room for the keys or values of so many tokens, a layer.

    Zeros: a slot that nobody may see yet has weight 0, which leaves no trace of any number but NaN.
    """
    shape = (*tokens, language.kv_heads, language.head_dim)
    return [torch.zeros(shape, dtype=language.dtype, device=language.device) for _ in language.layers]
