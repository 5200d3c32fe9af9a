"""Where keys and values live: once for what all questions share, and row by row for each question's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3_ros.vlm import attention
from vlm3_ros.vlm.attention import Layout
from vlm3_ros.vlm.language import LanguageModel


class Prefix:
    """Keys and values [capacity, Hkv, D] a layer of the pictures and the text that all questions share."""

    def __init__(self, language: LanguageModel, capacity: int):
        shape = (capacity, language.kv_heads, language.head_dim)
        self._language = language
        self.keys = [torch.empty(shape, dtype=language.dtype, device=language.device) for _ in language.layers]
        self.values = [torch.empty_like(k) for k in self.keys]
        self.length = 0
        self.position = 0  # of the next token; less than the length, for pictures take fewer positions than tokens

    def fill(self, x: Tensor, positions: Tensor, deepstack: tuple[Tensor, Sequence[Tensor]] | None) -> None:
        """Run the first tokens [T, hidden] of the chat at ``positions`` [3, T]."""
        self.length, self.position = len(x), int(positions.max()) + 1
        nothing = torch.empty(0, dtype=torch.long, device=x.device)
        self._language.run(x, positions.to(x.device), self._attend, nothing, deepstack)

    def _attend(self, layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
        self.keys[layer][: len(k)], self.values[layer][: len(v)] = k, v
        return k if q is None else attention.causal(q, k, v, self._language.scale)

    def extended(self, tokens: Sequence[int]) -> Prefix:
        """This prefix with common text behind it: the same memory, valid until the next call of this method."""
        longer = Prefix.__new__(Prefix)
        longer._language, longer.keys, longer.values = self._language, self.keys, self.values
        longer.length, longer.position = self.length + len(tokens), self.position + len(tokens)
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
        self._language = prefix._language
        language = self._language
        shape = (rows, capacity, language.kv_heads, language.head_dim)
        # Zeros: slots nobody may see yet have weight 0, which leaves no trace of any number but NaN.
        self.keys = [torch.zeros(shape, dtype=language.dtype, device=language.device) for _ in language.layers]
        self.values = [torch.zeros_like(k) for k in self.keys]

    @property
    def capacity(self) -> int:
        """Own tokens that there is room for in each row."""
        return self.keys[0].shape[1]

    def reserve(self, capacity: int) -> None:
        """Make room for so many own tokens in each row."""
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
