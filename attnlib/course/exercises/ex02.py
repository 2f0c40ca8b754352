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


@joined.mistake("", "the factors are swapped: the block that holds the maximum shrinks")
def factors_swapped():
    return {"a1": 0.5, "a2": 1.0, "l": 9 / 16 + 5 / 2}


@joined.mistake("", "the second block's factor is inverted: it grows instead of shrinking")
def factor_inverted():
    return {"a1": 1.0, "a2": 2.0, "l": 9 / 8 + 5}


@joined.mistake("M16", "l1 and l2 are added as they are, each in its own unit")
def added_unscaled():
    return {"a1": 1.0, "a2": 0.5, "l": 9 / 8 + 5 / 2}


@joined.mistake("", "l is counted in units of 1 instead of in units of e^m")
def in_units_of_one():
    return {"a1": 1.0, "a2": 0.5, "l": 19.0}


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
    return {
        "ln 1, ln 2 and ln 4, ln 1": ([pencil(1, 2), pencil(4, 1)],),
        "one piece": ([low],),
        "the first piece holds the maximum": ([low + 9, high],),
        "the last piece holds the maximum": ([low, high + 3],),
        "three pieces, the last one shorter": (list(gaussian(3, 11).split(4, -1)),),
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


@pieces.mistake("", "every piece divides by its own sum, as if it were the whole row", "pasted")
def pasted(xs):
    return [divide(fx, l) for _, l, fx in reference(xs)[1]]


@pieces.mistake("M16", "nothing is rescaled to the common maximum", "classic")
def nothing_rescaled(xs):
    _, local = reference(xs)
    l = sum(l_j for _, l_j, _ in local)
    return [divide(fx, l) for _, _, fx in local]


@pieces.mistake("M16", "the weights are rescaled to the common maximum, the sums l are not")
def l_not_rescaled(xs):
    m, local = reference(xs)
    l = sum(l_j for _, l_j, _ in local)
    return [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]


@pieces.mistake("M16", "the sums l are rescaled to the common maximum, the weights are not")
def fx_not_rescaled(xs):
    m, local = reference(xs)
    l = sum(rescale_factor(m_j, m) * l_j for m_j, l_j, _ in local)
    return [divide(fx, l) for _, _, fx in local]


@pieces.mistake("", "the factor is inverted, e^(m − m1) for e^(m1 − m)", "factor")
def inverted(xs):
    m, local = reference(xs)
    factors = [torch.exp(finite(m) - finite(m_j)) for m_j, _, _ in local]
    l = sum(a * l_j for a, (_, l_j, _) in zip(factors, local))
    return [divide(a * fx, l) for a, (_, _, fx) in zip(factors, local)]


@pieces.mistake(
    "",
    "all is measured against the first piece's maximum: a later, larger score overflows",
    "factor",
)
def first_as_reference(xs):
    _, local = reference(xs)
    factors = [torch.exp(m_j - finite(local[0][0])) for m_j, _, _ in local]
    l = sum(a * l_j for a, (_, l_j, _) in zip(factors, local))
    return [divide(a * fx, l) for a, (_, _, fx) in zip(factors, local)]


@pieces.mistake("M2", "a hidden piece subtracts -inf from -inf", "nothing")
def nan_pieces(xs):
    m = torch.cat(xs, -1).amax(-1, keepdim=True)
    fxs = [torch.exp(x - m) for x in xs]
    l = sum(fx.sum(-1, keepdim=True) for fx in fxs)
    return [fx / l for fx in fxs]


@pieces.mistake("M2", "a hidden piece's own local result is NaN, and spoils the row", "nothing")
def nan_local(xs):
    ms = [x.amax(-1, keepdim=True) for x in xs]
    m = torch.cat(ms, -1).amax(-1, keepdim=True)
    fxs = [torch.exp(x - m_j) * torch.exp(m_j - m) for x, m_j in zip(xs, ms)]
    l = sum(fx.sum(-1, keepdim=True) for fx in fxs)
    return [fx / l for fx in fxs]


@pieces.mistake("", "each answer has a dimension too many", "true")
def extra_dimension(xs):
    return [p[None] for p in by_factors(xs)]


@pieces.mistake("", "the pieces are pasted into one tensor; each machine wants its own back")
def one_tensor(xs):
    return torch.cat(by_factors(xs), -1)


@pieces.right("by factors")
def by_factors(xs):
    m, local = reference(xs)
    l = sum(rescale_factor(m_j, m) * l_j for m_j, l_j, _ in local)
    return [divide(rescale_factor(m_j, m) * fx, l) for m_j, _, fx in local]


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


@stream.mistake(
    "M17",
    "each step divides what is there already, so early weights are divided "
    "again and again; l belongs to the whole row, and divides once",
    shown=True,
)
def stream_dividing(xs):
    parts, l = [], 0
    m = torch.full_like(xs[0][..., :1], -torch.inf)  # (..., 1)
    for x in xs:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l = a * l + b * l_j
        parts = [divide(a * part, l) for part in parts]
        parts.append(divide(b * fx, l))
        m = m_new
    return torch.cat(parts, -1)


@stream.mistake("M17", "each piece is divided by the sum so far, and never by the row's")
def stream_divided_so_far(xs):
    parts, l = [], 0
    m = torch.full_like(xs[0][..., :1], -INF)
    for x in xs:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l = a * l + b * l_j
        parts = [a * part for part in parts]
        parts.append(divide(b * fx, l))
        m = m_new
    return torch.cat(parts, -1)


def streamed(xs, old=True, total=True, new=True, divide_by=divide):
    """The stream done right, or with one of its rescalings left out."""
    parts, l = [], 0
    m = torch.full_like(xs[0][..., :1], -INF)
    for x in xs:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l = (a if total else 1) * l + b * l_j
        parts = [(a if old else 1) * part for part in parts]
        parts.append((b if new else 1) * fx)
        m = m_new
    return torch.cat([divide_by(part, l) for part in parts], -1)


@stream.mistake(
    "M16", "what came before is not rescaled when a later piece holds the maximum", "factor"
)
def stream_old_unscaled(xs):
    return streamed(xs, old=False)


@stream.mistake("M16", "l is not rescaled when a later piece holds the maximum", "factor")
def stream_l_unscaled(xs):
    return streamed(xs, total=False)


@stream.mistake(
    "M16",
    "neither l nor what came before is rescaled when a later piece holds the maximum",
    "factor",
)
def stream_both_unscaled(xs):
    return streamed(xs, old=False, total=False)


@stream.mistake("", "the new piece is not brought to the common maximum", "factor")
def stream_new_unscaled(xs):
    return streamed(xs, new=False)


@stream.mistake("", "nothing is divided at all: weights must sum to 1", "names")
def stream_undivided(xs):
    return streamed(xs, divide_by=lambda part, l: part)


@stream.mistake("M2", "a row that sees nothing divides 0 by 0", "nothing")
def stream_zero_by_zero(xs):
    return streamed(xs, divide_by=torch.divide)


@stream.right("divided once at the end")
def stream_once(xs):
    return streamed(xs)


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


@tester.mistake("M15", "a test allows an absolute error of 0.001, and a weight among 2048 is "
                "about 0.0005; allclose also forgives a shape that broadcasts")  # fmt: skip
def too_lenient(f):
    parts, exact = halves()
    assert torch.allclose(f(*parts), exact, atol=1e-3)


@tester.mistake("", "a test asks only whether the weights sum to 1, which they do whatever the "
                "factors are", "classic")  # fmt: skip
def only_sums(f):
    parts, exact = halves(5.0, hidden=False)
    must_be_close(f(*parts).sum(-1), exact.sum(-1))


@tester.mistake("", "a test's first block always holds the maximum, and never needs a factor",
                "factor")  # fmt: skip
def first_is_largest(f):
    parts, exact = halves(lift=9.0)
    must_be_close(f(*parts), exact)


@tester.mistake("M2", "a test never tries a row that sees nothing", "nothing")
def no_hidden_row(f):
    parts, exact = halves(hidden=False)
    must_be_close(f(*parts), exact)


@tester.mistake("M9", "a test asks for the same bits: right code may round differently")
def the_same_bits(f):
    parts, _ = halves(3.0)
    assert torch.equal(f(*parts), decomposed_softmax(*parts))


@tester.right("relative to float64, with a hidden row")
def relative_to_float64(f):
    parts, exact = halves(3.0)
    must_be_close(f(*parts), exact)


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
    return cases_of(oracle, inputs)


def running_favourite(xs, rescale=True, offset=True, whole=True):
    m, l, index, start = -INF, 0.0, 0, 0
    for x in xs:
        m_j, l_j, _ = calculate_local_fx(x)
        m_j, l_j = m_j[..., 0], l_j[..., 0]
        i = x.argmax(-1) + (start if offset else 0)
        m_old, m = torch.as_tensor(m), torch.maximum(torch.as_tensor(m), m_j)
        index = torch.where(m_j > m_old, i, torch.as_tensor(index))
        a = rescale_factor(m_old, m) if rescale else 1.0
        b = rescale_factor(m_j, m) if rescale else 1.0
        l = torch.where(m_j > m_old, l_j, l) if not whole else a * l + b * l_j
        start += x.shape[-1]
    return index, 1 / l


@favourite.mistake("", "the index counts from the start of its piece, not of the row")
def index_in_piece(xs):
    return running_favourite(xs, offset=False)


@favourite.mistake("M16", "the sums of the pieces are added without rescaling", "factor")
def favourite_unscaled(xs):
    return running_favourite(xs, rescale=False)


@favourite.mistake("", "the probability is that within its own piece", "pasted")
def within_its_piece(xs):
    return running_favourite(xs, whole=False)


@favourite.mistake("", "the score itself is returned for the probability", "names")
def favourite_score(xs):
    m, index = torch.cat(xs, -1).max(-1)
    return index, m


@favourite.right("three numbers a row")
def three_numbers(xs):
    return running_favourite(xs)


@favourite.right("all at once")
def favourite_at_once(xs):
    p, index = torch.softmax(torch.cat(xs, -1), -1).max(-1)
    return index, p
