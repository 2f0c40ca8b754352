"""The backward of the loop as GPU kernels: delta, then two passes, each with its loop outside.

dk and dv are sums over queries: a program for each block of keys. dq is a sum over keys:
a program for each block of queries. No program adds to what another one adds to, so the
sums need no atomics and come out the same each time. Lesson 12.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnlib.kernels.triton import FULL, LOG2E, at, common, power, save, spans, tile, visible


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
    """dk and dv of BN keys: over the queries of all heads that share them."""
    H, G, Nq, Nk = sizes
    first, shift = tl.program_id(0) * BN, Nk - Nq
    head = tl.program_id(1).to(tl.int64)  # of k and v
    b, h = head // (H // G), head % (H // G)
    j = first + tl.arange(0, BN)
    k = tile(at(K, b, h, ks), j, Nk, ks[2], D, C, True)
    v = tile(at(V, b, h, vs), j, Nk, vs[2], DV, CV, True)
    dk, dv = tl.zeros([BN, C], tl.float32), tl.zeros([BN, CV], tl.float32)
    start = tl.maximum(first - shift, 0) // BM * BM if CAUSAL else 0
    for g in range(G):
        row = (head * G + g) * Nq
        Q_g, DO_g = at(Q, b, h * G + g, qs), DO + row * DV
        for n in tl.range(start, Nq, BM):
            i = n + tl.arange(0, BM)
            q, do = tile(Q_g, i, Nq, qs[2], D, C, True), tile(DO_g, i, Nq, DV, DV, CV, True)
            lse, delta = row_numbers(LSE + row, DELTA + row, i, Nq)
            s = tl.dot(q, k.T, input_precision=FULL) * (scale * LOG2E)
            p = tl.where(visible(i, j, Nk, shift, CAUSAL), tl.exp2(s - lse[:, None]), 0.0)
            dv = tl.dot(p.to(do.dtype).T, do, dv, input_precision=FULL)
            dp = tl.dot(do, v.T, input_precision=FULL)
            ds = p * (dp - delta[:, None])
            dk = tl.dot(ds.to(q.dtype).T, q, dk, input_precision=FULL)
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
    """dq of BM queries: over the keys that they see."""
    H, G, Nq, Nk = sizes
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head, h = tl.program_id(1).to(tl.int64), tl.program_id(1) % H
    b, first, shift = head // H, block * BM, Nk - Nq
    K, V = at(K, b, h // G, ks), at(V, b, h // G, vs)
    i = first + tl.arange(0, BM)
    q = tile(at(Q, b, h, qs), i, Nq, qs[2], D, C, True)
    do = tile(DO + head * Nq * DV, i, Nq, DV, DV, CV, True)
    lse, delta = row_numbers(LSE + head * Nq, DELTA + head * Nq, i, Nq)
    dq = tl.zeros([BM, C], tl.float32)
    whole, end = spans(first, Nk, shift, CAUSAL, BM, BN)
    for masked in tl.static_range(2):
        for n in tl.range(whole if masked else 0, end if masked else whole, BN):
            j = n + tl.arange(0, BN)
            k = tile(K, j, Nk, ks[2], D, C, masked)
            s = tl.dot(q, k.T, input_precision=FULL) * (scale * LOG2E)
            p = tl.exp2(s - lse[:, None])
            if masked:
                p = tl.where(visible(i, j, Nk, shift, CAUSAL), p, 0.0)
            dp = tl.dot(do, tile(V, j, Nk, vs[2], DV, CV, masked).T, input_precision=FULL)
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=FULL)
    save(DQ + head * Nq * D, dq * scale, i, Nq, D, D, C)


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
        delta_kernel[(blocks,)](o, do, delta, lse.numel(), dv, power(dv), 32)
    if dlse is not None:
        delta -= dlse
    for kernel, tiles, outs, N, heads in (
        (keys_kernel, key_tiles, (dk, dv_), Nk, Hk),
        (queries_kernel, query_tiles, (dq,), Nq, H),
    ):
        BM, BN, warps, stages = tiles
        grid = (triton.cdiv(N, BN if kernel is keys_kernel else BM), B * heads)
        if 0 not in grid:
            args = common(q, k, v, causal, BM, BN)
            kernel[grid](q, k, v, do, lse, delta, *outs, *args, num_warps=warps, num_stages=stages)
    return dq, dk, dv_
