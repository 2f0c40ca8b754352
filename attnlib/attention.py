"""Two cores, one answer: softmax(q kT / sqrt(d)) v with and without the matrix.

The ladder; every rung computes the same function:

1. `attention_oracle`    the definition in float64; slow, and everyone's judge.
2. `standard_attention`  the textbook in the input's dtype: two N x N matrices.
3. `online_attention`    the readable loop: one `SoftmaxState` after every block;
                         `online_attention_backward` computes the blocks again
                         instead of keeping them.
4. `flash_attention`     both, over tiles and in place: `flash.py`.

`StdAttentionCord` and `FlashAttentionCore` are rungs 2 and 4 as modules. Both
take q (..., Nq, d), k (..., Nk, d), v (..., Nk, dv) and

- causal     bottom-right aligned: the last query sees every key (`masks.py`);
- key_mask   (..., Nk) bool, True = may be seen; leading dimensions as in q,
             each of its size or 1, or (Nk,) for all;
- window     an int w: a query sees the last w keys up to its own position;
- return_lse gives (o, lse), lse (..., Nq) the natural log of the sum of
             exp(scores), in float32 for 16-bit inputs.

Where there is a head dimension (-3), k and v may have fewer heads than q, a
divisor (grouped-query attention). Under autocast both compute in its dtype, as
PyTorch's scaled_dot_product_attention does. A query that sees no key gets output 0, lse
-inf and gradient 0, whatever q, k and v hold.

What may lie in hidden places: a key that key_mask hides may hold anything, NaN
and inf included; no output and no gradient changes, and its own gradient is 0.
In the oracle that holds for every mask. In the cores a key that only `causal` or
`window` hides must hold numbers: its weight is exactly 0, but 0 NaN is NaN, so in
standard attention it reaches every query, in flash those whose tile it shares
(never those whose tiles are skipped). To keep it from them one must count, tile
by tile, who sees what isn't finite: 4 to 20 % of the time and half a score block
more. PyTorch's scaled_dot_product_attention leaks for the same reason, and under
key masks as well. Lessons 05 to 09.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnlib.masks import Mask, visible
from attnlib.preconditions import follows_autocast, head_group, require_head_size, require_positive
from attnlib.softmax import SoftmaxState, finite, row_max, sum_dtype


class StdAttentionCord(nn.Module):
    """Standard attention: the whole score matrix, its softmax, times v.

    Without gradients its peak is two N x N matrices in the input's dtype, and
    a boolean one where there is a mask. No parameters. Source: Vaswani et al.
    2017, section 3.2.1; the name is the project's specification's. Lesson 05.
    """

    def __init__(self, attention_head_size: int):
        super().__init__()
        self.attention_head_size = require_positive("attention_head_size", attention_head_size)

    def forward(self, q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
        """Shapes, options and errors as in this module's docstring."""
        require_head_size(q, self.attention_head_size)
        options = {"causal": causal, "key_mask": key_mask, "window": window}
        return standard_attention(q, k, v, **options, return_lse=return_lse)

    def extra_repr(self) -> str:
        return f"attention_head_size={self.attention_head_size}"


# Rung 1 --------------------------------------------------------------------


def attention_oracle(q, k, v, *, causal=False, key_mask=None, window=None) -> tuple[Tensor, Tensor]:
    """The definition, in float64: (o (..., Nq, dv), lse (..., Nq)).

    Nothing is saved or skipped, k and v are copied out to q's heads. What isn't
    finite is computed apart, so that it reaches only those who see it. Raises
    as the cores do.
    """
    mask = Mask.of(q, k, v, causal, key_mask, window)
    q, k, v = q.double(), k.double(), v.double()
    if q.dim() > 2:
        k, v = (x.repeat_interleave(head_group(q, k), -3) for x in (k, v))
    see = visible(mask.Nq, mask.Nk, causal=causal, window=window, device=q.device)
    if key_mask is not None:
        see = see & key_mask[..., None, :]  # (..., Nq, Nk)
    q = q.masked_fill(~see.any(-1, keepdim=True), 0)  # it asks no key
    s = q / math.sqrt(q.shape[-1]) @ k.nan_to_num(0, 0, 0).mT  # (..., Nq, Nk)
    s = s.masked_fill(~k.isfinite().all(-1)[..., None, :], math.nan)
    s = s.masked_fill(~see, -math.inf)
    lse = torch.logsumexp(s, -1)  # (..., Nq)
    p = torch.softmax(s, -1).masked_fill(~see, 0)  # (..., Nq, Nk)
    flaws = see.double() @ (~v.isfinite()).double()  # (..., Nq, dv), how many a query sees
    return (p @ v.nan_to_num(0, 0, 0)).masked_fill(flaws > 0, math.nan), lse


# Rung 2 --------------------------------------------------------------------


@follows_autocast
def standard_attention(q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
    """Textbook attention; the functional form of `StdAttentionCord`."""
    mask = Mask.of(q, k, v, causal, key_mask, window)
    shape, group = q.shape[:-1], head_group(q, k)
    q, k, v = (x if x.dim() > 2 else x[None] for x in (q, k, v))
    if group > 1 and mask.by_heads():  # then so are k and v, once their padding is 0
        k, v, group = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3), 1
    k, v = (mask.without_padding(x, slice(None)) for x in (k, v))
    empty = mask.empty_rows(q.device)  # (..., Nq, 1)
    if empty is not None:
        q = q.masked_fill(empty, 0)
    # A group of query heads shares its keys as if it were one longer head.
    folded = (*k.shape[:-2], group * mask.Nq)
    q = (q / math.sqrt(q.shape[-1])).reshape(*folded, q.shape[-1])
    s = q @ k.mT  # (..., Hk, group Nq, Nk)
    del q, k
    s = s.view(*shape, mask.Nk)  # (..., Nq, Nk)
    mask.hide_(s, mask.whole())
    if empty is not None:
        # A row that sees nothing becomes 0, which keeps softmax and its
        # gradient finite there; its output is cleared below.
        s.masked_fill_(empty, 0)
    lse = _lse(s, empty) if return_lse else None  # (..., Nq)
    p = torch.softmax(s, -1)  # (..., Nq, Nk)
    del s
    o = p.view(*folded, mask.Nk) @ v  # (..., Hk, group Nq, dv)
    o = o.view(*shape, v.shape[-1])
    if empty is not None:
        o.masked_fill_(empty, 0)
    return (o, lse) if return_lse else o


def _lse(s: Tensor, empty: Tensor | None) -> Tensor:
    m = row_max(s.detach())  # (..., Nq, 1); a constant: its gradient cancels
    l = (s - finite(m)).exp_().sum(-1, keepdim=True, dtype=sum_dtype(s))
    lse = m + l.log()  # (..., Nq, 1)
    if empty is not None:
        lse = lse.masked_fill(empty, -math.inf)
    return lse.squeeze(-1)


# Rung 3 --------------------------------------------------------------------


def online_attention(q, k, v, block_size: int) -> Iterator[SoftmaxState]:
    """The readable loop: yields the state after every block of keys.

    The last state's `finalise` is the answer; all of them are the trace that
    lessons and widgets show. q (..., N, d), k (..., M, d), v (..., M, D).
    """
    scale = q.shape[-1] ** -0.5
    state = SoftmaxState.identity(q, v)
    for k_j, v_j in zip(k.split(block_size, -2), v.split(block_size, -2)):
        s = scale * q @ k_j.mT  # (..., N, block)
        state = state.merge(SoftmaxState.of(s, v_j))
        yield state


def online_attention_backward(q, k, v, o, lse, do, size: int):
    """The readable backward: (dq, dk, dv) from what the forward left, o and lse.

    p = e^(s - lse) is the softmax; ds = p (do vT - delta) with delta = rowsum(do o).
    q, dq (..., N, d); k, dk (..., M, d); v, dv (..., M, D); o, do (..., N, D);
    lse (..., N). Source: Dao 2023, algorithm 2. Lesson 09.
    """
    scale = q.shape[-1] ** -0.5
    delta = (do * o).sum(-1, keepdim=True)  # (..., N, 1)
    dq, dk, dv = torch.zeros_like(q), [], []
    for k_j, v_j in zip(k.split(size, -2), v.split(size, -2)):
        s = scale * q @ k_j.mT  # (..., N, block)
        p = torch.exp(s - lse[..., None])  # (..., N, block)
        ds = p * (do @ v_j.mT - delta)  # (..., N, block)
        dq = dq + scale * ds @ k_j  # (..., N, d)
        dk.append(scale * ds.mT @ q)  # (..., block, d)
        dv.append(p.mT @ do)  # (..., block, D)
    return dq, torch.cat(dk, -2), torch.cat(dv, -2)
