"""Attention of many questions to one shared prefix that is never copied (cascade attention).

Every question sees the whole prefix (pictures and common text) and its own tokens. Softmax over both is put together
from the two parts by their log-sum-exp (Hydragen, arXiv 2402.05099). Prefix keys are read once for all questions.

Shapes: T tokens of all questions behind each other, H heads, G = H / Hkv query heads a key head, D channels. Keys and
values are [tokens, Hkv, D]; those of the questions' own tokens [rows, capacity, Hkv, D], one row a question.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

Part = tuple[Tensor, Tensor]  # attention output [T, H, D] and log-sum-exp of its scores [T, H], float32


def merge(a: Part, b: Part) -> Tensor:
    """Attention to the keys of both parts together [T, H, D]."""
    weight = torch.sigmoid(a[1] - b[1]).unsqueeze(-1)  # exp(a) / (exp(a) + exp(b))
    return torch.lerp(b[0].float(), a[0].float(), weight).to(a[0].dtype)


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Plain causal self-attention [T, H, D] of one sequence."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out.squeeze(0).transpose(0, 1)


def to_prefix(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Part:
    """All tokens [T, H, D] to all prefix keys [P, Hkv, D]."""
    if _use_varlen(q):
        ends_q, ends_k = (torch.tensor([0, len(x)], device=q.device, dtype=torch.int32) for x in (q, k))
        return _varlen(q, k, v, scale, ends_q, ends_k, len(q), len(k), False, None)
    out, lse = _dense(_fold(q.unsqueeze(0), k.shape[1]), _heads_first(k[None]), _heads_first(v[None]), scale, None)
    return _unfold(out, lse, q.shape[1])


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tokens belong to which row, and which of the row's own tokens each may see."""

    rows: Tensor  # [A] the rows these tokens belong to
    row: Tensor  # [T] index into ``rows``
    column: Tensor  # [T] number of the token among those of its row
    slot: Tensor  # [T] where its keys and values are kept among the row's own
    width: int  # most tokens of a row
    keys: int  # slots in use, at most
    visible: Tensor  # [T, keys] bool
    ends: Tensor | None  # [A + 1] int32, where each row's tokens end; None where ``visible`` is not causal
    used: Tensor | None  # [A] int32, slots each row uses

    @classmethod
    def ordered(cls, rows: Sequence[int], counts: Sequence[int], used: Sequence[int], device: torch.device) -> Layout:
        """Row ``rows[i]`` has ``counts[i]`` tokens, the last of the ``used[i]`` that will be in its slots then.

        ``rows`` are in rising order.
        """
        row = torch.repeat_interleave(torch.tensor(counts))
        ends = torch.tensor([0, *counts]).cumsum(0)
        column = torch.arange(len(row)) - ends[row]
        slot = torch.tensor(used)[row] - torch.tensor(counts)[row] + column
        visible = torch.arange(max(used)) <= slot[:, None]

        def on(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        index = (on(torch.tensor(rows)), on(row), on(column), on(slot))
        return cls(
            *index, max(counts), max(used), on(visible), on(ends.int()), on(torch.tensor(used, dtype=torch.int32))
        )

    def next(self) -> Layout:
        """One more token in each row, from a layout of one token a row; nothing is fetched from the device."""
        assert self.used is not None
        used = self.used + 1
        visible = torch.arange(self.keys + 1, device=used.device) < used[:, None]
        return Layout(self.rows, self.row, self.column, self.slot + 1, 1, self.keys + 1, visible, self.ends, used)


def to_own(q: Tensor, keys: Tensor, values: Tensor, scale: float, layout: Layout) -> Part:
    """Each token [T, H, D] to the visible ones among its row's own keys [rows, capacity, Hkv, D]."""
    if layout.ends is not None and _use_varlen(q):
        return _own_varlen(q, keys, values, scale, layout)
    return _own_dense(q, keys, values, scale, layout)


def _own_varlen(q: Tensor, keys: Tensor, values: Tensor, scale: float, layout: Layout) -> Part:
    assert layout.ends is not None
    rows, capacity, heads, channels = keys.shape
    starts = F.pad(layout.rows * capacity, (0, 1), value=rows * capacity).int()
    k, v = keys.view(-1, heads, channels), values.view(-1, heads, channels)
    return _varlen(q, k, v, scale, layout.ends, starts, layout.width, layout.keys, True, layout.used)


def _own_dense(q: Tensor, keys: Tensor, values: Tensor, scale: float, layout: Layout) -> Part:
    heads = keys.shape[2]
    group = q.shape[1] // heads
    padded = q.new_zeros(len(layout.rows), layout.width, *q.shape[1:])
    padded[layout.row, layout.column] = q
    bias = q.new_full((len(layout.rows), layout.width, layout.keys), float("-inf"))
    bias[..., 0] = 0.0  # padding has to see something, or its softmax is NaN
    bias[layout.row, layout.column] = q.new_zeros(layout.visible.shape).masked_fill_(~layout.visible, float("-inf"))
    bias = bias.repeat_interleave(group, dim=1).unsqueeze(1)
    k, v = (_heads_first(_take(x, layout)) for x in (keys, values))
    out, lse = _unfold(*_dense(_fold(padded, heads), k, v, scale, bias), q.shape[1])
    place = layout.row * layout.width + layout.column
    return out[place], lse[place]


def _take(x: Tensor, layout: Layout) -> Tensor:
    """The used slots of a layout's rows [A, keys, Hkv, D], without a copy where that is all rows."""
    used = x[:, : layout.keys]
    return used if len(layout.rows) == len(x) else used[layout.rows]


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Part:
    """Attention [B, Hkv, Q, D] to [B, Hkv, K, D] with a bias [B, 1, Q, K]; and its log-sum-exp [B, Hkv, Q]."""
    if q.device.type == "cpu":
        flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)  # private: it may go
        if flash is not None:
            return flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    return _dense_plain(q, k, v, scale, bias)


def _dense_plain(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Part:
    """`_dense` in PyTorch's public operations."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(-1).to(v.dtype), v), scores.logsumexp(-1)


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def _fold(q: Tensor, kv_heads: int) -> Tensor:
    """[B, T, H, D] to [B, Hkv, T · G, D]: the heads of a group become more queries of their one key head."""
    b, t, h, d = q.shape
    return q.view(b, t, kv_heads, h // kv_heads, d).permute(0, 2, 1, 3, 4).reshape(b, kv_heads, -1, d)


def _unfold(out: Tensor, lse: Tensor, heads: int) -> Part:
    """[B, Hkv, T · G, D] and [B, Hkv, T · G] back to [B · T, H, D] and [B · T, H]."""
    b, kv_heads, queries, d = out.shape
    group = heads // kv_heads
    out = out.view(b, kv_heads, -1, group, d).permute(0, 2, 1, 3, 4).reshape(-1, heads, d)
    return out, lse.view(b, kv_heads, queries // group, group).permute(0, 2, 1, 3).reshape(-1, heads).float()


def _use_varlen(q: Tensor) -> bool:
    """Flash attention without padding: on CUDA, in 16 bit, where it works."""
    return q.device.type == "cuda" and q.dtype != torch.float32 and _varlen_works(q.device, q.dtype)


@lru_cache
def _varlen_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch (2.13 does, with flash attention for this GPU) computes what plain attention does."""
    layout = Layout.ordered([0, 2], [3, 5], [7, 9], device)
    q = torch.randn(8, 4, 64, device=device, dtype=dtype)
    keys, values = torch.randn(2, 3, 12, 2, 64, device=device, dtype=dtype).unbind()
    try:
        got = _own_varlen(q, keys, values, 0.125, layout)
    except (ImportError, TypeError, RuntimeError) as error:
        log.warning("no flash attention on %s (%s): attention takes more time and memory", device, error)
        return False
    expected = _own_dense(q, keys, values, 0.125, layout)
    works = all(torch.allclose(a.float(), b.float(), atol=0.05) for a, b in zip(got, expected, strict=True))
    if not works:
        log.warning("flash attention on %s computes something else: not used", device)
    return works


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    ends_q: Tensor,
    starts_k: Tensor,
    most_q: int,
    most_k: int,
    is_causal: bool,
    used: Tensor | None,
) -> Part:
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    out, lse = varlen_attn(
        q,
        k,
        v,
        ends_q,
        starts_k,
        most_q,
        most_k,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if is_causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
        seqused_k=used,
    )
    return out, lse.transpose(0, 1)  # PyTorch 2.13 documents [T, H] and returns [H, T]
