"""Attention as programs for a machine with a warehouse and a bench, and what they carry.

Each takes shelves q (N, d), scaled, k (N, d), v (N, dv), o (N, dv) to be filled, and
the sizes of its tiles: b queries, c keys.

1. `textbook`         three kernels, and two N x N matrices between them.
2. `fused_rows`       one kernel with whole rows of scores on the bench.
3. `queries_outside`  flash: scores never leave the bench.
4. `keys_outside`     flash with its loops exchanged, as the paper first printed it.

`run` runs one and counts, `law` says what it must carry. Lesson 11.
"""

import bisect
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.preconditions import require_positive
from attnlib.traffic import Bench, BenchFull, Shelf


def tiles(N: int, b: int) -> list[slice]:
    return [slice(i, min(i + b, N)) for i in range(0, N, b)]


def textbook(q: Shelf, k: Shelf, v: Shelf, o: Shelf, s: Shelf, p: Shelf, b: int, c: int):
    """Three kernels, S = Q K^T, P = softmax(S), O = P V, through two matrices s, p (N, N)."""
    N = len(q)
    for i in tiles(N, b):
        q_i = q[i]
        for j in tiles(len(k), c):
            s[i, j] = q_i @ k[j].mT
    for i in tiles(N, max(1, b * c // len(k))):  # whole rows, as many as a tile is large
        row = s[i]
        p[i] = torch.softmax(row, -1, out=row)
    for i in tiles(N, b):
        o_i = None
        for j in tiles(len(k), c):
            o_i = p[i, j] @ v[j] if o_i is None else o_i.addmm_(p[i, j], v[j])
        o[i] = o_i


def fused_rows(q: Shelf, k: Shelf, v: Shelf, o: Shelf, b: int, c: int):
    """One kernel that holds b whole rows of scores on the bench."""
    N = len(q)
    for i in tiles(N, b):
        q_i = q[i]
        row = q_i.new_empty(len(q_i), len(k))
        for j in tiles(len(k), c):
            torch.mm(q_i, k[j].mT, out=row[:, j])
        torch.softmax(row, -1, out=row)
        o_i = q_i.new_zeros(len(q_i), *v.width)
        for j in tiles(len(k), c):
            o_i.addmm_(row[:, j], v[j])
        o[i] = o_i
        del row, o_i  # off the bench, before the next come


def queries_outside(q: Shelf, k: Shelf, v: Shelf, o: Shelf, b: int, c: int):
    """Flash: b queries and their state stay; keys and values pass by, c at a time."""
    for i in tiles(len(q), b):
        q_i = q[i]
        state = _identity(q_i, v)
        for j in tiles(len(k), c):
            _fold(*state, q_i @ k[j].mT, v[j])
        o[i] = state[2].div_(state[1])
        del state


def keys_outside(q: Shelf, k: Shelf, v: Shelf, o: Shelf, m: Shelf, l: Shelf, b: int, c: int):
    """The FlashAttention paper's Algorithm 1: c keys and values stay; queries pass by with
    their states m, l (N, 1) and o, which is divided by l in the last round."""
    rounds = tiles(len(k), c)
    for j in rounds:
        k_j, v_j = k[j], v[j]
        for i in tiles(len(q), b):
            q_i = q[i]
            state = _identity(q_i, v) if j is rounds[0] else (m[i], l[i], o[i])
            _fold(*state, q_i @ k_j.mT, v_j)
            m[i], l[i], o_i = state
            o[i] = o_i.div_(state[1]) if j is rounds[-1] else o_i
            del q_i, state, o_i


def _identity(q_i: Tensor, v: Shelf) -> tuple[Tensor, Tensor, Tensor]:
    rows = len(q_i)
    return q_i.new_full((rows, 1), -math.inf), q_i.new_zeros(rows, 1), q_i.new_zeros(rows, *v.width)


def _fold(m: Tensor, l: Tensor, o: Tensor, s: Tensor, v: Tensor):
    """One more tile of scores s (b, c) and values v (c, dv), in place."""
    m_new = torch.maximum(m, s.amax(-1, keepdim=True))
    alpha = m.sub_(m_new).exp_()  # 0 where m was -inf
    p = s.sub_(m_new).exp_()
    l.mul_(alpha).add_(p.sum(-1, keepdim=True))
    o.mul_(alpha).addmm_(p, v)
    m.copy_(m_new)


# Running them, and what they must carry ------------------------------------


class Haul(NamedTuple):
    """What a program answered, what each shelf carried, and the most that lay on the bench."""

    o: Tensor
    shelves: dict[str, Shelf]
    peak: int

    @property
    def moved(self) -> int:
        return sum(shelf.moved for shelf in self.shelves.values())


def run(program: Callable, q: Tensor, k: Tensor, v: Tensor, b: int, c: int, M=math.inf) -> Haul:
    """A program above on one head, q scaled by 1 / sqrt(d), with tiles of b queries and
    c keys and M bytes of bench. Raises BenchFull where these do not fit, ValueError
    for other shapes."""
    if {x.dim() for x in (q, k, v)} != {2} or q.shape[1] != k.shape[1] or len(k) != len(v):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k and v must be (Nq, d), (Nk, d) and (Nk, dv), got {shapes}")
    b, c = require_positive("b", b), require_positive("c", c)
    N = len(q)
    bench = Bench(M)
    inside = {"q": q * q.shape[-1] ** -0.5, "k": k, "v": v}
    outside = {"o": v.shape[-1], "s": len(k), "p": len(k), "m": 1, "l": 1}
    names = list(inspect.signature(program).parameters)[:-2]
    made = {name: q.new_empty(N, outside[name]) for name in names if name in outside}
    shelves = {name: Shelf(bench, x) for name, x in (inside | made).items()}
    with bench:
        program(**shelves, b=b, c=c)
    return Haul(made["o"], shelves, bench.peak)


def law(program: Callable, N: int, d: int, b: int, c: int, size: int = 4) -> int:
    """Bytes that `run` carries, N queries and keys and dv = d: exact, ragged tiles included."""
    rows, rounds = -(-N // b), -(-N // c)
    tall = N * d
    if program is textbook:
        return size * (4 * N * N + 2 * tall + 2 * tall * rows)
    if program is keys_outside:
        return size * (2 * tall + rounds * tall + (2 * rounds - 1) * (tall + 2 * N))
    return size * (2 * tall + 2 * tall * rows)


def key_loads(N: int, d: int, b: int, size: int = 4) -> int:
    """Bytes of k and v that `queries_outside` loads: each, once for b queries."""
    return law(queries_outside, N, d, b, b, size) - 2 * size * N * d


def paper_tile(M: int, d: int, size: int = 4) -> int:
    """b = M / 4d, M in numbers: what the paper chooses, so that q, k, v and o fit."""
    return M // size // (4 * d)


def largest_tile(M: int, d: int) -> int:
    """The largest b = c for which the bench does not refuse `queries_outside` (float32)."""
    b_s = range(1, math.isqrt(M // 4) + 1)  # b x b scores must fit
    return bisect.bisect_left(b_s, True, key=lambda b: not _fits(b, d, M))


def _fits(b: int, d: int, M: int) -> bool:
    q, k, v = (torch.empty(2 * b, d, device="meta") for _ in "qkv")
    try:
        run(queries_outside, q, k, v, b, b, M)
    except BenchFull:
        return False
    return True
