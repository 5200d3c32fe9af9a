"""Qwen3-VL's language model over packed tokens, with the attention left open.

transformers provides the layers' modules; their order is run here. So keys and values can live where the engine
wants them, no padding is computed, positions are always explicit (transformers keeps state between calls otherwise),
and the last layer works only on the tokens whose result somebody reads. The names used are those of the weights in
the checkpoint files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS = {"cpu": 1 << 19, "cuda": 1 << 26}  # computed at a time: 2 MB in float32, a cache's worth, or 256 MB


class Attend(Protocol):
    """Stores the keys and values [T, Hkv, D] of new tokens and attends to them and to what was stored before."""

    def __call__(self, layer: int, k: Tensor, v: Tensor, q: Tensor | None, is_read: bool) -> Tensor:
        """Attention [Q, H, D] of queries ``q`` [Q, H, D]: all new tokens, or only those read; None: just store."""


class LanguageModel:
    """The text layers and the head of a Qwen3-VL model."""

    def __init__(self, model: Any):
        text = model.model.language_model
        self.layers: Sequence[Any] = text.layers
        self._rotary, self._norm, self._embedding = text.rotary_emb, text.norm, text.embed_tokens
        self._head = model.lm_head
        self._head_weight: Tensor | None = self._head.weight if type(self._head) is torch.nn.Linear else None
        config = text.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.hidden, self.intermediate = config.hidden_size, config.intermediate_size
        self.scale = self.head_dim**-0.5

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self._embedding.weight.device

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [T] to vectors [T, hidden]."""
        return self._embedding(tokens)

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        read: Tensor | None = None,
        deepstack: tuple[Tensor, Sequence[Tensor]] | None = None,
        states: list[Tensor] | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """New tokens [T, hidden] at ``positions`` [3, T] through all layers; the results [R, hidden] that are read.

        ``read`` holds indices [R]; None stands for all tokens, an empty tensor for none, where only keys and values
        are wanted. ``deepstack`` is (where the picture tokens are [V], what to add to them [V, hidden] after each of
        the first layers): DeepStack, arXiv 2406.04334. The result of every layer [T, hidden] is put into ``states``.
        With ``recompute``, layers run again in the backward pass instead of keeping what they computed (``attend`` is
        then called twice).
        """
        x = x.unsqueeze(0)  # quantized layers expect [batch, tokens, channels]
        cos, sin = (c.squeeze(0).unsqueeze(1) for c in self._rotary(x, positions.unsqueeze(1)))  # [T, 1, D]
        run = partial(checkpoint, self._layer, use_reentrant=False) if recompute else self._layer
        for i, layer in enumerate(self.layers):
            is_last = i == len(self.layers) - 1
            x = run(i, layer, x, cos, sin, attend, read if is_last else None)
            if deepstack is not None and i < len(deepstack[1]) and not is_last:
                x[0, deepstack[0]] += deepstack[1][i].to(x.dtype)
            if states is not None:
                states.append(x.squeeze(0))
        return self._norm(x).squeeze(0)

    def logits_of(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """[R, hidden] to float32 logits [R, K] of a few tokens [K]; computed for all where the head is quantized."""
        if self._head_weight is None:
            return self._head(hidden)[:, tokens].float()
        return (hidden @ self._head_weight[tokens].T).float()

    def all_logits(self, hidden: Tensor) -> Tensor:
        """[R, hidden] to float32 logits [R, vocabulary]."""
        return self._head(hidden).float()

    def greedy(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[R, hidden] to the most likely next token of the whole vocabulary [R] and its log-probability [R].

        The logits are computed in pieces of the vocabulary, so they never take much memory.
        """
        best = torch.full((len(hidden),), float("-inf"), device=hidden.device)
        token = torch.zeros_like(best, dtype=torch.long)
        total = best
        for first, logits in self._pieces(hidden):
            value, index = logits.max(-1)
            token = torch.where(value > best, index + first, token)
            best = torch.maximum(best, value)
            total = torch.logaddexp(total, value + logits.sub_(value[:, None]).exp_().sum(-1).log())
        return token, best - total

    def _pieces(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Float32 logits [R, piece], the caller's to change, and the first token they are of."""
        if self._head_weight is None:
            yield 0, self._head(hidden).float()
            return
        size = max(1024, LOGITS[hidden.device.type] // max(1, len(hidden)))
        for first in range(0, len(self._head_weight), size):
            yield first, (hidden @ self._head_weight[first : first + size].T).float()

    def _layer(
        self, i: int, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, read: Tensor | None
    ) -> Tensor:
        attention = layer.self_attn
        h = layer.input_layernorm(x)
        k = attention.k_norm(attention.k_proj(h).view(-1, self.kv_heads, self.head_dim))
        v = attention.v_proj(h).view(-1, self.kv_heads, self.head_dim)
        k = _rotate(k, cos, sin)
        if read is not None:
            x, h, cos, sin = x[:, read], h[:, read], cos[read], sin[read]
            if not len(read):
                attend(i, k, v, None, True)
                return x
        q = attention.q_norm(attention.q_proj(h).view(-1, self.heads, self.head_dim))
        out = attend(i, k, v, _rotate(q, cos, sin), read is not None)
        x = x + attention.o_proj(out.reshape(1, -1, self.heads * self.head_dim))
        return x + layer.mlp(layer.post_attention_layernorm(x))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864) of [T, heads, D] by angles [T, 1, D]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin
