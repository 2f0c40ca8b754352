"""Exercises of lesson 07: masks, skipped tiles, and rows that see nothing."""

import math

import torch

from attnlib import FlashAttentionCore, SoftmaxState, attention_oracle, standard_attention
from attnlib.course.exercises.books import counted, largest
from attnlib.course.exercises.task import (
    INF,
    BadAnswer,
    Task,
    cases_of,
    gaussian,
    must_be_close,
    test_task,
)
from attnlib.masks import tile_rows, visible
from attnlib.softmax import divide, finite, rescale_factor


def gaussian_qkv(*lead, N=6, M=6, d=4, dv=3, seed=0):
    shapes = (N, d), (M, d), (M, dv)
    return tuple(gaussian(*lead, *x, seed=seed + n) for n, x in enumerate(shapes))


# 1. Find and fix -----------------------------------------------------------

mask = Task("causal_mask", "Find and fix: the newest token", "fewer", points=1)


@mask.cases
def _():
    return cases_of(
        lambda Nq, Nk: visible(Nq, Nk, causal=True),
        {
            "4 queries, 4 keys": (4, 4),
            "2 queries, 6 keys": (2, 6),
            "1 query, 5 keys": (1, 5),
            "5 queries, 3 keys": (5, 3),
            "3 queries, 1 key": (3, 1),
            "1 of each": (1, 1),
        },
    )


@mask.right("by positions")
def mask_by_positions(Nq, Nk):
    i = torch.arange(Nq)[:, None]  # (Nq, 1)
    j = torch.arange(Nk)  # (Nk,)
    return j <= i + Nk - Nq  # (Nq, Nk)


mask.slips(
    mask_by_positions,
    """
    mask_top_left, M8, shown: the mask is aligned top-left: the first query stands at the first
        key, and the newest token cannot see itself
    - i + Nk - Nq
    + i

    mask_shifted_wrong, M8: the shift has the wrong sign
    - i + Nk - Nq
    + i + Nq - Nk

    mask_strict: a query cannot see the key at its own position
    - j <=
    + j <

    mask_one_too_far, fewer: a query sees one key beyond its own position
    - i + Nk - Nq
    + i + Nk - Nq + 1

    mask_inverted, padding: the mask says what is hidden; True must mean: may be seen
    - j <=
    + j >

    mask_of_the_future, fewer: queries see the future and not the past
    - j <=
    + j >=

    mask_of_nothing: every query sees every key
    - j <= i + Nk - Nq
    + (j <= i) | True
    """,
)


@mask.right("tril with a shift")
def mask_by_tril(Nq, Nk):
    return torch.ones(Nq, Nk, dtype=torch.bool).tril(Nk - Nq)


@mask.right("counted from the end")
def mask_from_the_end(Nq, Nk):
    return torch.ones(Nq, Nk, dtype=torch.bool).flip(0, 1).triu().flip(0, 1)


# 2. Write ------------------------------------------------------------------

tiles = Task("tiles_needed", "How many tiles are left?", "tiles")


@tiles.cases
def _():
    def oracle(Nq, Nk, block_size):
        return sum(len(row) for _, row in tile_rows(Nq, Nk, block_size, causal=True))

    return cases_of(
        oracle,
        {
            "12 of each, tiles of 4": (12, 12, 4),
            "8192 of each, tiles of 256": (8192, 8192, 256),
            "10 of each, tiles of 4": (10, 10, 4),
            "4 queries, 12 keys, tiles of 4": (4, 12, 4),
            "6 queries, 12 keys, tiles of 4": (6, 12, 4),
            "1 query, 100 keys, tiles of 32": (1, 100, 32),
            "12 queries, 4 keys, tiles of 4": (12, 4, 4),
            "one tile": (5, 5, 64),
            "5 queries, 9 keys, tiles of 4": (5, 9, 4),
            "9 queries, 6 keys, tiles of 2": (9, 6, 2),
            "7 of each, tiles of 2": (7, 7, 2),
        },
    )


def blocks(N, block_size):
    return math.ceil(N / block_size)


@tiles.right("by each block's last query")
def tiles_by_last_query(Nq, Nk, block_size):
    lasts = (min(i + block_size, Nq) + Nk - Nq for i in range(0, Nq, block_size))
    return sum(blocks(max(last, 0), block_size) for last in lasts)


tiles.slips(
    tiles_by_last_query,
    """
    tiles_of_all: all tiles are counted; those above the diagonal are never computed
    - max(last, 0)
    + Nk

    tiles_top_left, M8, fewer: the diagonal starts in the top-left corner; it ends in the
        bottom-right one
    - min(i + block_size, Nq) + Nk - Nq
    + min(i + block_size, Nq, Nk)

    tiles_by_first_query: a block of queries is judged by its first query; its last one sees most
    - min(i + block_size, Nq) + Nk - Nq
    + min(i + Nk - Nq + 1, Nk)
    """,
)


@tiles.mistake(
    "", "only tiles that every query sees whole are counted; partial ones are computed too"
)
def tiles_that_are_full(Nq, Nk, block_size):
    return sum(not t.partial for _, row in tile_rows(Nq, Nk, block_size, causal=True) for t in row)


@tiles.mistake("", "the square's n (n + 1) / 2 is taken for every shape")
def tiles_of_a_square(Nq, Nk, block_size):
    n = blocks(max(Nq, Nk), block_size)
    return n * (n + 1) // 2


@tiles.mistake("", "a shorter last block is left out", "heads")
def tiles_that_are_whole(Nq, Nk, block_size):
    return sum(
        t.rows.stop - t.rows.start == block_size and t.cols.stop - t.cols.start == block_size
        for _, row in tile_rows(Nq, Nk, block_size, causal=True)
        for t in row
    )


@tiles.right("by looking at the mask")
def tiles_by_mask(Nq, Nk, block_size):
    see = visible(Nq, Nk, causal=True)
    return sum(int(x.any()) for row in see.split(block_size) for x in row.split(block_size, 1))


# 3. Find and fix -----------------------------------------------------------

window = Task("window_attention", "Find and fix: NaN swept under the carpet", "blind")


@window.cases
def _():
    def oracle(q, k, v, w, block_size):
        return attention_oracle(q, k, v, window=w)[0].float()

    q, k, v = gaussian_qkv(N=12, M=12)
    return cases_of(
        oracle,
        {
            "a window over everything": (q, k, v, 12, 4),
            "a window of 8, blocks of 4": (q, k, v, 8, 4),
            "a window of 3, blocks of 4": (q, k, v, 3, 4),
            "a window of 1": (q, k, v, 1, 4),
            "a shorter last block": (*gaussian_qkv(N=11, M=11, seed=4), 3, 4),
            "fewer queries than keys": (q[:3], k, v, 3, 4),
            "more queries than keys": (q, k[:5], v[:5], 3, 4),
            "logits × 60": (60 * q, k, v, 3, 4),
            "scores near −800": (20 + q, k - 20, v, 3, 4),
            "heads of size 5": (*gaussian_qkv(N=9, M=9, d=5, seed=6), 2, 4),
        },
    )


@window.right("a finite reference")
def window_right(q, k, v, window, block_size):
    see = visible(len(q), len(k), window=window)  # (Nq, Nk)
    m = q.new_full((len(q), 1), -torch.inf)  # (Nq, 1)
    l, o = torch.zeros_like(m), q.new_zeros(len(q), v.shape[-1])
    for j in range(0, len(k), block_size):
        cols = slice(j, j + block_size)
        s = q @ k[cols].mT / q.shape[-1] ** 0.5
        s = s.masked_fill(~see[:, cols], -torch.inf)  # (Nq, block)
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        a, p = torch.exp(m - finite(m_new)), torch.exp(s - finite(m_new))
        l, o = a * l + p.sum(-1, keepdim=True), a * o + p @ v[cols]
        m = m_new
    return divide(o, l)


window.slips(
    window_right,
    """
    window_swept, M18, shown: a row whose first block is hidden is NaN from there on, and the
        NaN is swept away at the end: the row gives 0, though it sees keys later
    - torch.exp(m - finite(m_new)), torch.exp(s - finite(m_new))
    + torch.exp(m - m_new), torch.exp(s - m_new)
    - divide(o, l)
    + (o / l).nan_to_num(0.0)

    window_nan, M18: a row whose first block is hidden is NaN from there on: -inf is subtracted
        from -inf
    - torch.exp(m - finite(m_new)), torch.exp(s - finite(m_new))
    + torch.exp(m - m_new), torch.exp(s - m_new)
    - divide(o, l)
    + o / l

    window_zero_by_zero, M2: a row that sees nothing still comes out NaN: 0 divided by 0, or -inf
        minus -inf
    - divide(o, l)
    + o / l

    window_sentinel, M2: hidden scores are a large negative number instead of -inf: a row that
        sees nothing averages what it must not see
    - ~see[:, cols], -torch.inf
    + ~see[:, cols], -1e9

    window_too_wide, tiles: the window is one key too wide: its own position is one of the w
    - window=window
    + window=window + 1

    window_hidden_late, tiles: m is taken before hiding: a large hidden score makes the visible
        weights underflow
    - s = s.masked_fill(~see[:, cols], -torch.inf)
    - torch.exp(s - finite(m_new))
    + torch.exp(s - finite(m_new)) * see[:, cols]
    """,
)


@window.right("m starts at the lowest number")
def window_finite_start(q, k, v, window, block_size):
    see = visible(len(q), len(k), window=window)
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~see, -INF)
    m = finite(s.amax(-1, keepdim=True))
    p = torch.exp(s - m)
    return divide(p @ v, p.sum(-1, keepdim=True))


@window.right("by the library's core")
def window_by_core(q, k, v, window, block_size):
    return FlashAttentionCore(q.shape[-1], block_size)(q, k, v, window=window)


# 4. Write the test ---------------------------------------------------------


def masked_standard(
    q,
    k,
    v,
    causal=False,
    key_mask=None,
    hide=-INF,
    align=True,
    ends=0,
    over=True,
    both=True,
    c=-0.5,
):
    """Standard attention with masks, right or with one thing wrong."""
    Nq, Nk = q.shape[-2], k.shape[-2]
    see = torch.ones(Nq, Nk, dtype=torch.bool)
    if causal:
        see = see.tril((Nk - Nq if align else 0) + ends)
    if key_mask is not None and (both or not causal):
        see = see & key_mask
    s = (q @ k.mT * q.shape[-1] ** c).masked_fill(~see, hide)
    p = torch.softmax(s, -1)
    return (p.masked_fill(~see.any(-1, keepdim=True), 0) if over else p) @ v


def wrong(**options):
    return lambda q, k, v, causal=False, key_mask=None: masked_standard(
        q, k, v, causal, key_mask, **options
    )


def flash(block_size):
    return lambda q, k, v, **options: FlashAttentionCore(q.shape[-1], block_size)(
        q, k, v, **options
    )


def small_blocks(q, k, v, **options):
    return flash(max(3, k.shape[-2] // 3))(q, k, v, **options)


tester = test_task(
    "test_masks",
    "Write the test that catches the bug",
    "blind",
    right={
        "StdAttentionCord": lambda q, k, v, **options: standard_attention(q, k, v, **options),
        "FlashAttentionCore with small blocks": small_blocks,
        "FlashAttentionCore with one block": flash(4096),
        "one that works in float64": lambda q, k, v, **options: attention_oracle(
            q, k, v, **options
        )[0].to(q.dtype),
    },
    wrong={
        "one whose causal mask is aligned top-left": wrong(align=False),
        "one whose causal mask hides a query's own position": wrong(ends=-1),
        "one that ignores the padding where the mask is causal": wrong(both=False),
        "one that hides with −10000": wrong(hide=-1e4, over=False),
        "one that gives NaN for a query that sees nothing": wrong(over=False),
        "one that scales twice": wrong(c=-1.0),
    },
)


def compare(f, N=8, M=8, pad=None, causal=True, check=must_be_close):
    q, k, v = gaussian_qkv(N=N, M=M, d=16)
    options = {"causal": causal}
    if pad is not None:
        options["key_mask"] = torch.arange(M) >= pad
    check(f(q, k, v, **options), attention_oracle(q, k, v, **options)[0].float())


@tester.right("two shapes and padding")
def two_shapes(f):
    compare(f, N=5)
    compare(f, pad=3)


tester.slips(
    two_shapes,
    """
    only_squares, M8, fewer: a test has as many queries as keys: both alignments agree there
    - compare(f, N=5)
    + compare(f)

    everyone_sees: a test has no query that sees nothing
    - pad=3
    + N=5, pad=2
    """,
)


@tester.mistake("", "a test never pads and asks for causal at once", "padding")
def one_mask_at_a_time(f):
    compare(f, N=5)
    compare(f, N=9, M=5)
    compare(f, pad=8, causal=False)


@tester.mistake("M15", "a test looks at no number: NaN and shapes are all it asks about", "scale")
def asks_for_finite(f):
    def check(got, exact):
        assert got.shape == exact.shape and got.isfinite().all()

    compare(f, N=9, M=5, check=check)
    compare(f, pad=3, check=check)


@tester.mistake("M9", "a test asks for the same bits: right code may round differently", "rounding")
def asks_for_bits(f):
    q, k, v = gaussian_qkv(N=9, M=70, d=16)
    pad = torch.arange(70) >= 65
    options = {"causal": True, "key_mask": pad}
    assert torch.equal(f(q, k, v, **options), standard_attention(q, k, v, **options))


@tester.right("by what must not matter")
def by_laws(f):
    q, k, v = gaussian_qkv(N=4, M=8, d=16)
    seen = torch.arange(8) >= 2
    whole = f(torch.cat((q, q)), k, v, causal=True)[4:]
    must_be_close(f(q, k, v, causal=True), whole)
    must_be_close(f(q, k, v, causal=True, key_mask=seen), f(q, k[2:], v[2:], causal=True))
    assert f(q, k, v, key_mask=seen & False).abs().sum() == 0
    must_be_close(f(0 * q[:1], k, v, causal=True), v.mean(0, keepdim=True))
    s = f(torch.eye(1, 16), torch.eye(2, 16), torch.eye(2, 1))
    assert abs(s.logit() - 0.25) < 1e-4


# 5. Stretch ----------------------------------------------------------------


def ask_sinks(f, core, q, k, v, sinks, window):
    if len(q) < 32:  # small calls are all overhead
        return f(core, q, k, v, sinks, window)
    o, timeline = counted(lambda: f(core, q, k, v, sinks, window))
    if largest(timeline) >= 4 * len(q) * len(k):
        raise BadAnswer("It makes a matrix of all scores; let the core do its work in tiles.")
    return o


sinks = Task(
    "sink_attention",
    "A mask that the core does not know",
    "tiles",
    ask=ask_sinks,
    books=True,
    points=3,
)


@sinks.cases
def _():
    def oracle(core, q, k, v, sinks, window):
        N = len(q)
        see = visible(N, N, window=window)
        see[:, :sinks] = visible(N, N, causal=True)[:, :sinks]
        s = (q.double() @ k.double().mT / q.shape[-1] ** 0.5).masked_fill(~see, -INF)
        return (torch.softmax(s, -1) @ v.double()).float()

    core, core16 = FlashAttentionCore(4, 4), FlashAttentionCore(4, 16)
    q, k, v = gaussian_qkv(N=10, M=10)
    return cases_of(
        oracle,
        {
            "8 words, 2 sinks, a window of 3": (core, q[:8], k[:8], v[:8], 2, 3),
            "10 words, 1 sink, a window of 4": (core, q, k, v, 1, 4),
            "3 sinks, a window of 1": (core, q, k, v, 3, 1),
            "a window over everything": (core, q, k, v, 3, 10),
            "logits × 60": (core, 60 * q, k, v, 2, 3),
            "32 words, 4 sinks, a window of 8": (core16, *gaussian_qkv(N=32, M=32), 4, 8),
        },
    )


def sink_parts(core, q, k, v, n, w):
    """(o, lse) of the sinks, and of the window over the other keys."""
    (o0, lse0), (o1, lse1) = (
        core(q[rows], k[:n], v[:n], causal=causal, return_lse=True)
        for rows, causal in ((slice(0, n), True), (slice(n, None), False))
    )
    other = core(q, k[n:], v[n:], window=w, return_lse=True)
    return torch.cat((o0, o1)), torch.cat((lse0, lse1)), *other


def merge_parts(o1, lse1, o2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    a1, a2 = rescale_factor(lse1, lse), rescale_factor(lse2, lse)
    return a1[:, None] * o1 + a2[:, None] * o2


@sinks.mistake("", "the window runs over the sinks as well: where it meets them, they count twice")
def sinks_twice(core, q, k, v, n, w):
    o1, lse1, _, _ = sink_parts(core, q, k, v, n, w)
    return merge_parts(o1, lse1, *core(q, k, v, window=w, return_lse=True))


@sinks.mistake("M8", "the first queries see sinks that come after them", "fewer")
def sinks_from_the_future(core, q, k, v, n, w):
    first = core(q, k[:n], v[:n], return_lse=True)
    return merge_parts(*first, *core(q, k[n:], v[n:], window=w, return_lse=True))


@sinks.mistake(
    "M8",
    "the sinks are asked for with causal: its diagonal ends at the last query and "
    "the last sink, so that all but the last queries see none",
    "fewer",
)
def sinks_causal(core, q, k, v, n, w):
    first = core(q, k[:n], v[:n], causal=True, return_lse=True)
    return merge_parts(*first, *core(q, k[n:], v[n:], window=w, return_lse=True))


@sinks.mistake("", "the two outputs are averaged, as if both parts weighed the same", "values")
def sinks_averaged(core, q, k, v, n, w):
    o1, _, o2, _ = sink_parts(core, q, k, v, n, w)
    return (o1 + o2) / 2


@sinks.mistake("", "the two outputs are added without their weights", "values")
def sinks_added(core, q, k, v, n, w):
    o1, _, o2, _ = sink_parts(core, q, k, v, n, w)
    return o1 + o2


@sinks.mistake("M7", "the weights are powers of e of the lse as they are: they overflow", "values")
def sinks_overflowing(core, q, k, v, n, w):
    o1, lse1, o2, lse2 = sink_parts(core, q, k, v, n, w)
    l1, l2 = lse1.exp()[:, None], lse2.exp()[:, None]
    return (l1 * o1 + l2 * o2) / (l1 + l2)


@sinks.mistake("", "the sinks are left out")
def sinks_left_out(core, q, k, v, n, w):
    return core(q, k, v, window=w)


@sinks.mistake("", "everything before is seen, not only the sinks and the window")
def sinks_causal_throughout(core, q, k, v, n, w):
    return core(q, k, v, causal=True)


@sinks.right("the sinks in two calls, the window in a third, and a merge")
def sinks_merged(core, q, k, v, n, w):
    return merge_parts(*sink_parts(core, q, k, v, n, w))


@sinks.right("as states")
def sinks_as_states(core, q, k, v, n, w):
    o1, lse1, o2, lse2 = sink_parts(core, q, k, v, n, w)
    a, b = (
        SoftmaxState(x[:, None], torch.exp(x - finite(x))[:, None], o)
        for o, x in ((o1, lse1), (o2, lse2))
    )
    return a.merge(b).finalise()[0]
