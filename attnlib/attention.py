"""Two cores, one answer: softmax(q kT / sqrt(d)) v with and without the matrix.

The ladder; every rung computes the same function:

1. `attention_oracle`    the definition in float64; slow, and everyone's judge.
2. `standard_attention`  the textbook in the input's dtype: two N x N matrices.
3. `online_attention`    the readable loop: one `SoftmaxState` after every block.
4. `flash_attention`     the same loop over tiles, in place, with a backward that
                         computes the tiles again instead of keeping them.

`StdAttentionCord` and `FlashAttentionCore` are rungs 2 and 4 as modules. Both
take q (..., Nq, d), k (..., Nk, d), v (..., Nk, dv) and

- causal     bottom-right aligned: the last query sees every key (`masks.py`);
- key_mask   (..., Nk) bool, True = may be seen; leading dimensions as in q,
             each of its size or 1, or (Nk,) for all;
- window     an int w: a query sees the last w keys up to its own position;
- return_lse gives (o, lse), lse (..., Nq) the natural log of the sum of
             exp(scores), in float32 for 16-bit inputs.

Where there is a head dimension (-3), k and v may have fewer heads than q, a
divisor (grouped-query attention). A query that sees no key gets output 0, lse
-inf and gradient 0. Lessons 05 to 08.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnlib.masks import Mask, Tile, visible
from attnlib.preconditions import (
    head_group,
    require_attention_inputs,
    require_head_size,
    require_positive,
)
from attnlib.softmax import SoftmaxState, finite, row_max


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


class FlashAttentionCore(nn.Module):
    """The same answer as StdAttentionCord, tile by tile: memory linear in N.

    `block_size` is the side of the square tiles; it changes memory and speed,
    never the answer, and need not divide N. No parameters. Source: Dao et al.
    2022, algorithm 1 and, for the order of the loops, Dao 2023. Lesson 06.
    """

    def __init__(self, attention_head_size: int, block_size: int):
        super().__init__()
        self.attention_head_size = require_positive("attention_head_size", attention_head_size)
        self.block_size = require_positive("block_size", block_size)

    def forward(self, q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
        """Shapes, options and errors as in this module's docstring."""
        require_head_size(q, self.attention_head_size)
        options = {"causal": causal, "key_mask": key_mask, "window": window}
        return flash_attention(q, k, v, self.block_size, **options, return_lse=return_lse)

    def extra_repr(self) -> str:
        return f"attention_head_size={self.attention_head_size}, block_size={self.block_size}"


# Rung 1 --------------------------------------------------------------------


def attention_oracle(q, k, v, *, causal=False, key_mask=None, window=None) -> tuple[Tensor, Tensor]:
    """The definition, in float64: (o (..., Nq, dv), lse (..., Nq)).

    Nothing is saved or skipped, k and v are copied out to q's heads. Raises as
    the cores do.
    """
    mask = _mask(q, k, v, causal, key_mask, window)
    q, k, v = q.double(), k.double(), v.double()
    if q.dim() > 2:
        k, v = (x.repeat_interleave(head_group(q, k), -3) for x in (k, v))
    see = visible(mask.Nq, mask.Nk, causal=causal, window=window, device=q.device)
    if key_mask is not None:
        see = see & key_mask[..., None, :]  # (..., Nq, Nk)
    s = q / math.sqrt(q.shape[-1]) @ k.mT  # (..., Nq, Nk)
    s = s.masked_fill(~see, -math.inf)
    lse = torch.logsumexp(s, -1)  # (..., Nq)
    p = torch.softmax(s, -1).masked_fill(~see, 0)  # (..., Nq, Nk)
    return p @ v, lse


# Rung 2 --------------------------------------------------------------------


def standard_attention(q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
    """Textbook attention; the functional form of `StdAttentionCord`."""
    mask = _mask(q, k, v, causal, key_mask, window)
    shape, group = q.shape[:-1], head_group(q, k)
    q, k, v = (x if x.dim() > 2 else x[None] for x in (q, k, v))
    # A group of query heads shares its keys as if it were one longer head.
    folded = (*k.shape[:-2], group * mask.Nq)
    q = (q / math.sqrt(q.shape[-1])).reshape(*folded, q.shape[-1])
    s = q @ k.mT  # (..., Hk, group Nq, Nk)
    del q
    s = s.view(*shape, mask.Nk)  # (..., Nq, Nk)
    mask.hide_(s, mask.whole())
    empty = None
    if mask.may_empty_rows():
        # A row that sees nothing becomes 0, which keeps softmax and its
        # gradient finite there; its output is cleared below.
        empty = row_max(s.detach()) == -math.inf  # (..., Nq, 1)
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
    l = (s - finite(m)).exp_().sum(-1, keepdim=True, dtype=_score_dtype(s))
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


# Rung 4 --------------------------------------------------------------------


def flash_attention(
    q, k, v, block_size, *, causal=False, key_mask=None, window=None, return_lse=False
):
    """Tiled attention in linear memory; functional form of `FlashAttentionCore`."""
    mask = _mask(q, k, v, causal, key_mask, window)
    block_size = require_positive("block_size", block_size)
    shape, group = q.shape[:-1], head_group(q, k)
    q, k, v = (x if x.dim() > 2 else x[None] for x in (q, k, v))
    # From here on q is (..., Hk, G, Nq, d): G query heads to each of Hk.
    q = q.unflatten(-3, (k.shape[-3], group))
    if key_mask is not None and key_mask.dim() > 1:
        heads = (k.shape[-3], group) if key_mask.shape[-2] != 1 else (1, 1)
        mask = mask._replace(key_mask=key_mask.unflatten(-2, heads))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        o, lse = _FlashAttention.apply(q, k, v, mask, block_size)
    else:
        o, lse = _flash_forward(q, k, v, mask, block_size, return_lse)
    o = o.view(*shape, v.shape[-1])
    return (o, lse.view(shape)) if return_lse else o


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mask, block_size):
        ctx.mask, ctx.block_size = mask._replace(key_mask=None), block_size
        o, lse = _flash_forward(q, k, v, mask, block_size, True)
        ctx.save_for_backward(q, k, v, o, lse, mask.key_mask)
        return o, lse

    @staticmethod
    def backward(ctx, do, dlse):
        *saved, key_mask = ctx.saved_tensors
        mask = ctx.mask._replace(key_mask=key_mask)
        with torch.no_grad():
            grads = _flash_backward(*saved, do, dlse, mask, ctx.block_size)
        if torch.is_grad_enabled():  # somebody keeps the graph of this backward
            grads = _OnceDifferentiable.apply(*grads, *saved[:3], do, dlse)
        return *grads, None, None


class _OnceDifferentiable(torch.autograd.Function):
    """Ties the gradients to what they came from, so that a second backward cannot
    take them for constants."""

    @staticmethod
    def forward(ctx, dq, dk, dv, *came_from):
        return dq.view_as(dq), dk.view_as(dk), dv.view_as(dv)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "flash_attention can be differentiated once only; for second derivatives "
            "use standard_attention (StdAttentionCord), which gives the same answer"
        )


def _flash_forward(q, k, v, mask, block_size, return_lse):
    out = q.new_zeros(*q.shape[:-1], v.shape[-1])  # (..., Hk, G, Nq, dv)
    lse = q.new_empty(q.shape[:-1], dtype=_score_dtype(q)) if return_lse else None
    scores = _score_buffer(q, k, block_size)
    for rows, tiles in mask.tile_rows(block_size):
        _forward_rows(out, lse, q, k, v, mask, rows, tiles, scores)
    return out, lse


def _forward_rows(out, lse, q, k, v, mask, rows, tiles, scores):
    """Fill the rows of out and lse: one block of queries against its tiles."""
    o_i = out[..., rows, :]  # (..., Hk, G, bq, dv)
    o = o_i.to(scores.dtype)  # itself, or a float32 accumulator for 16-bit
    q_i = _matrices(q[..., rows, :])  # (B, G bq, d)
    # m starts finite, so that m - m_new is never -inf - (-inf): no score that
    # can be seen is lower, and exp(-inf - m) is 0 for those that can't.
    m = o.new_full((*o.shape[:-1], 1), torch.finfo(o.dtype).min)  # (..., Hk, G, bq, 1)
    l = torch.zeros_like(m)  # (..., Hk, G, bq, 1)
    for tile in tiles:
        s = _scores(scores, q_i, k, mask, tile)  # (..., Hk, G, bq, bk)
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))  # (..., Hk, G, bq, 1)
        p = _exp_(s.sub_(m_new))  # (..., Hk, G, bq, bk)
        a = _exp_(m.sub_(m_new))  # (..., Hk, G, bq, 1)
        l.mul_(a).add_(p.sum(-1, keepdim=True))
        _add_product(o.mul_(a), p, v[..., tile.cols, :])
        m = m_new
    if lse is not None:
        lse[..., rows] = (m + l.log()).squeeze(-1)
    o.div_(l.clamp_(min=1))  # l >= 1 once a key was seen
    if o is not o_i:
        o_i.copy_(o)


def _flash_backward(q, k, v, o, lse, do, dlse, mask, block_size):
    """dq, dk, dv by the recomputed p = exp(s - lse).

    dv = pT do; ds = p (do vT - delta + dlse) with delta = rowsum(do o);
    dq = ds k / sqrt(d); dk = dsT q / sqrt(d). Source: Dao 2023, algorithm 2.
    """
    scores = _score_buffer(q, k, block_size)
    dscores = torch.empty_like(scores)
    dq, dk, dv = (scores.new_zeros(x.shape) for x in (q, k, v))
    for rows, tiles in mask.tile_rows(block_size):
        row = (x[..., rows, :] for x in (q, o, lse[..., None], do, dlse[..., None], dq))
        _backward_rows(*row, k, v, dk, dv, mask, tiles, scores, dscores)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _backward_rows(q, o, lse, do, dlse, dq, k, v, dk, dv, mask, tiles, scores, dscores):
    """Add one block of queries' part to its rows of dq, and to dk and dv."""
    scale = q.shape[-1] ** -0.5
    empty = lse == -math.inf  # (..., Hk, G, bq, 1): constants, whatever comes back
    do, dlse = do.masked_fill(empty, 0), dlse.masked_fill(empty, 0)
    lse = lse.masked_fill(empty, math.inf)  # so that their p is 0
    delta = (do.to(lse.dtype) * o).sum(-1, keepdim=True).sub_(dlse)
    q, do = _matrices(q), _matrices(do)  # (B, G bq, d), (B, G bq, dv)
    for tile in tiles:
        k_j, v_j, dk_j, dv_j = (x[..., tile.cols, :] for x in (k, v, dk, dv))
        p = _exp_(_scores(scores, q, k, mask, tile).sub_(lse))
        _product(dv_j.flatten(0, -3), _matrices(p).mT, do, beta=1)
        ds = dscores[: p.numel()].view(p.shape)  # (..., Hk, G, bq, bk)
        _product(_matrices(ds), do, v_j.flatten(0, -3).mT)
        ds.sub_(delta).mul_(p)
        _add_product(dq, ds, k_j, alpha=scale)
        _product(dk_j.flatten(0, -3), _matrices(ds).mT, q, alpha=scale, beta=1)


def _scores(buffer, q_i, k, mask, tile: Tile) -> Tensor:
    """The tile's masked scores (..., Hk, G, bq, bk), written into the buffer."""
    k_j = k[..., tile.cols, :]  # (..., Hk, bk, d)
    bq, bk = tile.rows.stop - tile.rows.start, k_j.shape[-2]
    s = buffer[: q_i[..., 0].numel() * bk].view(*q_i.shape[:-1], bk)  # (B, G bq, bk)
    # Scaled after the product, a score might overflow that need not; a scaled copy of
    # q_i would be memory. So part by part, by a power of two, which rounds nothing.
    scale = q_i.shape[-1] ** -0.5
    power = 2.0 ** math.floor(math.log2(scale))
    for q_part, k_part, s_part in _parts(q_i, k_j.flatten(0, -3), s):
        _product(s_part, q_part * power, k_part.mT, alpha=scale / power)
    return mask.hide_(s.view(*k.shape[:-2], q_i.shape[1] // bq, bq, bk), tile)


def _parts(q, k, s):
    """Pieces of a stack of products q kT = s: a few heads, or rows where heads are few."""
    if q.shape[0] >= 4:
        return zip(q.chunk(4), k.chunk(4), s.chunk(4))
    return zip(q.chunk(8, 1), [k] * 8, s.chunk(8, 1))


def _add_product(o, p, v, alpha=1.0):
    """o (..., Hk, G, bq, dv) += alpha p (..., Hk, G, bq, bk) v (..., Hk, bk, dv)."""
    v = v.flatten(0, -3)  # (B, bk, dv)
    # A group's rows lie apart in o, so each of its heads is a product of its own.
    for o_g, p_g in zip(o.unbind(-3), p.unbind(-3)):
        _product(o_g.flatten(0, -3), p_g.flatten(0, -3), v, alpha=alpha, beta=1)


def _product(out, a, b, alpha=1.0, beta=0.0):
    """out (B, n, m) <- alpha a (B, n, r) b (B, r, m) + beta out, in out's dtype."""
    if b.dtype == out.dtype:
        torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)
    elif out.is_cuda or out.is_meta:  # 16-bit factors, summed in float32
        a = a.to(b.dtype)
        if out.is_cuda:  # meta has no such kernel, and nothing to compute
            torch.baddbmm(out, a, b, out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        a, b = a.to(out.dtype), b.to(out.dtype)
        torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)


def _matrices(x: Tensor) -> Tensor:
    """(..., Hk, G, n, d) as a stack (B, G n, d): a group is one longer matrix."""
    return x.flatten(-3, -2).flatten(0, -3)


def _mask(q, k, v, causal, key_mask, window) -> Mask:
    window = require_attention_inputs(q, k, v, causal, key_mask, window)
    return Mask(q.shape[-2], k.shape[-2], causal, window, key_mask)


def _score_buffer(q, k, block_size) -> Tensor:
    rows, cols = min(block_size, q.shape[-2]), min(block_size, k.shape[-2])
    return q.new_empty(math.prod(q.shape[:-2]) * rows * cols, dtype=_score_dtype(q))


def _score_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype.itemsize == 2 else x.dtype


LOG2_E = math.log2(math.e)


def _exp_(x: Tensor) -> Tensor:
    """e^x in place. On CPUs exp_ can be 30 times slower where it underflows, and
    is slower everywhere; exp2_ is not. (`measure` shows it.)"""
    return x.mul_(LOG2_E).exp2_() if x.device.type == "cpu" else x.exp_()
