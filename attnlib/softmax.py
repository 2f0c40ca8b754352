"""Softmax that splits: from the formula to a state that merges.

The ladder; each rung computes the same function, and adds one idea:

1. `naive_softmax`       the formula; overflows.
2. `safe_softmax`        subtract the maximum; exact, and never overflows.
3. `calculate_local_fx`  name the parts: m, l and fx of one block.
4. `decomposed_softmax`  two blocks, two local results, one answer.
5. `blocked_softmax`     any number of blocks.
6. `online_softmax`      one pass, one element at a time.

`SoftmaxState` carries the weighted sum of values along, which is attention.
Every function works in the dtype of its input, sums included: float64 stays
float64, and 16-bit sums round early and end at the format's end. The attention
cores therefore keep theirs in float32.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnlib.preconditions import (
    require_float,
    require_local_results,
    require_positive,
    require_same_lead,
)


def naive_softmax(x: Tensor) -> Tensor:
    """Softmax by its formula, exp(x) / sum exp(x), over the last dimension.

    x (..., N) gives (..., N). Overflows to NaN for large x: exp exceeds
    float32 above 88.7 and float16 above 11.1. Lesson 01.
    """
    e = torch.exp(x)  # (..., N)
    return e / e.sum(-1, keepdim=True)


def safe_softmax(x: Tensor) -> Tensor:
    """Softmax with the maximum subtracted: exp(x - m) / sum exp(x - m).

    x (..., N) gives (..., N). A row that is -inf throughout gives zeros.
    Lesson 01.
    """
    _, l, fx = calculate_local_fx(x)
    return divide(fx, l)


def calculate_local_fx(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The local softmax results of one block of logits, over its last dimension.

    m = max x, fx = exp(x - m), l = sum fx, so that softmax(x) = fx / l.
    x (..., N) gives m (..., 1), l (..., 1), fx (..., N) in the dtype of x.
    A row with nothing to see (all -inf, or N = 0) gives m = -inf, l = 0.
    Raises TypeError unless x is a floating-point tensor, ValueError if it has
    no dimension. Source: the project's specification; Milakov & Gimelshein
    2018, section 2. Lesson 01.
    """
    require_float("x", x)
    m = row_max(x)  # (..., 1)
    fx = torch.exp(x - finite(m))  # (..., N)
    return m, fx.sum(-1, keepdim=True), fx


def decomposed_softmax(
    fx1: Tensor, l1: Tensor, m1: Tensor, fx2: Tensor, l2: Tensor, m2: Tensor
) -> Tensor:
    """Softmax of two concatenated blocks, from their local results alone.

    With m = max(m1, m2) and l = e^(m1-m) l1 + e^(m2-m) l2, the answer is
    (e^(m1-m) fx1, e^(m2-m) fx2) / l. fx1 (..., N1) and fx2 (..., N2) give
    (..., N1 + N2); l and m are (..., 1), as `calculate_local_fx` returns
    them. Raises TypeError or ValueError naming the argument that does not
    fit. Source: the project's specification. Lesson 02.
    """
    require_local_results(fx1, l1, m1, fx2, l2, m2)
    m = torch.maximum(m1, m2)  # (..., 1)
    a1, a2 = rescale_factor(m1, m), rescale_factor(m2, m)  # (..., 1)
    l = a1 * l1 + a2 * l2  # (..., 1)
    return torch.cat((divide(a1 * fx1, l), divide(a2 * fx2, l)), dim=-1)


def blocked_softmax(x: Tensor, block_size: int) -> Tensor:
    """Softmax from the local results of blocks of `block_size` logits.

    The m and l of every block are folded first, then each fx is rescaled
    once. x (..., N) gives (..., N); the last block may be ragged. Lesson 02.
    """
    require_float("x", x)
    block_size = min(require_positive("block_size", block_size), max(x.shape[-1], 1))
    local = [calculate_local_fx(block) for block in x.split(block_size, -1)]
    m = torch.cat([m_j for m_j, _, _ in local], -1).amax(-1, keepdim=True)
    l = sum(rescale_factor(m_j, m) * l_j for m_j, l_j, _ in local)  # (..., 1)
    parts = [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]
    return torch.cat(parts, -1)


def online_softmax(x: Tensor) -> Tensor:
    """Softmax whose m and l are found in one pass, an element at a time.

    m_j = max(m, x_j); l_j = l e^(m - m_j) + e^(x_j - m_j). The loop loads each
    element once, the division once more, and stores it: 3 memory accesses an
    element, where the safe softmax needs 4. x (..., N) gives (..., N).
    Source: Milakov & Gimelshein 2018, algorithm 3. Lesson 03.
    """
    require_float("x", x)
    m = x.new_full((*x.shape[:-1], 1), -torch.inf)  # (..., 1)
    l = torch.zeros_like(m)  # (..., 1)
    for x_j in x.split(1, -1):  # (..., 1)
        if x_j.shape[-1]:
            m_old, m = m, torch.maximum(m, x_j)
            l = l * rescale_factor(m_old, m) + rescale_factor(x_j, m)
    return divide(torch.exp(x - finite(m)), l)


class SoftmaxState(NamedTuple):
    """What a softmax-weighted sum of values needs to know of the keys seen so far.

    m (..., N, 1) is a reference, usually the largest score; l (..., N, 1) is
    sum e^(s - m); o (..., N, D) is sum e^(s - m) v. States of disjoint sets of
    keys `merge` into the state of their union, in any order and bracketing:
    a commutative monoid with identity (-inf, 0, 0). Lesson 03.
    """

    m: Tensor
    l: Tensor
    o: Tensor

    @classmethod
    def identity(cls, q: Tensor, v: Tensor) -> "SoftmaxState":
        """The state of no keys at all, for queries q (..., N, d), values v (..., M, D).

        Raises ValueError where v's leading dimensions do not go with q's.
        """
        require_same_lead(q, v)
        m = q.new_full((*q.shape[:-1], 1), -torch.inf)  # (..., N, 1)
        o = q.new_zeros((*q.shape[:-1], v.shape[-1]))  # (..., N, D)
        return cls(m, torch.zeros_like(m), o)

    @classmethod
    def of(cls, s: Tensor, v: Tensor) -> "SoftmaxState":
        """The state of one block: scores s (..., N, M), values v (..., M, D)."""
        m, l, p = calculate_local_fx(s)  # (..., N, 1), (..., N, 1), (..., N, M)
        return cls(m, l, p @ v)

    def rebase(self, m: Tensor) -> "SoftmaxState":
        """The same state relative to another reference: (m, l e^(old - m), o e^(old - m)).

        Exact for any m that the number format can bear: m need not be a maximum.
        """
        a = rescale_factor(self.m, m)  # (..., N, 1)
        return SoftmaxState(m, a * self.l, a * self.o)

    def merge(self, other: "SoftmaxState") -> "SoftmaxState":
        """The state of both sets of keys: rebase each to the larger m, then add."""
        m = torch.maximum(self.m, other.m)  # (..., N, 1)
        a, b = self.rebase(m), other.rebase(m)
        return SoftmaxState(m, a.l + b.l, a.o + b.o)

    def lazy_merge(self, other: "SoftmaxState", threshold: float) -> "SoftmaxState":
        """`merge` that keeps its own m until other's exceeds it by over `threshold`.

        Exact as well: a stale m is only another reference. The weights may grow
        to e^threshold, which the number format bounds. Source: FlashAttention-4
        (its threshold is 8, in powers of two). Lesson 04.
        """
        m = torch.where(other.m > self.m + threshold, other.m, self.m)  # (..., N, 1)
        a, b = self.rebase(m), other.rebase(m)
        return SoftmaxState(m, a.l + b.l, a.o + b.o)

    def finalise(self) -> tuple[Tensor, Tensor]:
        """Attention's output o / l (..., N, D) and lse = m + log l (..., N).

        Rows that have seen no key, l = 0 whatever m, give output 0 and lse -inf.
        """
        l = self.l.masked_fill(self.l == 0, 1)
        lse = (self.m + l.log()).masked_fill(self.l == 0, -torch.inf)
        return self.o / l, lse.squeeze(-1)


def rescale_factor(m_old: Tensor, m_new: Tensor) -> Tensor:
    """e^(m_old - m_new), what turns sums relative to m_old into sums relative
    to m_new; 0 where m_old is -inf, also when m_new is."""
    return torch.exp(m_old - finite(m_new))


def row_max(x: Tensor) -> Tensor:
    """The maximum over the last dimension, kept; -inf of no numbers, where amax raises."""
    if x.shape[-1] == 0:
        return x.new_full((*x.shape[:-1], 1), -torch.inf)
    return x.amax(-1, keepdim=True)


def finite(m: Tensor) -> Tensor:
    """m, or the lowest finite number for -inf: a reference that is safe to subtract.

    -inf - (-inf) is NaN; -inf - lowest is -inf, and exp of it the 0 that an
    empty row should contribute.
    """
    return m.clamp(min=torch.finfo(m.dtype).min)


def sum_dtype(x: Tensor) -> torch.dtype:
    """What sums over x are kept in: float32 for 16-bit numbers, else x's own dtype."""
    return torch.float32 if x.dtype.itemsize == 2 else x.dtype


def divide(o: Tensor, l: Tensor) -> Tensor:
    """o / l, and 0 where l is 0: a row that saw no key has o = 0, and answer 0."""
    return o / l.masked_fill(l == 0, 1)


def fold_tree(tree, leaves: list[SoftmaxState]) -> SoftmaxState:
    """The state of a bracketing, by `merge` at every node."""
    if isinstance(tree, int):
        return leaves[tree]
    left, right = tree
    return fold_tree(left, leaves).merge(fold_tree(right, leaves))


def bracketing(kind: str, n: int = 8, seed: int = 0):
    """Nested pairs over 0..n-1: "left fold", "right fold", "balanced" or "shuffled"."""
    parts = list(range(n))
    rng = np.random.default_rng(seed)
    if kind == "shuffled":
        rng.shuffle(parts)
        parts = [int(i) for i in parts]
    while len(parts) > 1:
        last = len(parts) - 2
        if kind == "balanced":
            parts = [(a, b) for a, b in zip(parts[::2], parts[1::2])] + parts[len(parts) & ~1 :]
            continue
        i = {"left fold": 0, "right fold": last}.get(kind, int(rng.integers(last + 1)))
        parts[i : i + 2] = [(parts[i], parts[i + 1])]
    return parts[0]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of `exact`, in float64; the norm of `got`
    alone where `exact` is zero."""
    got, exact = got.double(), exact.double()
    return ((got - exact).norm() / (exact.norm() or 1)).item()
