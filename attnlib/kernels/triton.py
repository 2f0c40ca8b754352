"""The readable loop as GPU kernels in Triton: each program folds the keys for one block.

`forward` runs a program for each block of queries: o and lse, as in `attention.py`.

Scores are in powers of two (scale log2 e in the exponent), as exp2 is what the chip
has. Tiles that every query sees whole need no mask: two loops, the second one masks.
Runs on any CUDA card that Triton serves; without one, in Triton's interpreter. Lesson 12.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
FULL = tl.constexpr("ieee")  # a product of float32 is one; 16-bit products do not ask


@triton.jit
def at(X, b, h, strides):
    """Where head h of batch entry b begins."""
    return X + b * strides[0] + h * strides[1]


@triton.jit
def tile(X, rows, N, stride, D: tl.constexpr, C: tl.constexpr, RAGGED: tl.constexpr):
    """X[rows, :D] as (rows, C), 0 beyond; C is a power of two."""
    c = tl.arange(0, C)
    at = X + rows.to(tl.int64)[:, None] * stride + c[None, :]
    if RAGGED:
        return tl.load(at, mask=(rows[:, None] < N) & (c[None, :] < D), other=0.0)
    return tl.load(at) if D == C else tl.load(at, mask=c[None, :] < D, other=0.0)


@triton.jit
def save(X, x, rows, N, stride, D: tl.constexpr, C: tl.constexpr):
    c = tl.arange(0, C)
    at = X + rows.to(tl.int64)[:, None] * stride + c[None, :]
    tl.store(at, x.to(X.dtype.element_ty), mask=(rows[:, None] < N) & (c[None, :] < D))


@triton.jit
def visible(i, j, Nk, shift, CAUSAL: tl.constexpr):
    """Which keys j (columns) the queries i (rows) see."""
    see = (j < Nk)[None, :] & (i >= 0)[:, None]
    return see & (i[:, None] + shift >= j[None, :]) if CAUSAL else see


@triton.jit
def spans(first, Nk, shift, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Of the keys for BM queries from `first` on: where those in tiles that all of the
    queries see whole end, and where those that any of them sees."""
    if not CAUSAL:
        return Nk // BN * BN, Nk
    whole = tl.maximum(tl.minimum(first + shift + 1, Nk), 0) // BN * BN
    return whole, tl.minimum(Nk, first + BM + shift)


@triton.jit
def forward_kernel(
    Q,
    K,
    V,
    O,
    LSE,
    qs,
    ks,
    vs,
    sizes,
    scale,
    CAUSAL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    C: tl.constexpr,
    CV: tl.constexpr,
):
    H, G, Nq, Nk = sizes
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    head, h = tl.program_id(1).to(tl.int64), tl.program_id(1) % H
    b, first, shift = head // H, block * BM, Nk - Nq
    K, V = at(K, b, h // G, ks), at(V, b, h // G, vs)
    i = first + tl.arange(0, BM)
    q = tile(at(Q, b, h, qs), i, Nq, qs[2], D, C, True)
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    o = tl.zeros([BM, CV], tl.float32)
    whole, end = spans(first, Nk, shift, CAUSAL, BM, BN)
    for masked in tl.static_range(2):
        for n in tl.range(whole if masked else 0, end if masked else whole, BN):
            j = n + tl.arange(0, BN)
            k = tile(K, j, Nk, ks[2], D, C, masked)
            s = tl.dot(q, k.T, input_precision=FULL) * (scale * LOG2E)
            if masked:
                s = tl.where(visible(i, j, Nk, shift, CAUSAL), s, -float("inf"))
            m_new = tl.maximum(m, tl.max(s, 1))
            base = tl.where(m_new == -float("inf"), 0.0, m_new) if masked else m_new
            p, a = tl.exp2(s - base[:, None]), tl.exp2(m - base)
            l = l * a + tl.sum(p, 1)
            v = tile(V, j, Nk, vs[2], DV, CV, masked)
            o = tl.dot(p.to(v.dtype), v, o * a[:, None], input_precision=FULL)
            m = m_new
    l = tl.where(l == 0, 1.0, l)  # who sees nothing gets o = 0, lse = -inf
    save(O + head * Nq * DV, o / l[:, None], i, Nq, DV, DV, CV)
    tl.store(LSE + head * Nq + i, (m + tl.log2(l)) * LN2, mask=i < Nq)


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, tiles=(128, 64, 8, 3)):
    """o (B, H, Nq, dv) and lse (B, H, Nq) float32, lse natural.

    q (B, H, Nq, d), k (B, Hk, Nk, d), v (B, Hk, Nk, dv), last dimensions dense; tiles
    are queries, keys, warps and stages. No check: see `core.py`.
    """
    B, H, Nq, _ = q.shape
    o = q.new_empty(B, H, Nq, v.shape[-1])
    lse = q.new_empty(B, H, Nq, dtype=torch.float32)
    BM, BN, warps, stages = tiles
    grid = (triton.cdiv(Nq, BM), B * H)
    if 0 not in grid:
        args = common(q, k, v, causal, BM, BN)
        forward_kernel[grid](q, k, v, o, lse, *args, num_warps=warps, num_stages=stages)
    return o, lse


def common(q, k, v, causal, BM, BN) -> tuple:
    """Strides, sizes and constants that every kernel here takes, in this order."""
    (_, H, Nq, d), (_, Hk, Nk, dv) = q.shape, v.shape
    strides = (x.stride()[:3] for x in (q, k, v))
    return (
        *strides,
        (H, H // Hk, Nq, Nk),
        1 / math.sqrt(d),
        causal,
        BM,
        BN,
        d,
        dv,
        power(d),
        power(dv),
    )


def power(d: int) -> int:
    return max(16, triton.next_power_of_2(d))  # the least that a product takes
