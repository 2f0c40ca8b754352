"""The readable loop as GPU kernels in Triton: each program folds the keys for one block.

1. `forward`    a program for each block of queries: o and lse, as in `attention.py`.
2. `backward`   delta; then dk, dv by blocks of keys, dq by blocks of queries.

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
def forward_kernel(
    Q,
    K,
    V,
    O,
    LSE,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    G,
    Nq,
    Nk,
    scale,
    CAUSAL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    C: tl.constexpr,
    CV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    head, h = tl.program_id(1).to(tl.int64), tl.program_id(1) % H
    b, first, shift = head // H, block * BM, Nk - Nq
    K += b * k_b + h // G * k_h
    V += b * v_b + h // G * v_h
    i = first + tl.arange(0, BM)
    q = tile(Q + b * q_b + h * q_h, i, Nq, q_n, D, C, True)
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    o = tl.zeros([BM, CV], tl.float32)
    end = tl.minimum(Nk, first + BM + shift) if CAUSAL else Nk
    whole = tl.maximum(tl.minimum(first + shift + 1, Nk) if CAUSAL else Nk, 0) // BN * BN
    for masked in tl.static_range(2):
        for n in tl.range(whole if masked else 0, end if masked else whole, BN):
            j = n + tl.arange(0, BN)
            k = tile(K, j, Nk, k_n, D, C, masked)
            s = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2E)
            if masked:
                s = tl.where(visible(i, j, Nk, shift, CAUSAL), s, -float("inf"))
            m_new = tl.maximum(m, tl.max(s, 1))
            base = tl.where(m_new == -float("inf"), 0.0, m_new) if masked else m_new
            p, a = tl.exp2(s - base[:, None]), tl.exp2(m - base)
            l = l * a + tl.sum(p, 1)
            v = tile(V, j, Nk, v_n, DV, CV, masked)
            o = tl.dot(p.to(v.dtype), v, o * a[:, None], input_precision=PRECISION)
            m = m_new
    l = tl.where(l == 0, 1.0, l)  # who sees nothing gets o = 0, lse = -inf
    save(O + head * Nq * DV, o / l[:, None], i, Nq, DV, DV, CV)
    tl.store(LSE + head * Nq + i, (m + tl.log2(l)) * LN2, mask=i < Nq)


@triton.jit
def delta_kernel(O, DO, DELTA, rows, DV: tl.constexpr, CV: tl.constexpr, R: tl.constexpr):
    """delta = do . o, one number a row."""
    i = tl.program_id(0) * R + tl.arange(0, R)
    o, do = tile(O, i, rows, DV, DV, CV, True), tile(DO, i, rows, DV, DV, CV, True)
    tl.store(DELTA + i, tl.sum(o.to(tl.float32) * do.to(tl.float32), 1), mask=i < rows)


@triton.jit
def row_numbers(LSE, DELTA, i, Nq):
    """lse in powers of two, +inf where nothing was seen (p = 0), and delta."""
    lse = tl.load(LSE + i, mask=i < Nq, other=float("inf")) * LOG2E
    return tl.where(lse == -float("inf"), float("inf"), lse), tl.load(
        DELTA + i, mask=i < Nq, other=0.0
    )


@triton.jit
def keys_kernel(
    Q,
    K,
    V,
    DO,
    LSE,
    DELTA,
    DK,
    DV_,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    G,
    Nq,
    Nk,
    scale,
    CAUSAL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    C: tl.constexpr,
    CV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dk and dv of BN keys: over the queries of all heads that share them."""
    first, shift = tl.program_id(0) * BN, Nk - Nq
    head, b, h = (
        tl.program_id(1).to(tl.int64),
        tl.program_id(1) // (H // G),
        tl.program_id(1) % (H // G),
    )
    j = first + tl.arange(0, BN)
    k = tile(K + b.to(tl.int64) * k_b + h * k_h, j, Nk, k_n, D, C, True)
    v = tile(V + b.to(tl.int64) * v_b + h * v_h, j, Nk, v_n, DV, CV, True)
    dk, dv = tl.zeros([BN, C], tl.float32), tl.zeros([BN, CV], tl.float32)
    start = tl.maximum(first - shift, 0) // BM * BM if CAUSAL else 0
    for g in range(G):
        at = head * G + g
        q_at, do_at = Q + b.to(tl.int64) * q_b + (h * G + g) * q_h, DO + at * Nq * DV
        for n in tl.range(start, Nq, BM):
            i = n + tl.arange(0, BM)
            q, do = tile(q_at, i, Nq, q_n, D, C, True), tile(do_at, i, Nq, DV, DV, CV, True)
            lse, delta = row_numbers(LSE + at * Nq, DELTA + at * Nq, i, Nq)
            s = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2E)
            p = tl.where(visible(i, j, Nk, shift, CAUSAL), tl.exp2(s - lse[:, None]), 0.0)
            dv = tl.dot(p.to(do.dtype).T, do, dv, input_precision=PRECISION)
            dp = tl.dot(do, v.T, input_precision=PRECISION)
            ds = p * (dp - delta[:, None])
            dk = tl.dot(ds.to(q.dtype).T, q, dk, input_precision=PRECISION)
    save(DK + head * Nk * D, dk * scale, j, Nk, D, D, C)
    save(DV_ + head * Nk * DV, dv, j, Nk, DV, DV, CV)


@triton.jit
def queries_kernel(
    Q,
    K,
    V,
    DO,
    LSE,
    DELTA,
    DQ,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    G,
    Nq,
    Nk,
    scale,
    CAUSAL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    C: tl.constexpr,
    CV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq of BM queries: over the keys that they see."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head, h = tl.program_id(1).to(tl.int64), tl.program_id(1) % H
    b, first, shift = head // H, block * BM, Nk - Nq
    K += b * k_b + h // G * k_h
    V += b * v_b + h // G * v_h
    i = first + tl.arange(0, BM)
    q = tile(Q + b * q_b + h * q_h, i, Nq, q_n, D, C, True)
    do = tile(DO + head * Nq * DV, i, Nq, DV, DV, CV, True)
    lse, delta = row_numbers(LSE + head * Nq, DELTA + head * Nq, i, Nq)
    dq = tl.zeros([BM, C], tl.float32)
    end = tl.minimum(Nk, first + BM + shift) if CAUSAL else Nk
    whole = tl.maximum(tl.minimum(first + shift + 1, Nk) if CAUSAL else Nk, 0) // BN * BN
    for masked in tl.static_range(2):
        for n in tl.range(whole if masked else 0, end if masked else whole, BN):
            j = n + tl.arange(0, BN)
            k = tile(K, j, Nk, k_n, D, C, masked)
            s = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2E)
            p = tl.exp2(s - lse[:, None])
            if masked:
                p = tl.where(visible(i, j, Nk, shift, CAUSAL), p, 0.0)
            dp = tl.dot(do, tile(V, j, Nk, v_n, DV, CV, masked).T, input_precision=PRECISION)
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    save(DQ + head * Nq * D, dq * scale, i, Nq, D, D, C)


# Launching them ------------------------------------------------------------


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
        common = _common(q, k, v, causal, BM, BN)
        forward_kernel[grid](q, k, v, o, lse, *common, num_warps=warps, num_stages=stages)
    return o, lse


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    causal: bool,
    key_tiles=(64, 64, 4, 2),
    query_tiles=(128, 64, 8, 2),
):
    """dq, dk, dv, contiguous. The gradient of lse enters through delta: ds = p (dp - delta)."""
    B, H, Nq, _ = q.shape
    Hk, Nk, dv = v.shape[1:]
    do = do.contiguous()
    dq, dk, dv_ = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    delta = torch.empty_like(lse)
    blocks = triton.cdiv(lse.numel(), 32)
    if blocks:
        delta_kernel[(blocks,)](o, do, delta, lse.numel(), dv, _power(dv), 32)
    if dlse is not None:
        delta -= dlse
    for kernel, tiles, outs, N, heads in (
        (keys_kernel, key_tiles, (dk, dv_), Nk, Hk),
        (queries_kernel, query_tiles, (dq,), Nq, H),
    ):
        BM, BN, warps, stages = tiles
        grid = (triton.cdiv(N, BN if kernel is keys_kernel else BM), B * heads)
        if 0 not in grid:
            common = _common(q, k, v, causal, BM, BN)
            kernel[grid](
                q, k, v, do, lse, delta, *outs, *common, num_warps=warps, num_stages=stages
            )
    return dq, dk, dv_


def _common(q, k, v, causal, BM, BN) -> tuple:
    """Strides, sizes and constants that every kernel here takes, in this order."""
    (_, H, Nq, d), (_, Hk, Nk, dv) = q.shape, v.shape
    strides = (stride for x in (q, k, v) for stride in x.stride()[:3])
    precision = "ieee" if q.dtype == torch.float32 else "tf32"
    return (
        *strides,
        H,
        H // Hk,
        Nq,
        Nk,
        1 / math.sqrt(d),
        causal,
        BM,
        BN,
        d,
        dv,
        _power(d),
        _power(dv),
        precision,
    )


def _power(d: int) -> int:
    return max(16, triton.next_power_of_2(d))  # the least that a product takes
