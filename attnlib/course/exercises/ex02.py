"""Exercises of lesson 02: decomposed softmax."""

import torch

from attnlib import calculate_local_fx, decomposed_softmax
from attnlib.course.exercises.task import (
    INF,
    Case,
    Task,
    alice_scores,
    cases_of,
    gaussian,
    must_be_close,
    pencil,
    test_task,
)
from attnlib.softmax import divide, finite, rescale_factor

# 1. Predict ----------------------------------------------------------------

joined = Task("joined_by_pencil", "Join two blocks by pencil", "factor", secret=True, points=1)


@joined.cases
def _():
    # Scores ln 1, ln 8 and ln 2, ln 4, ln 4.
    return {"the two blocks": Case((), {"a1": 1.0, "a2": 0.5, "l": 19 / 8})}


@joined.right("by fractions")
def joined_by_fractions():
    return {"a1": 1.0, "a2": 0.5, "l": 9 / 8 + 0.5 * 5 / 2}


joined.slips(
    joined_by_fractions,
    """
    factors_swapped: the factors are swapped: the block that holds the maximum shrinks
    - "a1": 1.0, "a2": 0.5, "l": 9 / 8 + 0.5 * 5 / 2
    + "a1": 0.5, "a2": 1.0, "l": 0.5 * 9 / 8 + 5 / 2

    factor_inverted: the second block's factor is inverted: it grows instead of shrinking
    - "a2": 0.5, "l": 9 / 8 + 0.5 * 5 / 2
    + "a2": 2.0, "l": 9 / 8 + 2.0 * 5 / 2

    added_unscaled, M16: l1 and l2 are added as they are, each in its own unit
    - 0.5 * 5 / 2
    + 5 / 2

    in_units_of_one: l is counted in units of 1 instead of in units of e^m
    - 9 / 8 + 0.5 * 5 / 2
    + 19.0
    """,
)


@joined.right("computed")
def joined_by_code():
    (m1, l1, _), (m2, l2, _) = (calculate_local_fx(pencil(*w)) for w in ((1, 8), (2, 4, 4)))
    m = torch.maximum(m1, m2)
    a1, a2 = torch.exp(m1 - m), torch.exp(m2 - m)
    return {"a1": a1.item(), "a2": a2.item(), "l": (a1 * l1 + a2 * l2).item()}


# 2. Write ------------------------------------------------------------------

pieces = Task("softmax_of_pieces", "Softmax of pieces that stay apart", "many")


def exact_softmax(x):
    """By float64, rounded once; a row that sees nothing gives 0."""
    return torch.softmax(x.double(), -1).nan_to_num(0.0).to(x.dtype)


def piece_inputs() -> dict[str, tuple]:
    low, high = gaussian(3, 4), gaussian(3, 5, seed=1)
    hidden = torch.full((3, 4), -INF)
    nobody = high.clone()
    nobody[1] = -INF
    far = torch.tensor([[400.0], [-400.0], [0.0]])
    return {
        "ln 1, ln 2 and ln 4, ln 1": ([pencil(1, 2), pencil(4, 1)],),
        "one piece": ([low],),
        "the first piece holds the maximum": ([low + 9, high],),
        "the last piece holds the maximum": ([low, high + 3],),
        "three pieces, the last one shorter": (list(gaussian(3, 11).split(4, -1)),),
        "rows 400 apart, either way": ([low + far, high + far],),
        "each piece holds some row's maximum, by 400": ([low + far, high],),
        "equal scores": ([torch.zeros(3, 2), torch.zeros(3, 3)],),
        "logits × 60": (list((60 * gaussian(3, 11, seed=2)).split(4, -1)),),
        "the first piece is hidden": ([hidden, high],),
        "a row that sees nothing": ([hidden, nobody],),
        "real scores of Alice": (list(alice_scores()[368:370].split(160, -1)),),
    }


@pieces.cases
def _():
    def oracle(xs):
        p = exact_softmax(torch.cat(xs, -1))
        return list(p.split([x.shape[-1] for x in xs], -1))

    return cases_of(oracle, piece_inputs())


def reference(xs):
    """The common maximum (..., 1), and every piece's own (m, l, fx)."""
    local = [calculate_local_fx(x) for x in xs]
    return torch.cat([m for m, _, _ in local], -1).amax(-1, keepdim=True), local


@pieces.mistake("", "one maximum and one sum serve all rows; each row has its own", "names")
def one_sum(xs):
    m = finite(torch.cat(xs, -1).max())
    l = sum(torch.exp(x - m).sum() for x in xs)
    return [divide(torch.exp(x - m), l) for x in xs]


@pieces.right("by factors")
def by_factors(xs):
    m, local = reference(xs)
    l = sum(rescale_factor(m_j, m) * l_j for m_j, l_j, _ in local)
    return [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]


pieces.slips(
    by_factors,
    """
    pasted, pasted: every piece divides by its own sum, as if it were the whole row
    - [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]
    + [divide(fx, l_j) for _, l_j, fx in local]

    nothing_rescaled, M16, classic: nothing is rescaled to the common maximum
    - rescale_factor(m_j, m) * l_j
    + l_j
    - rescale_factor(m_j, m) * fx
    + fx

    l_not_rescaled, M16: the weights are rescaled to the common maximum, the sums l are not
    - rescale_factor(m_j, m) * l_j
    + l_j

    fx_not_rescaled, M16: the sums l are rescaled to the common maximum, the weights are not
    - rescale_factor(m_j, m) * fx
    + fx

    inverted, factor: the factor is inverted, e^(m − m1) for e^(m1 − m)
    - rescale_factor(m_j, m) * l_j
    + torch.exp(finite(m) - finite(m_j)) * l_j
    - rescale_factor(m_j, m) * fx
    + torch.exp(finite(m) - finite(m_j)) * fx

    first_as_reference, factor: all is measured against the first piece's maximum: a later,
        larger score overflows
    - m, local = reference(xs)
    + _, local = reference(xs)
    + m = local[0][0]

    nan_pieces, M2, nothing: a row in which all pieces are hidden comes out NaN: by -inf minus
        -inf, or by 0 divided by 0
    - rescale_factor(m_j, m) * l_j
    + torch.exp(m_j - m) * l_j

    extra_dimension, true: each answer has a dimension too many
    - divide(rescale_factor(m_j, m) * fx, l)
    + divide(rescale_factor(m_j, m) * fx, l)[None]

    one_tensor: the pieces are pasted into one tensor; each machine wants its own back
    - [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]
    + torch.cat([divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local], -1)
    """,
)


@pieces.mistake("M2", "a hidden piece's own local result is NaN, and spoils the row", "nothing")
def nan_local(xs):
    ms = [x.amax(-1, keepdim=True) for x in xs]
    m = torch.cat(ms, -1).amax(-1, keepdim=True)
    fxs = [torch.exp(x - m_j) * torch.exp(m_j - m) for x, m_j in zip(xs, ms)]
    l = sum(fx.sum(-1, keepdim=True) for fx in fxs)
    return [fx / l for fx in fxs]


@pieces.mistake("", "the pieces' own softmaxes are averaged, as if all weighed the same", "pasted")
def averaged(xs):
    return [divide(fx, l) / len(xs) for _, l, fx in reference(xs)[1]]


@pieces.right("by the log of the sum")
def by_lse(xs):
    lse = torch.stack([torch.logsumexp(x.double(), -1) for x in xs]).logsumexp(0)[..., None]
    return [torch.exp(x - finite(lse)).float() for x in xs]


@pieces.right("pasted, softmax, cut")
def by_cutting(xs):
    p = torch.softmax(torch.cat(xs, -1), -1).nan_to_num(0.0)
    return tuple(p.split([x.shape[-1] for x in xs], -1))


# 3. Find and fix -----------------------------------------------------------

stream = Task("stream_softmax", "Find and fix: the stream that divides", "many")


@stream.cases
def _():
    return cases_of(lambda xs: exact_softmax(torch.cat(xs, -1)), piece_inputs())


@stream.right("divided once at the end")
def stream_once(xs):
    parts, l = [], 0
    m = torch.full_like(xs[0][..., :1], -torch.inf)  # (..., 1)
    for x in xs:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l = a * l + b * l_j
        parts = [a * part for part in parts]
        parts.append(b * fx)
        m = m_new
    return divide(torch.cat(parts, -1), l)


stream.slips(
    stream_once,
    """
    stream_dividing, M17, shown: each step divides what is there already, so early weights are
        divided again and again; l belongs to the whole row, and divides once
    - [a * part for part in parts]
    + [divide(a * part, l) for part in parts]
    - parts.append(b * fx)
    + parts.append(divide(b * fx, l))
    - divide(torch.cat(parts, -1), l)
    + torch.cat(parts, -1)

    stream_divided_so_far, M17: each piece is divided by the sum so far, and never by the row's
    - parts.append(b * fx)
    + parts.append(divide(b * fx, l))
    - divide(torch.cat(parts, -1), l)
    + torch.cat(parts, -1)

    stream_old_unscaled, M16, factor: what came before is not rescaled when a later piece holds
        the maximum
    - [a * part for part in parts]
    + parts

    stream_l_unscaled, M16, factor: l is not rescaled when a later piece holds the maximum
    - l = a * l + b * l_j
    + l = l + b * l_j

    stream_both_unscaled, M16, factor: neither l nor what came before is rescaled when a later
        piece holds the maximum
    - l = a * l + b * l_j
    + l = l + b * l_j
    - [a * part for part in parts]
    + parts

    stream_new_unscaled, factor: the new piece is not brought to the common maximum
    - parts.append(b * fx)
    + parts.append(fx)

    stream_m_forgotten, factor: m is never moved on: each piece is measured against the first m
    - m = m_new

    stream_factors_exchanged, factor: the factors are exchanged: each part gets the other's
    - [a * part for part in parts]
    + [b * part for part in parts]
    - parts.append(b * fx)
    + parts.append(a * fx)

    stream_undivided, names: nothing is divided at all: weights must sum to 1
    - divide(torch.cat(parts, -1), l)
    + torch.cat(parts, -1)

    stream_zero_by_zero, M2, nothing: a row that sees nothing divides 0 by 0
    - divide(torch.cat(parts, -1), l)
    + torch.cat(parts, -1) / l
    """,
)


@stream.right("all at once")
def stream_at_once(xs):
    return torch.softmax(torch.cat(xs, -1), -1).nan_to_num(0.0)


# 4. Write the test ---------------------------------------------------------


def local(x1, x2):
    """The arguments (fx1, l1, m1, fx2, l2, m2) of two blocks."""
    (m1, l1, fx1), (m2, l2, fx2) = calculate_local_fx(x1), calculate_local_fx(x2)
    return fx1, l1, m1, fx2, l2, m2


def extra(*parts):
    return decomposed_softmax(*parts)[None]


def blank(*parts):
    p = decomposed_softmax(*parts)
    return p.where(p > 1e-3, 0)


def forgetful(fx1, l1, m1, fx2, l2, m2):
    return divide(torch.cat((fx1, fx2), -1), l1 + l2)


def other_order(fx1, l1, m1, fx2, l2, m2):
    return decomposed_softmax(fx2, l2, m2, fx1, l1, m1)


def first_unscaled(fx1, l1, m1, fx2, l2, m2):
    m = torch.maximum(m1, m2)
    a2 = rescale_factor(m2, m)
    return divide(torch.cat((fx1, a2 * fx2), -1), l1 + a2 * l2)


def nan_blocks(fx1, l1, m1, fx2, l2, m2):
    m = torch.maximum(m1, m2)
    a1, a2 = torch.exp(m1 - m), torch.exp(m2 - m)
    return torch.cat((a1 * fx1, a2 * fx2), -1) / (a1 * l1 + a2 * l2)


def summed_in_float64(*parts):
    return decomposed_softmax(*(x.double() for x in parts)).to(parts[0].dtype)


def by_lse_of_blocks(fx1, l1, m1, fx2, l2, m2):
    lse1, lse2 = m1 + l1.log(), m2 + l2.log()
    lse = finite(torch.logaddexp(lse1, lse2))
    return torch.cat((fx1 * torch.exp(m1 - lse), fx2 * torch.exp(m2 - lse)), -1)


tester = test_task(
    "test_decomposed",
    "Write the test that catches the bug",
    "true",
    right={
        "attnlib's own": decomposed_softmax,
        "one that computes in float64 and rounds at the end": summed_in_float64,
        "one that goes through the log of the sum": by_lse_of_blocks,
    },
    wrong={
        "one whose answer has a dimension too many": extra,
        "one that drops every weight below 0.001": blank,
        "one that rescales nothing": forgetful,
        "one that leaves the first block as it is": first_unscaled,
        "one that gives the second block first": other_order,
        "one that gives NaN where both blocks are hidden": nan_blocks,
    },
)


def halves(factor=1.0, hidden=True, lift=0.0):
    """The arguments for two blocks of 1024 scores, 16 rows, and the right answer."""
    x = factor * gaussian(16, 2048)
    x[:, :1024] += lift
    if hidden:
        x[3] = -INF
    return local(*x.split(1024, -1)), exact_softmax(x)


@tester.right("relative to float64, with a hidden row")
def relative_to_float64(f):
    parts, exact = halves(3.0)
    must_be_close(f(*parts), exact)


tester.slips(
    relative_to_float64,
    """
    too_lenient, M15: a test allows an absolute error of 0.001, and a weight among 2048 is
        about 0.0005; allclose also forgives a shape that broadcasts
    - halves(3.0)
    + halves()
    - must_be_close(f(*parts), exact)
    + assert torch.allclose(f(*parts), exact, atol=1e-3)

    only_sums, classic: a test asks only whether the weights sum to 1, which they do whatever
        the factors are
    - halves(3.0)
    + halves(5.0, hidden=False)
    - must_be_close(f(*parts), exact)
    + must_be_close(f(*parts).sum(-1), exact.sum(-1))

    first_is_largest, factor: a test's first block always holds the maximum, and never needs a
        factor
    - halves(3.0)
    + halves(lift=9.0)

    no_hidden_row, M2, nothing: a test never tries a row that sees nothing
    - halves(3.0)
    + halves(hidden=False)

    the_same_bits, M9: a test asks for the same bits: right code may round differently
    - must_be_close(f(*parts), exact)
    + assert torch.equal(f(*parts), decomposed_softmax(*parts))
    """,
)


@tester.right("by pencil")
def with_a_pencil(f):
    p = f(*local(pencil(2000, 1), pencil(4000, 3000)))
    must_be_close(9001 * p, torch.tensor([2000.0, 1.0, 4000.0, 3000.0]))
    assert abs(9001 * p[1] - 1) < 1e-3
    nothing = torch.full((2,), -INF)
    assert f(*local(nothing, nothing)).tolist() == [0.0] * 4


# 5. Stretch ----------------------------------------------------------------

favourite = Task("favourite", "The favourite and its probability", "remember", parts=("index", "p"))


@favourite.cases
def _():
    def oracle(xs):
        p, index = torch.softmax(torch.cat(xs, -1).double(), -1).max(-1)
        return index, p.float()

    inputs = piece_inputs()
    inputs.pop("a row that sees nothing")
    inputs.pop("equal scores")  # any of them is the favourite
    return cases_of(oracle, inputs)


@favourite.right("three numbers a row")
def three_numbers(xs):
    m, l, index, start = torch.tensor(-INF), 0.0, torch.tensor(0), 0
    for x in xs:
        m_j, l_j = (y.squeeze(-1) for y in calculate_local_fx(x)[:2])
        i = x.argmax(-1) + start
        m_old, m = m, torch.maximum(m, m_j)
        index = torch.where(m_j > m_old, i, index)
        l = rescale_factor(m_old, m) * l + rescale_factor(m_j, m) * l_j
        start += x.shape[-1]
    return index, 1 / l


favourite.slips(
    three_numbers,
    """
    index_in_piece: the index counts from the start of its piece, not of the row
    - x.argmax(-1) + start
    + x.argmax(-1)

    favourite_unscaled, M16, factor: the sums of the pieces are added without rescaling
    - l = rescale_factor(m_old, m) * l + rescale_factor(m_j, m) * l_j
    + l = l + l_j

    within_its_piece, pasted: the probability is that within its own piece
    - l = rescale_factor(m_old, m) * l + rescale_factor(m_j, m) * l_j
    + l = torch.where(m_j > m_old, l_j, l)

    favourite_score, names: the score itself is returned for the probability
    - 1 / l
    + m
    """,
)


@favourite.right("all at once")
def favourite_at_once(xs):
    p, index = torch.softmax(torch.cat(xs, -1), -1).max(-1)
    return index, p
