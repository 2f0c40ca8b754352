"""Exercises of lesson 03: one fold, many bracketings."""

import math
from functools import reduce

import torch

from attnlib import SoftmaxState
from attnlib.course.exercises.answer import AtMost
from attnlib.course.exercises.task import INF, BadAnswer, Case, Task, gaussian, pencil
from attnlib.softmax import finite, rescale_factor

LN_2 = math.log(2)


def attend(s, v):
    """softmax(s) v (N, D) and the log of the sum (N,), in float64; 0 and -inf of nothing."""
    s, v = s.double(), v.double()
    return torch.softmax(s, -1).nan_to_num(0.0) @ v, torch.logsumexp(s, -1)


def answered(s, v, dtype=torch.float32):
    return tuple(x.to(dtype) for x in attend(s, v))


def finalised(state, like):
    """(o / l, lse) of what should be a state with the shapes of `like`."""
    if not isinstance(state, tuple) or len(state) != 3:
        raise BadAnswer(
            f"The answer is a {type(state).__name__}; a state is SoftmaxState(m, l, o)."
        )
    for name, x, y in zip("mlo", state, like):
        if not isinstance(x, torch.Tensor) or x.shape != y.shape:
            got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise BadAnswer(f"The state's {name} is {got}, expected shape {tuple(y.shape)}.")
    return SoftmaxState(*state).finalise()


# 1. Write ------------------------------------------------------------------

merge = Task(
    "merge",
    "Write merge",
    "merge",
    parts=("o / l", "lse"),
    ask=lambda f, a, b: finalised(f(a, b), a),
)


def score_pairs() -> dict[str, tuple]:
    """What hurts: two blocks of scores (N, M1) and (N, M2)."""
    s1, s2 = gaussian(3, 4), gaussian(3, 5, seed=1)
    hidden = torch.full((3, 4), -INF)
    partly = s2.clone()
    partly[1] = -INF
    far = torch.tensor([[300.0], [-300.0], [0.0]])
    return {
        "ln 1, ln 2 and ln 4, ln 1": (pencil(1, 2)[None], pencil(4, 1)[None]),
        "the first holds the maximum": (s1 + 5, s2),
        "the second holds the maximum": (s1, s2 + 5),
        "scores around −500": (s1 - 500, s2 - 500),
        "the second is 300 higher": (s1, s2 + 300),
        "the first is 300 higher": (s1 + 300, s2),
        "rows 300 apart, either way": (s1 + far, s2 + far),
        "each holds some row's maximum, by 300": (s1 + far, s2),
        "equal scores": (0 * s1, 0 * s2),
        "logits × 20": (20 * s1, 20 * s2),
        "the first has seen nothing": (hidden, s2),
        "the second has seen nothing": (s2, hidden),
        "both have seen nothing in a row": (hidden, partly),
    }


def values(s, seed=7):
    return gaussian(s.shape[-1], 2, seed=seed)


@merge.cases
def _():
    cases = {}
    for name, (s1, s2) in score_pairs().items():
        v1, v2 = values(s1), values(s2, 8)
        states = SoftmaxState.of(s1, v1), SoftmaxState.of(s2, v2)
        cases[name] = Case(states, answered(torch.cat((s1, s2), -1), torch.cat((v1, v2))))
    a, b = cases["the second holds the maximum"].args
    stale = a.rebase(a.m - 3), b.rebase(b.m + 2)
    cases["references that are not maxima"] = Case(
        stale, cases["the second holds the maximum"].expected
    )
    return cases


@merge.right("in plain words")
def merge_in_words(a, b):
    m = torch.maximum(a.m, b.m)
    fa, fb = rescale_factor(a.m, m), rescale_factor(b.m, m)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


merge.slips(
    merge_in_words,
    """
    merge_l_unscaled, M16, factor: l is not rescaled: two sums in different units are added
    - fa * a.l + fb * b.l
    + a.l + b.l

    merge_o_unscaled, M16, values: o is not rescaled: only l is brought to the larger m
    - fa * a.o + fb * b.o
    + a.o + b.o

    merge_unscaled, M16, factor: neither l nor o is rescaled to the larger m
    - fa * a.l + fb * b.l, fa * a.o + fb * b.o
    + a.l + b.l, a.o + b.o

    merge_nan, M2, order: -inf is subtracted from -inf where neither has seen a key
    - rescale_factor(a.m, m), rescale_factor(b.m, m)
    + torch.exp(a.m - m), torch.exp(b.m - m)

    merge_smaller: the smaller m is taken: the other block's factor is above 1, and overflows
    - maximum
    + minimum

    merge_inverted, factor: the factor is inverted, e^(m − m1) for e^(m1 − m)
    - rescale_factor(a.m, m), rescale_factor(b.m, m)
    + torch.exp(finite(m) - finite(a.m)), torch.exp(finite(m) - finite(b.m))

    merge_exchanged, factor: the factors are exchanged: each state gets the other's
    - rescale_factor(a.m, m), rescale_factor(b.m, m)
    + rescale_factor(b.m, m), rescale_factor(a.m, m)

    merge_divided, M17, values: o is divided by l already; the state keeps sums, finalise divides
    - fa * a.o + fb * b.o
    + (fa * a.o + fb * b.o) / (fa * a.l + fb * b.l).clamp(min=1e-30)

    merge_first_only: only the first block is rescaled, as if the second always held the maximum
    - fa * a.l + fb * b.l, fa * a.o + fb * b.o
    + fa * a.l + b.l, fa * a.o + b.o
    """,
)


@merge.right("attnlib's own")
def merge_own(a, b):
    return a.merge(b)


@merge.right("M3: a lagging m, replaced only when it is 8 behind")
def merge_lagging(a, b):
    return a.lazy_merge(b, 8)


@merge.right("M3: the log of the sum as reference")
def merge_by_lse(a, b):
    m = torch.logaddexp(a.m + a.l.log(), b.m + b.l.log())
    a, b = a.rebase(m), b.rebase(m)
    return SoftmaxState(m, a.l + b.l, a.o + b.o)


@merge.right("in float64, the second first")
def merge_in_float64(a, b):
    state = merge_in_words(*(SoftmaxState(*(x.double() for x in s)) for s in (b, a)))
    return tuple(x.float() for x in state)


# 2. Write ------------------------------------------------------------------


class Counted:
    """A state that knows how many merges, one inside the other, made it."""

    def __init__(self, state, rounds=0):
        self.state, self.rounds = state, rounds

    def merge(self, other):
        rounds = max(self.rounds, other.rounds) + 1
        return Counted(self.state.merge(other.state), rounds)


def fold_counted(fold, states):
    leaves = [Counted(s) for s in states]
    given = list(leaves)
    root = fold(given, Counted.merge)
    if given != leaves:
        raise BadAnswer("It changed the list of states in place; whoever called it may need that.")
    if not isinstance(root, Counted):
        raise BadAnswer(f"The answer is a {type(root).__name__}, expected one state: the root.")
    return *root.state.finalise(), root.rounds


tree = Task(
    "fold_tree", "Fold over a tree", "tree", parts=("o / l", "lse", "rounds"), ask=fold_counted
)


@tree.cases
def _():
    cases = {}
    for n in (2, 1, 4, 3, 7, 8, 13):
        s, v = 3 * gaussian(2, 3 * n, seed=n), gaussian(3 * n, 2, seed=n + 1)
        states = [SoftmaxState.of(*block) for block in zip(s.split(3, -1), v.split(3))]
        expected = *answered(s, v), AtMost(math.ceil(math.log2(n)))
        cases[f"{n} state{'s' if n > 1 else ''}"] = Case((states,), expected)
    return cases


@tree.mistake("", "one state is merged after the other: right, and n − 1 rounds deep")
def fold_left(states, merge):
    return reduce(merge, states)


@tree.right("neighbours, the odd one goes up")
def fold_neighbours(states, merge):
    while len(states) > 1:
        pairs = [merge(a, b) for a, b in zip(states[::2], states[1::2])]
        states = pairs + states[len(states) & ~1 :]
    return states[0]


tree.slips(
    fold_neighbours,
    """
    fold_dropping: zip drops the last one of an odd number of states
    - pairs + states[len(states) & ~1 :]
    + pairs

    fold_doubling: a state without a neighbour is merged with itself, and counts twice
    - pairs + states[len(states) & ~1 :]
    + pairs + [merge(x, x) for x in states[len(states) & ~1 :]]

    fold_once: only one round is made
    - while
    + if
    """,
)


@tree.mistake(
    "",
    "a state left over is merged at the very end instead of going up with the "
    "others; each adds a round",
)
def fold_leftovers_last(states, merge):
    left_over = []
    while len(states) > 1:
        left_over += states[-1:] if len(states) % 2 else []
        states = [merge(a, b) for a, b in zip(states[::2], states[1::2])]
    return reduce(merge, [*states, *left_over])


@tree.right("halves, by recursion")
def fold_halves(states, merge):
    if len(states) == 1:
        return states[0]
    middle = len(states) // 2
    return merge(fold_halves(states[:middle], merge), fold_halves(states[middle:], merge))


@tree.right("a queue")
def fold_queue(states, merge):
    queue = list(states)
    while len(queue) > 1:
        queue = [*queue[2:], merge(queue[0], queue[1])]
    return queue[0]


# 3. and 4. Find and fix ----------------------------------------------------


def partials(base=1.0) -> dict[str, Case]:
    """Two finished parts (o, lse) each, lse in units of 1 / base; the answer is natural."""
    cases = {}
    for name, (s1, s2) in score_pairs().items():
        v1, v2 = values(s1), values(s2, 8)
        (o1, lse1), (o2, lse2) = answered(s1, v1), answered(s2, v2)
        expected = answered(torch.cat((s1, s2), -1), torch.cat((v1, v2)))
        cases[name] = Case((o1, lse1 * base, o2, lse2 * base), expected)
    return cases


parts = Task("merge_parts", "Find and fix: 300 apart", "values", parts=("o", "lse"))
parts.cases(partials)


@parts.right("by logaddexp")
def merge_parts_by_logaddexp(o1, lse1, o2, lse2):
    lse = torch.logaddexp(lse1, lse2)  # (N,)
    a1, a2 = torch.exp(lse1 - finite(lse)), torch.exp(lse2 - finite(lse))
    return a1[:, None] * o1 + a2[:, None] * o2, lse


parts.slips(
    merge_parts_by_logaddexp,
    """
    merge_parts_by_log1p, M7, shown: the log of 1 + e^d is taken as it is written: e^d overflows
        where the second part is far above the first, and two empty parts make d NaN
    - torch.logaddexp(lse1, lse2)
    + lse1 + torch.log(1 + torch.exp(lse2 - lse1))
    - torch.exp(lse1 - finite(lse)), torch.exp(lse2 - finite(lse))
    + torch.exp(lse1 - lse), torch.exp(lse2 - lse)

    merge_parts_nan, M2, nothing: the sum is safe, and two empty parts still subtract -inf from
        -inf in the weights
    - torch.exp(lse1 - finite(lse)), torch.exp(lse2 - finite(lse))
    + torch.exp(lse1 - lse), torch.exp(lse2 - lse)

    merge_parts_all_nan, M2, nothing: two empty parts subtract -inf from -inf, in the sum already
    - lse = torch.logaddexp(lse1, lse2)
    + m = torch.maximum(lse1, lse2)
    + lse = m + ((lse1 - m).exp() + (lse2 - m).exp()).log()

    merge_parts_exchanged, factor: the weights are exchanged: each part gets the other's
    - torch.exp(lse1 - finite(lse)), torch.exp(lse2 - finite(lse))
    + torch.exp(lse2 - finite(lse)), torch.exp(lse1 - finite(lse))

    merge_parts_average, pasted: the outputs are averaged, as if both parts weighed the same
    - a1[:, None] * o1 + a2[:, None] * o2
    + (o1 + o2) / 2

    merge_parts_added, values: the outputs are added without weights
    - a1[:, None] * o1 + a2[:, None] * o2
    + o1 + o2

    merge_parts_adds_lse, order: the lse are added; it is the sums that add, not their logarithms
    - * o2, lse
    + * o2, lse1 + lse2

    merge_parts_keeps_larger, merge: the larger lse is kept as it is; the sum of both is larger
        still
    - * o2, lse
    + * o2, torch.maximum(lse1, lse2)

    merge_parts_base_2, M6, values: a power of 2 is taken of a natural logarithm
    - torch.logaddexp
    + torch.logaddexp2
    - torch.exp(lse1 - finite(lse)), torch.exp(lse2 - finite(lse))
    + torch.exp2(lse1 - finite(lse)), torch.exp2(lse2 - finite(lse))
    """,
)


@parts.mistake(
    "M7",
    "e^lse is computed on the way: it overflows where a score is above 88, and "
    "is 0 where all are below −104",
    "overflow",
)
def merge_parts_by_exp(o1, lse1, o2, lse2):
    l1, l2 = lse1.exp(), lse2.exp()
    l = l1 + l2
    return (l1[:, None] * o1 + l2[:, None] * o2) / l[:, None], l.log()


@parts.right("as states with l = 1")
def merge_parts_as_states(o1, lse1, o2, lse2):
    a, b = (
        SoftmaxState(x[:, None], (x[:, None] > -INF).float(), o)
        for o, x in ((o1, lse1), (o2, lse2))
    )
    return a.merge(b).finalise()


@parts.right("as a softmax of the two lse, in float64")
def merge_parts_by_softmax(o1, lse1, o2, lse2):
    both = torch.stack((lse1, lse2), -1).double()
    p = torch.softmax(both, -1).nan_to_num(0.0)[..., None]  # (N, 2, 1)
    o = (p * torch.stack((o1, o2), 1)).sum(1)
    return o.float(), both.logsumexp(-1).float()


kernel = Task(
    "merge_kernel_parts", "Find and fix: the fast kernel's parts", "values", parts=("o", "lse")
)
kernel.cases(lambda: partials(1 / LN_2))


@kernel.right("converted first")
def kernel_converted_first(o1, lse1, o2, lse2):
    lse1, lse2 = lse1 * LN_2, lse2 * LN_2
    lse = torch.logaddexp(lse1, lse2)  # (N,)
    a1 = torch.exp(lse1 - finite(lse))  # (N,)
    a2 = torch.exp(lse2 - finite(lse))
    return a1[:, None] * o1 + a2[:, None] * o2, lse


@kernel.right("merged to base 2, converted last")
def kernel_converted_last(o1, lse1, o2, lse2):
    lse = torch.logaddexp2(lse1, lse2)
    a1, a2 = torch.exp2(lse1 - finite(lse)), torch.exp2(lse2 - finite(lse))
    return a1[:, None] * o1 + a2[:, None] * o2, lse * LN_2


kernel.slips(
    kernel_converted_first,
    """
    kernel_as_natural, M6, shown: an lse to base 2 is merged as if it were natural
    - lse1, lse2 = lse1 * LN_2, lse2 * LN_2

    kernel_wrong_way, M6: the wrong way is converted: log2 x is ln x / ln 2, so a base-2
        logarithm times ln 2 is natural
    - lse1 * LN_2, lse2 * LN_2
    + lse1 / LN_2, lse2 / LN_2

    kernel_converted_late, M6: the merged lse is converted, and the weights are still powers of
        e of base-2 logarithms
    - lse1, lse2 = lse1 * LN_2, lse2 * LN_2
    - * o2, lse
    + * o2, lse * LN_2

    kernel_nan, M2, nothing: the units are right, and two empty parts subtract -inf from -inf
        in the weights
    - lse1 - finite(lse)
    + lse1 - lse
    - lse2 - finite(lse)
    + lse2 - lse
    """,
)
kernel.slips(
    kernel_converted_last,
    """
    kernel_left_in_base_2, M6: the output is right, and its lse is left to base 2; a natural one
        was asked
    - lse * LN_2
    + lse

    kernel_half_converted, M6: the weights are powers of 2, and the sum still takes powers of e
    - torch.logaddexp2
    + torch.logaddexp
    - lse * LN_2
    + lse
    """,
)


# 5. Stretch ----------------------------------------------------------------

unmerge = Task(
    "unmerge",
    "Take a block out again",
    "state",
    parts=("o / l", "lse"),
    ask=lambda f, whole, part: finalised(f(whole, part), whole),
)


@unmerge.cases
def _():
    cases = {}
    v1, v2 = gaussian(4, 2, dtype=torch.float64), gaussian(5, 2, seed=1, dtype=torch.float64)
    s1, s2 = gaussian(3, 4, dtype=torch.float64), gaussian(3, 5, seed=1, dtype=torch.float64)
    for name, rest, part in (
        ("ln 1, ln 2 remain when ln 4 leaves", pencil(1, 2)[None], pencil(4)[None]),
        ("the rest holds the maximum", s1 + 4, s2),
        ("the part holds the maximum", s1, s2 + 4),
        ("the part has seen nothing", s1, torch.full_like(s2, -INF)),
        ("logits around 300", s1 + 300, s2 + 301),
    ):
        a, b = (
            SoftmaxState.of(rest.double(), v1[: rest.shape[-1]]),
            SoftmaxState.of(part.double(), v2[: part.shape[-1]]),
        )
        cases[name] = Case((a.merge(b), b), attend(rest, v1[: rest.shape[-1]]))
    return cases


@unmerge.right("relative to the whole's m, which may lag")
def unmerge_lagging(whole, part):
    b = part.rebase(whole.m)
    return SoftmaxState(whole.m, whole.l - b.l, whole.o - b.o)


unmerge.slips(
    unmerge_lagging,
    """
    unmerge_unscaled, M16, factor: the part is subtracted in its own unit, without rescaling it
        to the whole's m
    - part.rebase(whole.m)
    + part

    unmerge_l_only, M16, values: only l gives the part back; o still holds its values
    - whole.o - b.o
    + whole.o

    unmerge_subtracts_m: the maxima are subtracted: a maximum remembers only the winner
    - SoftmaxState(whole.m,
    + SoftmaxState(whole.m - finite(part.m),
    """,
)


@unmerge.mistake("", "the part is merged once more instead of taken out")
def unmerge_merges(whole, part):
    return whole.merge(part)


@unmerge.right("and then by the log of what is left")
def unmerge_rebased(whole, part):
    state = unmerge_lagging(whole, part)
    return state.rebase(state.m + state.l.log())
