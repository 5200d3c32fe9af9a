"""Cascade attention against plain attention over everything; the CUDA path against a twin of its kernel."""

import pytest
import torch

from vlm3_ros.vlm import attention
from vlm3_ros.vlm.attention import Layout, causal, merge, to_own, to_prefix

CPU = torch.device("cpu")
SCALE = 0.2


def naive(q, k, v, visible):
    """Attention [T, H, D] of q to keys [S, Hkv, D], each token to the visible ones [T, S]; and log-sum-exp [T, H]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1).double(), v.repeat_interleave(group, 1).double()
    scores = torch.einsum("thd,shd->hts", q.double(), k) * SCALE
    scores = scores.masked_fill(~visible, float("-inf"))
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v).float(), scores.logsumexp(-1).T.float()


def varlen_twin(q, k, v, ends_q, starts_k, most_q, most_k, *, return_aux, scale, window_size, enable_gqa, seqused_k):
    """torch.nn.attention.varlen.varlen_attn as its documentation has it, sequence by sequence.

    Causal windows are aligned at the last key. The log-sum-exp is [H, T], as its source returns it.
    """
    assert return_aux.lse
    assert scale == SCALE
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert ends_q.dtype == starts_k.dtype == torch.int32
    outs, lses = [], []
    for i in range(len(ends_q) - 1):
        queries = q[ends_q[i] : ends_q[i + 1]]
        length = int(seqused_k[i]) if seqused_k is not None else int(starts_k[i + 1] - starts_k[i])
        assert len(queries) <= most_q
        assert length <= most_k
        keys, values = k[starts_k[i] : starts_k[i] + length], v[starts_k[i] : starts_k[i] + length]
        visible = torch.ones(len(queries), length, dtype=torch.bool)
        if window_size == (-1, 0):
            visible = visible.tril(length - len(queries))
        out, lse = naive(queries, keys, values, visible)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses).T


@pytest.fixture(params=["dense", "varlen"])
def kernel(request, monkeypatch):
    """Both ways to compute, the second with a stand-in for the CUDA kernel."""
    if request.param == "varlen":
        varlen = pytest.importorskip("torch.nn.attention.varlen")
        monkeypatch.setattr(varlen, "varlen_attn", varlen_twin)
        monkeypatch.setattr(attention, "_use_varlen", lambda q: True)


def random(*shape):
    return torch.randn(*shape)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize(
    ("rows", "counts", "used"),
    [
        ([0, 1, 2], [5, 3, 7], [5, 3, 7]),  # first tokens of every row
        ([0, 2], [1, 4], [9, 6]),  # drafts of some rows
        ([1], [1], [4]),
        ([0, 1, 2], [1, 1, 1], [2, 8, 5]),  # one step
    ],
)
def test_prefix_and_own_tokens_together_are_plain_attention(heads, kv_heads, rows, counts, used):
    torch.manual_seed(0)
    prefix_k, prefix_v = random(11, kv_heads, 16), random(11, kv_heads, 16)
    keys, values = random(3, 12, kv_heads, 16), random(3, 12, kv_heads, 16)
    q = random(sum(counts), heads, 16)
    layout = Layout.ordered(rows, counts, used, CPU)
    got = merge(to_prefix(q, prefix_k, prefix_v, SCALE), to_own(q, keys, values, SCALE, layout))
    start = 0
    for row, count, end in zip(rows, counts, used, strict=True):
        visible = torch.ones(count, 11 + end, dtype=torch.bool).tril(11 + end - count)
        k, v = torch.cat([prefix_k, keys[row, :end]]), torch.cat([prefix_v, values[row, :end]])
        expected, _ = naive(q[start : start + count], k, v, visible)
        torch.testing.assert_close(got[start : start + count], expected, rtol=1e-5, atol=1e-5)
        start += count


@pytest.mark.usefixtures("kernel")
def test_the_next_layout_is_one_token_further():
    torch.manual_seed(0)
    q, keys, values = random(2, 4, 16), random(3, 12, 2, 16), random(3, 12, 2, 16)
    stepped = Layout.ordered([0, 2], [1, 1], [4, 6], CPU).next()
    made = Layout.ordered([0, 2], [1, 1], [5, 7], CPU)
    assert stepped.slot.tolist() == made.slot.tolist() == [4, 6]
    for a, b in zip(to_own(q, keys, values, SCALE, stepped), to_own(q, keys, values, SCALE, made), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_not_visible_leaves_no_trace():
    torch.manual_seed(0)
    q, keys, values = random(3, 4, 16), random(2, 9, 2, 16), random(2, 9, 2, 16)
    layout = Layout.ordered([0, 1], [1, 2], [3, 5], CPU)
    before = to_own(q, keys, values, SCALE, layout)
    keys[0, 3:], keys[1, 5:], values[0, 3:], values[1, 5:] = 1e4, -1e4, 1e4, -1e4
    for a, b in zip(before, to_own(q, keys, values, SCALE, layout), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)


def test_the_fallback_without_flash_attention_is_the_same():
    torch.manual_seed(0)
    q, k, v = random(2, 3, 8, 16), random(2, 3, 9, 16), random(2, 3, 9, 16)
    bias = torch.zeros(2, 1, 8, 9).masked_fill_(torch.rand(2, 1, 8, 9) > 0.7, float("-inf"))
    flash = attention._dense(q, k, v, SCALE, bias)
    plain = attention._dense_plain(q, k, v, SCALE, bias)
    for a, b in zip(flash, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_causal_attention_of_one_sequence():
    torch.manual_seed(0)
    q, k, v = random(7, 6, 16), random(7, 2, 16), random(7, 2, 16)
    expected, _ = naive(q, k, v, torch.ones(7, 7, dtype=torch.bool).tril())
    torch.testing.assert_close(causal(q, k, v, SCALE), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_does", ["right", "wrong", "old", "not built"])
def test_a_cuda_kernel_is_tried_before_it_is_trusted(kernel_does, monkeypatch, caplog):
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def kernel(*args, **options):
        if kernel_does == "old":
            raise TypeError("varlen_attn() got an unexpected keyword argument 'seqused_k'")
        if kernel_does == "not built":
            raise RuntimeError("USE_FLASH_ATTENTION was not enabled for build")
        out, lse = varlen_twin(*args, **options)
        return (out * 1.5 if kernel_does == "wrong" else out), lse

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setitem(globals(), "SCALE", 0.125)
    attention._varlen_works.cache_clear()
    assert attention._varlen_works(CPU, torch.float32) == (kernel_does == "right")
    assert bool(caplog.text) == (kernel_does != "right")
    attention._varlen_works.cache_clear()
