"""Exercises of lesson 01: safe softmax."""

import math

import torch

from attnlib import calculate_local_fx, online_softmax, safe_softmax
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
from attnlib.softmax import finite

# 1. Predict ----------------------------------------------------------------

exponents = Task("largest_exponents", "Predict where exp ends", "overflow", secret=True, points=1)
FORMATS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@exponents.cases
def _():
    largest = {name: math.floor(math.log(torch.finfo(t).max)) for name, t in FORMATS.items()}
    return {"the four formats": Case((), largest)}


@exponents.mistake("", "bfloat16 is given float16's range; it has as many exponent bits as float32")
def bfloat16_as_float16():
    return {"float16": 11, "bfloat16": 11, "float32": 88, "float64": 709}


@exponents.mistake("", "the limit is rounded up: e to the next whole number is infinite already")
def rounded_up():
    return {"float16": 12, "bfloat16": 89, "float32": 89, "float64": 710}


@exponents.mistake("", "powers of 2 are counted, and exp takes powers of e, which is larger")
def powers_of_two():
    return {"float16": 15, "bfloat16": 127, "float32": 127, "float64": 1023}


@exponents.right("tried out, one exponent after the other")
def by_trial():
    def last(t):
        n = torch.arange(2000, dtype=torch.float64).to(t)  # whole up to 2048 in each, or nearly
        return int(n[n.exp().isfinite()].max().item())

    return {name: last(t) for name, t in FORMATS.items()}


# 2. Write ------------------------------------------------------------------

lse = Task("log_sum_exp", "Write the log of the sum", "maximum")


@lse.cases
def _():
    def oracle(x):
        return torch.logsumexp(x.double(), -1).to(x.dtype)

    return cases_of(
        oracle,
        {
            "ln 1, ln 2, ln 5": (pencil(1, 2, 5),),
            "three rows of five": (gaussian(3, 5),),
            "one row of five": (gaussian(1, 5),),
            "two texts of three rows": (gaussian(2, 3, 4),),
            "scores near −20000": (gaussian(3, 5) - 20000,),
            "logits × 60": (60 * gaussian(4, 6),),
            "rows 400 apart, either way": (torch.tensor([[0.0, 1.0], [-400, -399], [400, 401]]),),
            "equal scores": (torch.full((2, 4), 3.0),),
            "float16": (20 * gaussian(5, 7, dtype=torch.float16),),
            "real scores of Alice": (alice_scores()[::40],),
            "a row that sees nothing": (torch.tensor([[0.0, 1.0, -INF], [-INF, -INF, -INF]]),),
            "no scores at all": (torch.empty(2, 0),),
        },
    )


@lse.right("by m and l")
def lse_by_local_results(x):
    m, l, _ = calculate_local_fx(x)
    return (m + l.log()).squeeze(-1)


@lse.right("in plain words")
def lse_in_words(x):
    if x.shape[-1] == 0:
        return x.new_full(x.shape[:-1], -INF)
    m = x.amax(-1, keepdim=True)
    m = m.clamp(min=torch.finfo(x.dtype).min)
    return (m + (x - m).exp().sum(-1, keepdim=True).log()).squeeze(-1)


lse.slips(
    lse_in_words,
    """
    lse_nan, M2, nothing: -inf is subtracted from -inf, which is NaN
    - m = m.clamp(min=torch.finfo(x.dtype).min)

    lse_sentinel, M2, nothing: a finite number stands for the maximum where that is -inf, and
        for real maxima that are lower still
    - torch.finfo(x.dtype).min
    + -1e4

    lse_of_no_scores, nothing: amax is asked for the largest of no numbers
    - x.shape[-1] == 0
    + False

    lse_naive, overflow: no maximum is subtracted: exp overflows
    - m + (x - m).exp()
    + x.exp()

    lse_without_m: the maximum that was subtracted is not added back
    - m + (x - m)
    + (x - m)

    lse_one_maximum, names: one maximum serves all rows: a row far below it underflows to 0
    - x.amax(-1, keepdim=True)
    + x.max()

    lse_keeps_dimension, names: the summed dimension is kept with size 1; a lse has one number a row
    - .squeeze(-1)

    lse_squeezed, names: squeeze() takes away every dimension of size 1, and not only the last
    - .squeeze(-1)
    + .squeeze()
    """,
)


@lse.mistake("M6", "the logarithm is taken to base 2; this course's lse is natural")
def lse_base_2(x):
    return torch.logsumexp(x.float(), -1).mul(1 / math.log(2)).to(x.dtype)


@lse.mistake("", "the whole tensor is summed instead of each row", "names")
def lse_of_everything(x):
    return torch.logsumexp(x.flatten(), -1)


@lse.right("a reference that is not the maximum")
def lse_other_reference(x):
    m, _, _ = calculate_local_fx(x)
    m = finite(m.float() - 3)
    return (m + (x.float() - m).exp().sum(-1, keepdim=True).log()).squeeze(-1).to(x.dtype)


@lse.right("one score after the other")
def lse_running(x):
    y = torch.full(x.shape[:-1], -INF)
    for x_j in x.float().unbind(-1):
        y = torch.logaddexp(y, x_j)
    return y.to(x.dtype)


# 3. Find and fix -----------------------------------------------------------

masked = Task("masked_softmax", "Find and fix: the hidden row", "nothing")


@masked.cases
def _():
    def oracle(x, see):
        p = torch.softmax(x.double().masked_fill(~see, -INF), -1)
        return p.nan_to_num(0.0).to(x.dtype)

    x, see = gaussian(4, 6), gaussian(4, 6, seed=1) > -0.5
    nobody = see.clone()
    nobody[2] = False
    far = torch.tensor([[300.0, 301.0, 0.0], [-300.0, -301.0, 0.0], [0.0, 1.0, 2.0]])
    low = torch.tensor([[-20000.0, 4.0, 3.0], [0.0, -1.0, 2.0]])
    return cases_of(
        oracle,
        {
            "the last of three hidden": (pencil(1, 2, 5), torch.tensor([True, True, False])),
            "everything seen": (x, torch.ones(4, 6, dtype=torch.bool)),
            "some hidden": (x, see),
            "a row that sees nothing": (x, nobody),
            "visible scores near minus 20000": (low, torch.tensor([[True, False, False]] * 2)),
            "logits × 60": (60 * x, see),
            "rows 300 apart, either way": (far, torch.ones(3, 3, dtype=torch.bool).tril(1)),
            "equal scores": (torch.zeros(4, 6), see),
        },
    )


@masked.mistake(
    "M2",
    "hidden keys get the score -10000: a row of only such attends evenly "
    "to all it must not see, and real scores may be lower still",
    shown=True,
)
def masked_by_sentinel(x, see):
    x = torch.where(see, x, -1e4)  # (..., N)
    return torch.softmax(x, -1)


@masked.right("by m and l")
def masked_by_local_results(x, see):
    return safe_softmax(torch.where(see, x, -INF))


masked.slips(
    masked_by_local_results,
    """
    masked_by_lower_sentinel, M2: hidden keys get a finite score, a lower one: where all are
        hidden, all differences are still 0
    - -INF
    + -1e9

    masked_nan, M2: a row in which all is hidden comes out NaN: by -inf minus -inf, or by 0
        divided by 0
    - safe_softmax(torch.where(see, x, -INF))
    + torch.softmax(torch.where(see, x, -INF), -1)

    masked_after, names: hidden weights are removed after the division, so the rest sums to
        less than 1
    - torch.where(see, x, -INF))
    + x) * see

    masked_to_zero, names: hidden scores become 0, and the weight of a score 0 is not 0
    - torch.where(see, x, -INF)
    + x * see

    masked_inverted, nothing: the mask is read the other way round: True means may be seen
    - see, x, -INF
    + see, -INF, x
    """,
)


@masked.right("weights removed before the sum")
def masked_before_the_sum(x, see):
    hidden = torch.where(see, x, -INF).double()
    fx = torch.exp(hidden - finite(hidden.amax(-1, keepdim=True)) + 2) * see
    return (fx / fx.sum(-1, keepdim=True).clamp(min=1e-300)).to(x.dtype)


@masked.right("NaN rows cleared afterwards")
def masked_cleared(x, see):
    p = torch.softmax(x.masked_fill(~see, -INF), -1)
    return p.masked_fill(~see, 0)


# 4. Write the test ---------------------------------------------------------


def naive(x):
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def nan_row(x):
    return torch.softmax(x, -1)


def even_row(x):
    return torch.softmax(x.clamp(min=-1e4), -1)


def one_maximum(x):
    e = torch.exp(x - finite(x.max()))
    return e / e.sum(-1, keepdim=True).clamp(min=1e-30)


def wrong_dimension(x):
    return safe_softmax(x.movedim(0, -1)).movedim(-1, 0)


def in_float64(x):
    return safe_softmax(x.double()).to(x.dtype)


def lagging(x):
    m, _, _ = calculate_local_fx(x)
    e = torch.exp(x - finite(m - 5))
    return e / e.sum(-1, keepdim=True).masked_fill(m == -INF, 1)


tester = test_task(
    "test_softmax",
    "Write the test that catches the bug",
    "overflow",
    right={
        "attnlib's own": safe_softmax,
        "one that computes in float64 and rounds at the end": in_float64,
        "one that subtracts a number below the maximum": lagging,
        "one that takes one score after the other": online_softmax,
    },
    wrong={
        "one that forgets to subtract the maximum": naive,
        "one that gives NaN for a row of -inf": nan_row,
        "one that spreads a row of -inf evenly": even_row,
        "one that subtracts the maximum of all rows from each": one_maximum,
        "one that sums over the first dimension": wrong_dimension,
    },
)


@tester.right("against float64, with a hidden row")
def against_float64(softmax):
    x = 100 * gaussian(8, 60)
    x[3] = -INF
    exact = torch.softmax(x.double(), -1).nan_to_num(0.0).float()
    must_be_close(softmax(x), exact)


tester.slips(
    against_float64,
    """
    asserts_nothing: a test computes a comparison and asserts nothing
    - must_be_close(softmax(x), exact)
    + torch.allclose(softmax(x), exact)

    asks_for_bits, M9, maximum: a test asks for the same bits: right code may round differently
    - must_be_close(softmax(x), exact)
    + assert torch.equal(softmax(x), exact)

    judge_is_wrong, nothing: a test compares with an answer that is wrong itself: torch's softmax
        of a row that sees nothing is NaN
    - .nan_to_num(0.0)

    tries_tame_scores, overflow: a test tries only tame scores, which hurt nobody
    - 100 * gaussian
    + gaussian
    - x[3] = -INF

    tries_no_empty_row, M2, nothing: a test never tries a row that sees nothing
    - x[3] = -INF
    """,
)


@tester.right("by laws alone")
def by_laws(softmax):
    x = torch.tensor([[0.0, 1.0, 3.0], [500.0, 501.0, 503.0], [-INF, -INF, -INF]])
    p = softmax(x)
    assert p[2].abs().sum() == 0 and (p[0] - p[1]).abs().max() < 1e-4
    assert abs(p[0].sum() - 1) < 1e-5 and abs(p[0, 2] / p[0, 1] - math.e**2) < 1e-3
