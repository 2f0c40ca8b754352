"""Rung 4: the loop over tiles, in place, on memory for one tile of scores.

What `online_attention` and `online_attention_backward` (rung 3) do, as kernels do it:

- a tile is a block of queries by a block of keys; the queries are the outer loop,
  so that m, l and o of one block stay at hand until they are done, and o is
  divided once;
- every tile of scores is computed in the same buffer and turns into p there;
- the base is 2, which processors raise faster: scores are multiplied by c =
  log2(e) / sqrt(d) as they leave the product, so that e^(q k / sqrt(d)) = 2^s. What
  must be finite is q kT;
- tiles that the mask rules out are never computed (`masks.py`);
- where heads of k and v are shared, each group's query heads take turns;
- 16-bit inputs have s, m, l and o in float32, and p in 16 bit for its product;
- the backward keeps no tile: from q, k, v, o and lse it computes each one again;
- vmap is one more leading dimension, and torch.compile takes each loop as one
  operator; what it cannot do, second and forward-mode derivatives, it says.

Options, shapes and errors are those of `attention.py`. Source: Dao et al. 2022,
algorithm 1, with the loops in the order of Dao 2023. Lessons 06 to 09.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attnlib.masks import Mask, Tile
from attnlib.preconditions import follows_autocast, head_group, require_head_size, require_positive
from attnlib.softmax import sum_dtype

LOG2_E = math.log2(math.e)


class FlashAttentionCore(nn.Module):
    """The same answer as StdAttentionCord, tile by tile: memory linear in N.

    `block_size` is the side of the square tiles; it changes memory and speed,
    never the answer, and need not divide N. No parameters. Lesson 06.
    """

    def __init__(self, attention_head_size: int, block_size: int):
        super().__init__()
        self.attention_head_size = require_positive("attention_head_size", attention_head_size)
        self.block_size = require_positive("block_size", block_size)

    def forward(self, q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
        """Shapes, options and errors as in `attention.py`."""
        require_head_size(q, self.attention_head_size)
        options = {"causal": causal, "key_mask": key_mask, "window": window}
        return flash_attention(q, k, v, self.block_size, **options, return_lse=return_lse)

    def extra_repr(self) -> str:
        return f"attention_head_size={self.attention_head_size}, block_size={self.block_size}"


@follows_autocast
def flash_attention(
    q, k, v, block_size, *, causal=False, key_mask=None, window=None, return_lse=False
):
    """Tiled attention in linear memory; the functional form of `FlashAttentionCore`."""
    mask = Mask.of(q, k, v, causal, key_mask, window)
    block_size = require_positive("block_size", block_size)
    shape = q.shape[:-1]
    q, k, v = (x if x.dim() > 2 else x[None] for x in (q, k, v))  # (..., H, N, d)
    if torch.compiler.is_compiling():
        o, lse = _forward_op(q, k, v, key_mask, causal, mask.window, block_size)
    else:
        if key_mask is not None and key_mask.is_inference():
            key_mask = key_mask.clone()  # autograd may save only a copy
        mask = mask._replace(key_mask=None)
        o, lse = differentiable(q, k, v, key_mask, mask, block_size, return_lse)
    o = o.view(*shape, v.shape[-1])
    return (o, lse.view(shape)) if return_lse else o


# The two loops ---------------------------------------------------------------


def flash_forward(q, k, v, mask: Mask, block_size: int, return_lse: bool):
    """o (..., H, Nq, dv), and lse (..., H, Nq) or None."""
    scores = TileBuffer(q, k, block_size)
    o = q.new_zeros(*q.shape[:-1], v.shape[-1])  # (..., H, Nq, dv)
    lse = q.new_empty(q.shape[:-1], dtype=scores.dtype) if return_lse else None
    for i, mask_i, tiles in query_blocks(q, k, mask, block_size):
        q_i, out = stack(q[i]), stack(o[i])  # (B, bq, d), (B, bq, dv)
        o_i = out.to(scores.dtype)  # itself, or a float32 accumulator for 16 bit
        # m starts finite, so that m - m_new is never -inf - (-inf): no score that
        # can be seen is lower, and 2^(-inf - m) is 0 for those that can't.
        m = o_i.new_full((*o_i.shape[:-1], 1), torch.finfo(o_i.dtype).min)  # (B, bq, 1)
        l = torch.zeros_like(m)  # (B, bq, 1)
        for tile in tiles:
            j = (..., tile.cols, slice(None))
            s = scores.masked_product(q_i, stack(k[j]).mT, mask_i, tile)  # (B, bq, bk)
            m_new = torch.maximum(m, s.amax(-1, keepdim=True))  # (B, bq, 1)
            p = s.sub_(m_new).exp2_()  # (B, bq, bk)
            a = m.sub_(m_new).exp2_()  # (B, bq, 1)
            l.mul_(a).add_(p.sum(-1, keepdim=True))
            add_product(o_i.mul_(a), p, stack(mask_i.without_padding(v[j], tile.cols)))
            m = m_new
        # Only a row that saw no key has l = 0; its answer is 0, whatever v holds.
        out.copy_(o_i.div_(l).masked_fill_(l == 0, 0))
        if return_lse:
            stack(lse[..., None][i]).copy_(l.log2_().add_(m).div_(LOG2_E))
    return o, lse


def flash_backward(q, k, v, o, lse, do, dlse, mask: Mask, block_size: int):
    """dq, dk, dv, in the dtype of the scores, by the recomputed p = e^(s / sqrt(d) - lse).

    dv = pT do; ds = p (do vT - delta + dlse) with delta = rowsum(do o);
    dq = ds k / sqrt(d); dk = dsT q / sqrt(d). Source: Dao 2023, algorithm 2.
    """
    scale = q.shape[-1] ** -0.5
    scores, dscores = TileBuffer(q, k, block_size), TileBuffer(q, k, block_size)
    dq, dk, dv = (q.new_zeros(x.shape, dtype=scores.dtype) for x in (q, k, v))
    lse, dlse = lse[..., None], dlse[..., None]  # (..., H, Nq, 1)
    for i, mask_i, tiles in query_blocks(q, k, mask, block_size):
        q_i, o_i, lse_i, do_i, dlse_i, dq_i = (stack(x[i]) for x in (q, o, lse, do, dlse, dq))
        # A row that saw no key is a constant, whatever comes back; lse = inf makes its p 0.
        empty = lse_i == -math.inf  # (B, bq, 1)
        q_i, do_i, dlse_i = (x.masked_fill(empty, 0) for x in (q_i, do_i, dlse_i))
        lse_i = lse_i.masked_fill(empty, math.inf).mul_(LOG2_E)
        delta = (do_i.to(lse.dtype) * o_i).sum(-1, keepdim=True).sub_(dlse_i)  # (B, bq, 1)
        for tile in tiles:
            j = (..., tile.cols, slice(None))
            k_j, v_j = (stack(mask_i.without_padding(x[j], tile.cols)) for x in (k, v))
            s = scores.masked_product(q_i, k_j.mT, mask_i, tile)  # (B, bq, bk)
            p = s.sub_(lse_i).exp2_()  # (B, bq, bk)
            add_product(stack(dv[j]), p.mT, do_i)
            ds = dscores.product(do_i, v_j.mT).sub_(delta).mul_(p)  # (B, bq, bk)
            add_product(dq_i, ds, k_j, scale)
            add_product(stack(dk[j]), ds.mT, q_i, scale)
        dq_i.masked_fill_(empty, 0)
    return dq, dk, dv


def query_blocks(q, k, mask: Mask, block_size: int) -> Iterator[tuple[tuple, Mask, list[Tile]]]:
    """For each block of queries: its index in q, the mask of its heads, its tiles.

    The G query heads that share a key head take turns: the index is
    (..., heads, rows, :) with heads g, g + G, g + 2G ..., one for each key head.
    """
    group = head_group(q, k)
    for g in range(group):
        heads = slice(g, None, group)
        mask_g = mask.for_heads(heads)
        for rows, tiles in mask.tile_rows(block_size):
            yield (..., heads, rows, slice(None)), mask_g, tiles


# One tile --------------------------------------------------------------------


class TileBuffer:
    """Memory for one tile of scores of each key head, lent to tile after tile."""

    def __init__(self, q: Tensor, k: Tensor, block_size: int):
        self.dtype, self.lead = sum_dtype(q), k.shape[:-2]
        self.c = LOG2_E * q.shape[-1] ** -0.5
        rows, cols = min(block_size, q.shape[-2]), min(block_size, k.shape[-2])
        self.memory = q.new_empty(math.prod(self.lead) * rows * cols, dtype=self.dtype)

    def product(self, a: Tensor, b: Tensor, alpha: float = 1) -> Tensor:
        """alpha times a (B, n, r) times b (B, r, m), as (B, n, m) in this memory."""
        shape = (*a.shape[:-1], b.shape[-1])
        return add_product(self.memory[: math.prod(shape)].view(shape), a, b, alpha, beta=0)

    def masked_product(self, q_i: Tensor, k_j: Tensor, mask: Mask, tile: Tile) -> Tensor:
        """Scores in powers of 2, and -inf where the tile's queries may not see its keys."""
        s = self.product(q_i, k_j, self.c)  # (B, bq, bk)
        mask.hide_(s.view(*self.lead, *s.shape[1:]), tile)
        return s


def add_product(out: Tensor, a: Tensor, b: Tensor, alpha: float = 1, beta: float = 1) -> Tensor:
    """out (B, n, m) <- alpha a (B, n, r) b (B, r, m) + beta out, summed in out's dtype."""
    if b.dtype == out.dtype:
        return torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)
    if out.is_cuda:  # tensor cores take 16-bit factors and sum in float32
        return torch.baddbmm(out, a.to(b.dtype), b, out.dtype, beta=beta, alpha=alpha, out=out)
    if out.is_meta:  # has no such kernel, and nothing to compute: only memory to count
        a.to(b.dtype)
        return out
    a, b = a.to(out.dtype), b.to(out.dtype)
    return torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)


def stack(x: Tensor) -> Tensor:
    """(..., n, d) as a stack of matrices (B, n, d): a view, unless batch and heads
    lie apart in memory."""
    return x.flatten(0, -3)


# Autograd --------------------------------------------------------------------

MANY = "flash_attention can be differentiated once only, and backwards"
INSTEAD = "use standard_attention (StdAttentionCord), which gives the same answer"


def differentiable(q, k, v, key_mask, mask, block_size, return_lse):
    """`flash_forward` for autograd and torch.func, with lse also where a backward needs it."""
    return_lse |= torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return _FlashAttention.apply(q, k, v, key_mask, mask, block_size, return_lse)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, key_mask, mask, block_size, return_lse):
        return flash_forward(q, k, v, mask._replace(key_mask=key_mask), block_size, return_lse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, key_mask, ctx.mask, ctx.block_size, _ = inputs
        # Saved, not kept: autograd then notices if the mask was changed since.
        ctx.save_for_backward(q, k, v, *output, key_mask)

    @staticmethod
    def backward(ctx, do, dlse):
        *saved, key_mask = ctx.saved_tensors
        grads = _FlashBackward.apply(*saved, do, dlse, key_mask, ctx.mask, ctx.block_size)
        return *grads, None, None, None, None

    @staticmethod
    def vmap(info, in_dims, q, k, v, key_mask, *rest):
        args = _lead(info.batch_size, in_dims, (q, k, v), key_mask)
        o, lse = differentiable(*args, *rest)
        return (o, lse), (0, None if lse is None else 0)

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(f"{MANY}; for forward-mode derivatives {INSTEAD}")


class _FlashBackward(torch.autograd.Function):
    """The gradients, tied to what they came from, so that a second backward cannot
    take them for constants."""

    @staticmethod
    def forward(q, k, v, o, lse, do, dlse, key_mask, mask, block_size):
        mask = mask._replace(key_mask=key_mask)
        grads = flash_backward(q, k, v, o, lse, do, dlse, mask, block_size)
        return tuple(dx.to(q.dtype) for dx in grads)  # after the loop has left its memory

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, *args):
        *tensors, key_mask, mask, block_size = args
        args = _lead(info.batch_size, in_dims, tensors, key_mask)
        return _FlashBackward.apply(*args, mask, block_size), (0, 0, 0)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(f"{MANY}; for second derivatives {INSTEAD}")

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(f"{MANY}; for second derivatives {INSTEAD}")


def _lead(n: int, in_dims, tensors, key_mask) -> list:
    """vmap's batch of n as one more leading dimension, which attention takes anyway."""
    tensors = [
        x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims)
    ]
    dim, dims = in_dims[len(tensors)], tensors[0].dim() - 1
    if key_mask is not None and dim is not None:
        key_mask = key_mask.movedim(dim, 0)  # (n, ..., Nk) or (n, Nk)
        key_mask = key_mask.view(n, *[1] * (dims - key_mask.dim()), *key_mask.shape[1:])
    elif key_mask is not None and key_mask.dim() > 1:
        key_mask = key_mask[None]
    return [*tensors, key_mask]


# torch.compile ---------------------------------------------------------------
# Traced, the loops would be unrolled: minutes of compiling, twice the memory, and no
# 16-bit products on CUDA. So the compiler sees each as one operator.


@torch.library.custom_op("attnlib::flash_forward", mutates_args=())
def _forward_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    causal: bool,
    window: int | None,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    mask = Mask(q.shape[-2], k.shape[-2], causal, window, key_mask)
    return flash_forward(q, k, v, mask, block_size, return_lse=True)


@_forward_op.register_fake
def _(q, k, v, *_):
    o = q.new_empty(*q.shape[:-1], v.shape[-1])
    return o, q.new_empty(q.shape[:-1], dtype=sum_dtype(q))


@torch.library.custom_op("attnlib::flash_backward", mutates_args=())
def _backward_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor,
    key_mask: Tensor | None,
    causal: bool,
    window: int | None,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mask = Mask(q.shape[-2], k.shape[-2], causal, window, key_mask)
    grads = flash_backward(q, k, v, o, lse, do, dlse, mask, block_size)
    return tuple(dx.to(q.dtype) for dx in grads)


@_backward_op.register_fake
def _(q, k, v, *_):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _save(ctx, inputs, output):
    q, k, v, key_mask, *ctx.options = inputs
    ctx.save_for_backward(q, k, v, *output, key_mask)


def _gradients(ctx, do, dlse):
    *saved, key_mask = ctx.saved_tensors
    return *_backward_op(*saved, do, dlse, key_mask, *ctx.options), None, None, None, None


_forward_op.register_autograd(_gradients, setup_context=_save)
