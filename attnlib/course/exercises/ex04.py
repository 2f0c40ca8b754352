"""Exercises of lesson 04: rescaling, watched."""

import math

import torch

from attnlib import SoftmaxState, calculate_local_fx
from attnlib.course.exercises.books import in_blocks
from attnlib.course.exercises.task import (
    INF,
    Task,
    alice_scores,
    cases_of,
    gaussian,
    must_be_close,
    test_task,
)
from attnlib.softmax import divide, finite, rescale_factor

RAMP = torch.linspace(-4, 4, 22)


def rows() -> dict[str, torch.Tensor]:
    """Scores (M,) that hurt a loop over blocks of 4."""
    hidden_first = gaussian(11, seed=5)
    hidden_first[:4] = -INF
    spike = 0.3 * gaussian(24, seed=1)
    spike[21] = 9.0
    early = 0.3 * gaussian(64, seed=1)
    early[1] = 9.0
    return {
        "a ramp down": RAMP.flip(0)[:8].clone(),
        "a ramp up": RAMP[:8].clone(),
        "a ramp up, the last block shorter": RAMP,
        "one block": gaussian(4),
        "a spike in the last block": spike,
        "a spike in the first block": early,
        "equal scores": torch.zeros(7),
        "one score of −2·10⁹": torch.tensor([-2e9]),
        "Gaussian × 20": 20 * gaussian(19, seed=2),
        "scores around −200": gaussian(12, seed=3) - 200,
        "scores that rise by 300": torch.tensor([0.0, 1.0, -1.0, 2.0, 300.0, 301.0, 299.0, 302.0]),
        "scores that fall by 300": torch.tensor([301.0, 302, 300, 299, 1, 0, 2, -1, 0, 1]),
        "the first block is hidden": hidden_first,
        "nothing is seen": torch.full((6,), -INF),
        "“well” of Alice": alice_scores()[369, 330:400],
    }


# 1. Warm-up ----------------------------------------------------------------

rescales = Task("count_rescales", "Count the rescalings", "growth", points=1)


@rescales.cases
def _():
    def oracle(s, block_size):
        m = [block.max().item() for block in s.split(block_size)]
        return sum(max(m[:n]) < m[n] for n in range(1, len(m)))

    zigzag = torch.tensor([0.0, 5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 0.0, 7.0])
    return cases_of(
        oracle,
        {
            "maxima 5, 2, 4, 6, 7": (zigzag, 2),
            "a ramp up": (RAMP, 4),
            "a ramp down": (RAMP.flip(0), 4),
            "one block": (RAMP, 50),
            "blocks of one": (zigzag, 1),
            "maxima 5, 5, 5, 6": (torch.tensor([5.0, 1, 5, 5, 2, 5, 6, 6]), 2),
            "a last block of one, which is the largest": (RAMP, 7),
            "scores below zero": (RAMP - 100, 4),
            "“well” of Alice": (alice_scores()[369], 64),
        },
    )


@rescales.right("in plain words")
def count_in_words(s, block_size):
    m = [x.max().item() for x in s.split(block_size)]
    return sum(max(m[:n]) < m[n] for n in range(1, len(m)))


@rescales.right("by a running maximum of the blocks")
def by_running_maximum(s, block_size):
    m = torch.stack([x.max() for x in s.split(block_size)]).cummax(0).values
    return int((m.diff() > 0).sum())


rescales.slips(
    count_in_words,
    """
    counts_the_first, row: the first block counts too; it has nothing before it to rescale
    - m = [x.max().item() for x in s.split(block_size)]
    + m = [-INF, *(x.max().item() for x in s.split(block_size))]

    compares_neighbours: each block is compared with the one before it, not with the largest so far
    - max(m[:n])
    + m[n - 1]

    counts_whole_blocks, row: the shorter last block is left out
    - s.split(block_size)
    + s[: len(s) // block_size * block_size].split(block_size)

    counts_the_others: blocks in which m stays are counted, and not those in which it grows
    - max(m[:n]) < m[n]
    + max(m[:n]) >= m[n]

    starts_at_zero, row: the running maximum starts at 0, and scores below zero never reach it
    - x.max().item()
    + max(x.max().item(), 0.0)
    """,
)


@rescales.mistake("", "single scores are counted; m is updated once a block", "row")
def counts_scores(s, block_size):
    return int((s.cummax(0).values.diff() > 0).sum())


@rescales.right("by the library's loop, as a tensor")
def by_states(s, block_size):
    state, count = SoftmaxState.of(s[None, :block_size], s[:block_size, None]), 0
    for s_j in s[block_size:].split(block_size) if len(s) > block_size else ():
        new = state.merge(SoftmaxState.of(s_j[None], s_j[:, None]))
        count, state = count + (new.m > state.m).sum(), new
    return torch.as_tensor(count)


# 2. Find and fix -----------------------------------------------------------

attend = Task("attend_row", "Find and fix: the row that starts over", "row", ask=in_blocks)


def values(s):
    return gaussian(len(s), 3, seed=9)


def attended(s, v, *rest):
    return (torch.softmax(s.double(), -1).nan_to_num(0.0) @ v.double()).float()


@attend.cases
def _():
    return cases_of(attended, {name: (s, values(s), 4) for name, s in rows().items()})


@attend.right("rescaled in every step")
def attend_always(s, v, block_size):
    m, l = s.new_tensor(-torch.inf), s.new_zeros(())
    o = v.new_zeros(v.shape[-1])
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        m_old, m = m, torch.maximum(m, s_j.max())
        p = torch.exp(s_j - finite(m))  # (block,)
        l = rescale_factor(m_old, m) * l + p.sum()
        o = rescale_factor(m_old, m) * o + p @ v_j  # (D,)
    return divide(o, l)


WRONG_LOOPS = attend.slips(
    attend_always,
    """
    attend_o_unscaled, M16, shown: o is not rescaled where a later block holds the maximum
    - o = rescale_factor(m_old, m) * o
    + o = o

    attend_l_unscaled, M16: l is not rescaled where a later block holds the maximum
    - l = rescale_factor(m_old, m) * l
    + l = l

    attend_unscaled, M16: neither l nor o is rescaled where a later block holds the maximum
    - l = rescale_factor(m_old, m) * l
    + l = l
    - o = rescale_factor(m_old, m) * o
    + o = o

    attend_dividing, M17, values: o is divided by l after every block; l belongs to the end
    - o = rescale_factor(m_old, m) * o + p @ v_j
    + o = divide(rescale_factor(m_old, m) * o + p @ v_j, l)
    - return divide(o, l)
    + return o

    attend_nan, M18, nothing: a hidden first block leaves m at -inf, and -inf minus -inf is NaN
    - p = torch.exp(s_j - finite(m))
    + p = torch.exp(s_j - m)
    - l = rescale_factor(m_old, m) * l
    + l = torch.exp(m_old - m) * l
    - o = rescale_factor(m_old, m) * o
    + o = torch.exp(m_old - m) * o
    - divide(o, l)
    + o / l

    attend_zero_by_zero, nothing: a row that sees nothing comes out NaN: 0 divided by 0, or -inf
        minus -inf
    - divide(o, l)
    + o / l

    attend_from_zero: m starts at 0, and the weights of scores far below 0 underflow
    - s.new_tensor(-torch.inf)
    + s.new_tensor(0.0)

    attend_own_maximum, lag: each block takes its own maximum as m, also where an earlier one
        was larger: its factor overflows
    - torch.maximum(m, s_j.max())
    + s_j.max()

    attend_inverted, lag: the factor of o is inverted, e^(m − m_old): the old o grows where it
        should shrink
    - o = rescale_factor(m_old, m) * o
    + o = (rescale_factor(m, m_old) * o).nan_to_num(0.0)

    attend_undivided, values: nothing is divided by l
    - divide(o, l)
    + o
    """,
)


@attend.mistake("", "the blocks' own softmaxes are averaged, as if all weighed the same", "pasted")
def attend_averaged(s, v, block_size):
    pairs = list(zip(s.split(block_size), v.split(block_size)))
    return sum(attend_always(s_j, v_j, block_size) for s_j, v_j in pairs) / len(pairs)


@attend.mistake("", "the shorter last block is left out")
def attend_whole_blocks(s, v, block_size):
    n = len(s) // block_size * block_size
    return attend_always(s[:n], v[:n], block_size)


@attend.right("from the last block to the first")
def attend_backwards(s, v, block_size):
    return attend_always(s.flip(0), v.flip(0), block_size)


@attend.right("M4: a stale m, all relative to it")
def attend_stale(s, v, block_size):
    return lazy_stale(s, v, block_size, 8.0)


@attend.mistake("", "the whole row goes through exp at once; the loop has a block of it at a time")
def attend_at_once(s, v, block_size):
    _, l, fx = calculate_local_fx(s.double())
    return divide(fx @ v.double(), l).float()


# 3. Write the test ---------------------------------------------------------

WRONG = {
    "one that forgets to rescale o": WRONG_LOOPS["attend_o_unscaled"],
    "one that forgets to rescale l": WRONG_LOOPS["attend_l_unscaled"],
    "one that rescales neither": WRONG_LOOPS["attend_unscaled"],
    "one that divides by l after every block": WRONG_LOOPS["attend_dividing"],
    "one that gives NaN where the first block is hidden": WRONG_LOOPS["attend_nan"],
    "one that leaves out a shorter last block": attend_whole_blocks,
    "one whose m starts at 0": WRONG_LOOPS["attend_from_zero"],
}

tester = test_task(
    "test_attend",
    "Write the test that catches the bug",
    "growth",
    right={
        "one that rescales in every step": attend_always,
        "one that starts with the last block": attend_backwards,
        "one that keeps a stale m, and measures all against it": attend_stale,
        "one that takes the whole row at once": attend_at_once,
    },
    wrong=WRONG,
)


def compare(f, s, block_size=4):
    v = values(s)
    must_be_close(f(s, v, block_size), attended(s, v))


@tester.mistake("", "a test's maximum is in the first block, where nothing is ever rescaled")
def only_a_ramp_down(f):
    compare(f, rows()["a ramp down"])


@tester.mistake("", "a test has whole blocks only", "row")
def only_whole_blocks(f):
    compare(f, rows()["a ramp up"])
    compare(f, rows()["scores around −200"])
    s = rows()["a ramp up"]
    s[:4] = -INF
    compare(f, s)


@tester.mistake("M18", "a test hides nothing", "nothing")
def hides_nothing(f):
    compare(f, RAMP)
    compare(f, rows()["scores around −200"])


@tester.mistake("", "a test's scores lie around 0, where a start at 0 does no harm", "row")
def only_around_zero(f):
    compare(f, RAMP)
    compare(f, rows()["the first block is hidden"])


@tester.mistake("M9", "a test asks for the same bits: right code may round differently", "rounding")
def same_bits(f):
    for s in (20 * gaussian(190, seed=2), rows()["the first block is hidden"], RAMP - 300):
        v = values(s)
        assert torch.equal(f(s, v, 4), attend_always(s, v, 4))


@tester.mistake("", "a test asserts nothing")
def asserts_nothing(f):
    f(RAMP, values(RAMP), 4)


@tester.right("against float64")
def against_float64(f):
    for s in rows().values():
        compare(f, s)


@tester.right("two rows are enough")
def two_rows(f):
    compare(f, torch.cat((torch.full((4,), -INF), RAMP)) - 200)
    compare(f, RAMP)


# 4. Find and fix -----------------------------------------------------------

lazy = Task("attend_lazily", "Find and fix: lazy, and wrong", "lag", ask=in_blocks)


@lazy.cases
def _():
    return cases_of(
        attended,
        {name: (s, values(s), 4, 8.0) for name, s in rows().items()}
        | {"a ramp up, threshold 2": (RAMP, values(RAMP), 4, 2.0)}
        | {"a ramp up, threshold 0": (RAMP, values(RAMP), 4, 0.0)},
    )


@lazy.right("M4: a stale m until the threshold")
def lazy_stale(s, v, block_size, threshold):
    m, l = s.new_tensor(-torch.inf), s.new_zeros(())
    o = v.new_zeros(v.shape[-1])
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        m_new = torch.maximum(m, s_j.max())
        if m_new > m + threshold:  # worth rescaling
            a = rescale_factor(m, m_new)
            m, l, o = m_new, a * l, a * o
        p = torch.exp(s_j - finite(m))  # (block,)
        l, o = l + p.sum(), o + p @ v_j
    return divide(o, l)


lazy.slips(
    lazy_stale,
    """
    lazy_new_m, M4, shown: m moves on while l and o stay as they were: new weights in one
        unit, old sums in another
    - m, l, o = m_new, a * l, a * o
    + l, o = a * l, a * o
    - p = torch.exp(s_j - finite(m))
    + m = m_new
    + p = torch.exp(s_j - finite(m))

    lazy_o_unscaled, M4: o is left in the old unit when m moves, even where the threshold is passed
    - m, l, o = m_new, a * l, a * o
    + m, l = m_new, a * l

    lazy_l_unscaled, M4: l is left in the old unit when m moves, even where the threshold is passed
    - m, l, o = m_new, a * l, a * o
    + m, o = m_new, a * o

    lazy_for_ever, M5, lag: m is never moved again: far above it, weights overflow
    - if m_new > m + threshold:
    + if m == -torch.inf:

    lazy_clamped, M4, lag: the exponents are cut off at the threshold instead of m being moved
    - if m_new > m + threshold:
    + if m == -torch.inf:
    - torch.exp(s_j - finite(m))
    + torch.exp((s_j - finite(m)).clamp(max=threshold))

    lazy_old_weights, M4: a block's weights are measured against the m before it, and added to
        sums that were rescaled to the new one
    - s.new_tensor(-torch.inf)
    + s[:block_size].max()
    - m_new = torch.maximum(m, s_j.max())
    + m_new = torch.maximum(m, s_j.max())
    + p = torch.exp(s_j - finite(m))
    - p = torch.exp(s_j - finite(m))  # (block,)
    """,
)


@lazy.right("rescaled in every step after all")
def lazy_never(s, v, block_size, threshold):
    return attend_always(s, v, block_size)


@lazy.right("by the library's lazy merge")
def lazy_by_merge(s, v, block_size, threshold):
    state = SoftmaxState.identity(s[None], v)
    for s_j, v_j in zip(s[None].split(block_size, -1), v.split(block_size)):
        state = state.lazy_merge(SoftmaxState.of(s_j, v_j), threshold)
    return state.finalise()[0][0]


# 5. Predict ----------------------------------------------------------------

limit = Task("largest_threshold", "Predict how lazy a format allows", "lag", points=2)


@limit.cases
def _():
    def oracle(keys, dtype):
        return math.floor(math.log(torch.finfo(dtype).max / keys))

    return cases_of(
        oracle,
        {
            "1024 keys in float16": (1024, torch.float16),
            "8192 keys in float16": (8192, torch.float16),
            "8192 keys in bfloat16": (8192, torch.bfloat16),
            "8192 keys in float32": (8192, torch.float32),
            "1 key in float32": (1, torch.float32),
            "1000000 keys in float32": (1_000_000, torch.float32),
        },
    )


@limit.right("by the logarithm")
def limit_by_log(keys, dtype):
    return math.floor(math.log(torch.finfo(dtype).max / keys))


limit.slips(
    limit_by_log,
    """
    limit_of_one_weight, M5: only one weight is kept below the format's end; l adds all of them up
    - .max / keys
    + .max

    limit_in_base_2, M5: the threshold is counted in powers of 2; a score is an exponent of e
    - math.log(
    + math.log2(

    limit_rounded_up, M5: the limit is rounded up, and the sum is infinite at it
    - math.floor
    + math.ceil

    limit_of_float16, M5, overflow: float16's end is used for every format
    - torch.finfo(dtype).max
    + 65504
    """,
)


@limit.mistake("M5", "the threshold of FlashAttention-4 is taken for a law; it is a choice", "lag")
def limit_is_8(keys, dtype):
    return 8


@limit.right("tried out, threshold by threshold")
def limit_by_trial(keys, dtype):
    end = torch.finfo(dtype).max
    return max(t for t in range(800) if math.log(keys) + t < math.log(end))
