"""The loop with its step compiled: fewer trips to memory, still a loop of Python's.

1. `block_step`          one tile's update of (m, l, o), as plain tensor code.
2. `compiled_attention`  the loop around it, its step compiled for the GPU.

The compiler joins the step's dozen operators into four kernels: two products,
one that looks for the maxima, one that does all the rest. Scores stay in the
input's dtype, as in standard attention: in float32 twice the bytes would travel.
m, l and o are float32. Forward only; measured, not predicted: what compiled code
allocates no bookkeeping sees. Lesson 08.
"""

import functools
import math

import torch
from torch import Tensor

from attnlib.masks import Mask, hidden
from attnlib.preconditions import require_attention_inputs, require_positive


def block_step(m, l, o, q, k, v, hide: Tensor | None):
    """(m, l, o) after one more tile: q (B, bq, d), k (B, bk, d), v (B, bk, dv).

    m, l (B, bq, 1) and o (B, bq, dv) are float32, m finite; `hide` (bq, bk) is
    True where a query may not see a key.
    """
    s = (q @ k.mT).to(m.dtype) * q.shape[-1] ** -0.5  # (B, bq, bk)
    if hide is not None:
        s = s.masked_fill(hide, -math.inf)
    m_new = torch.maximum(m, s.amax(-1, keepdim=True))  # (B, bq, 1)
    p, a = torch.exp(s - m_new), torch.exp(m - m_new)
    return m_new, l * a + p.sum(-1, keepdim=True), o * a + p.to(v.dtype) @ v


def compiled_attention(q, k, v, block_size: int = 4096, *, causal: bool = False) -> Tensor:
    """softmax(q kT / sqrt(d)) v (..., Nq, dv) by compiled steps, without gradients.

    q (..., Nq, d), k (..., Nk, d), v (..., Nk, dv), with as many heads each. On a
    CPU the step runs as it stands, since compiling there needs a C++ compiler.
    """
    require_attention_inputs(q, k, v, causal, None, None)
    if k.shape[:-2] != q.shape[:-2]:
        raise ValueError(
            f"k must have q's leading dimensions {tuple(q.shape[:-2])}, got {tuple(k.shape[:-2])}"
        )
    step = _compiled_step() if q.is_cuda else block_step
    mask = Mask(q.shape[-2], k.shape[-2], causal)
    out = q.new_empty(*q.shape[:-1], v.shape[-1])  # (..., Nq, dv)
    q, k, v, rows_of_out = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v, out))
    dtype = torch.promote_types(q.dtype, torch.float32)
    for rows, tiles in mask.tile_rows(require_positive("block_size", block_size)):
        q_i, o_i = q[:, rows], rows_of_out[:, rows]
        o = torch.zeros_like(o_i, dtype=dtype)  # (B, bq, dv)
        m = o.new_full((*o.shape[:-1], 1), torch.finfo(dtype).min)  # (B, bq, 1)
        l = torch.zeros_like(m)  # (B, bq, 1)
        for tile in tiles:
            hide = hidden(tile, mask.Nk - mask.Nq, device=q.device) if tile.partial else None
            m, l, o = step(m, l, o, q_i, k[:, tile.cols], v[:, tile.cols], hide)
        o_i.copy_(o / l.clamp(min=1))  # l >= 1 once a key was seen
    return out


@functools.cache
def _compiled_step():
    # One graph a shape and stride; eight, the default, is less than a lesson meets.
    torch._dynamo.config.recompile_limit = 100
    return torch.compile(block_step, dynamic=False)
