"""Exercises of lesson 09: a backward by pencil, tile by tile, tested, and on shards."""

import math

import torch

from attnlib import attention_oracle, online_attention_backward, standard_attention
from attnlib.course.exercises.books import in_tiles
from attnlib.course.exercises.task import Case, Task, cases_of, gaussian, must_be_close, test_task
from attnlib.traffic import Tape

F64 = torch.float64


def gaussian_qkvo(N=5, M=7, d=4, dv=3, factor=1.0, seed=0):
    """q, k, v and do, in float64."""
    shapes = (N, d), (M, d), (M, dv), (N, dv)
    q, *kvo = (gaussian(*x, seed=seed + n, dtype=F64) for n, x in enumerate(shapes))
    return factor * q, *kvo


# 1. By pencil --------------------------------------------------------------

row = Task(
    "row_gradients", "By pencil: which way a score pulls", "pencil", parts=("ds", "dv"), points=1
)


@row.cases
def _():
    def oracle(p, v, do):
        s, v = p.log().requires_grad_(), v.clone().requires_grad_()
        return torch.autograd.grad(torch.softmax(s, -1) @ v, (s, v), do)

    def inputs(N, d, factor, seed):
        p = torch.softmax(factor * gaussian(N, seed=seed, dtype=F64), -1)
        return p, *(gaussian(*x, seed=seed + N, dtype=F64) for x in ((N, d), (d,)))

    fours = torch.tensor([1.0, 2, 1], dtype=F64) / 4, torch.tensor([[4.0], [0], [8]], dtype=F64)
    return cases_of(
        oracle,
        {
            "weights in fours": (*fours, torch.ones(1, dtype=F64)),
            "the same, when the loss falls with o": (*fours, -2 * torch.ones(1, dtype=F64)),
            "7 keys, values of 5 numbers": inputs(7, 5, 1.0, 0),
            "one key has nearly all the weight": inputs(9, 3, 5.0, 1),
            "two keys": inputs(2, 4, 1.0, 2),
        },
    )


@row.right("by the three lines")
def row_right(p, v, do):
    dp = v @ do  # (N,)
    ds = p * (dp - p @ dp)  # (N,)
    return ds, p[:, None] * do


row.slips(
    row_right,
    """
    row_without_delta: delta is left out: what one key wins, the others pay for
    - (dp - p @ dp)
    + dp

    row_mean: the plain mean of dp is taken off; the keys pay by their weights
    - p @ dp
    + dp.mean()

    row_unweighted: ds lacks the weight of its own key
    - p * (dp - p @ dp)
    + dp - p @ dp

    row_alone: each weight is taken to follow its own score alone; it follows all of them
    - p * (dp - p @ dp)
    + p * (1 - p) * dp

    row_dv_unweighted: every value is taken to get all of do; it gets its weight's share
    - p[:, None] * do
    + 0 * v + do
    """,
)


@row.right("delta from the output")
def row_by_output(p, v, do):
    o = p @ v  # (d,)
    return p * ((v - o) @ do), torch.outer(p, do)


# 2. Predict ----------------------------------------------------------------

moved = Task("numbers_moved", "Predict what a backward carries", "outside", points=2)


@moved.cases
def _():
    def counted(Nq, Nk, d, size, passes):
        """Both loops of the lesson, without what they compute."""

        def tape(N, *widths):
            return Tape(zip(*(torch.empty(N, w).split(size) for w in widths)))

        queries, keys = tape(Nq, d, d, 1, 1), tape(Nk, d, d)
        dq, dkv = tape(Nq, d), tape(Nk, d, d)
        for j in range(len(keys.blocks)):
            keys.take(j)
            for i in range(len(queries.blocks)):
                queries.take(i)
                if passes == 1:
                    dq.put(i, dq.take(i))
            dkv.put(j, dkv.blocks[j])
        for i in range(len(queries.blocks) if passes == 2 else 0):
            queries.take(i)
            for j in range(len(keys.blocks)):
                keys.take(j)
            dq.put(i, dq.blocks[i])
        return sum(x.moved for x in (queries, keys, dq, dkv))

    return cases_of(
        counted,
        {
            "4 queries, 4 keys, d = 1, blocks of 2, one pass": (4, 4, 1, 2, 1),
            "the same in two passes": (4, 4, 1, 2, 2),
            "471 of each, d = 32, blocks of 32, one pass": (471, 471, 32, 32, 1),
            "the same in two passes, blocks of 64": (471, 471, 32, 64, 2),
            "100 queries, 300 keys, d = 5, one pass": (100, 300, 5, 64, 1),
            "100 queries, 300 keys, d = 5, two passes": (100, 300, 5, 64, 2),
            "4096 of each, d = 128, blocks of 128, two passes": (4096, 4096, 128, 128, 2),
        },
    )


@moved.right("by pencil")
def moved_by_pencil(Nq, Nk, d, size, passes):
    queries, keys = Nq * (2 * d + 2), Nk * 2 * d  # q, do, lse and delta; k and v
    rows, columns = math.ceil(Nq / size), math.ceil(Nk / size)
    first = keys + columns * queries + 2 * Nk * d  # dk and dv leave once
    if passes == 1:
        return first + columns * 2 * Nq * d  # dq comes and goes
    return first + queries + rows * keys + Nq * d


moved.slips(
    moved_by_pencil,
    """
    moved_dq_out_only: dq is only counted as it leaves; whoever adds to it has to fetch it first
    - columns * 2 * Nq * d
    + columns * Nq * d

    moved_without_vectors: lse and delta are left out; they are numbers too
    - (2 * d + 2)
    + 2 * d

    moved_queries_once: the queries are taken to pass once; every block of keys wants them all
    - columns * queries
    + queries

    moved_keys_once: in the second pass the keys are taken to pass once
    - rows * keys
    + keys

    moved_without_results: dk and dv are left out; they have to leave, too
    - + 2 * Nk * d

    moved_whole_blocks: the last, shorter blocks are left out
    - math.ceil(Nq / size), math.ceil(Nk / size)
    + Nq // size, Nk // size
    """,
)


# 3. Find and fix: tile by tile ----------------------------------------------


def exact_gradients(q, k, v, do):
    qkv = [x.detach().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():  # where a backward calls it, there is none
        return torch.autograd.grad(standard_attention(*qkv), qkv, do)


def backward_case(q, k, v, do, size):
    return Case((q, k, v, *attention_oracle(q, k, v), do, size), exact_gradients(q, k, v, do))


tiles = Task(
    "tiled_backward",
    "Find and fix: two tiles, one gradient",
    "backward",
    parts=("dq", "dk", "dv"),
    ask=in_tiles,
    points=3,
)


@tiles.cases
def _():
    thousands = 1000 + 3 * gaussian(6, 1, seed=3, dtype=F64)
    return {
        "one tile": backward_case(*gaussian_qkvo(3, 4), 4),
        "two blocks of queries": backward_case(*gaussian_qkvo(4, 2, dv=2), 2),
        "two blocks of keys": backward_case(*gaussian_qkvo(2, 4, dv=2, seed=1), 2),
        "2 × 2 tiles, 2 × 2 numbers each": backward_case(*gaussian_qkvo(4, 4), 2),
        "more keys than queries, shorter tiles at the ends": backward_case(*gaussian_qkvo(5, 7), 3),
        "more queries than keys": backward_case(*gaussian_qkvo(9, 5, seed=2), 4),
        "heads of size 5, tiles of one score": backward_case(*gaussian_qkvo(4, 6, d=5, dv=5), 1),
        "logits × 20": backward_case(*gaussian_qkvo(6, 8, factor=20.0, seed=4), 4),
        "scores in the thousands": backward_case(
            torch.ones(4, 1, dtype=F64), thousands, *gaussian_qkvo(4, 6)[2:], 4
        ),
    }


@tiles.right("queries outside")
def tiles_right(q, k, v, o, lse, do, size):
    scale = q.shape[-1] ** -0.5
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for i in range(0, len(q), size):
        rows = slice(i, i + size)
        delta = (do[rows] * o[rows]).sum(-1, keepdim=True)  # (rows, 1)
        for j in range(0, len(k), size):
            cols = slice(j, j + size)
            s = scale * q[rows] @ k[cols].mT  # (rows, cols)
            p = torch.exp(s - lse[rows, None])
            ds = p * (do[rows] @ v[cols].mT - delta)
            dq[rows] += scale * ds @ k[cols]
            dk[cols] += scale * ds.mT @ q[rows]
            dv[cols] += p.mT @ do[rows]
    return dq, dk, dv


WRONG_TILES = tiles.slips(
    tiles_right,
    """
    tiles_overwritten, shown: a tile's part of dk and dv takes the place of what earlier blocks
        of queries had put there; it must be added
    - dk[cols] += scale
    + dk[cols] = scale
    - dv[cols] += p
    + dv[cols] = p

    tiles_dq_overwritten: a tile's part of dq takes the place of what earlier blocks of keys had
        put there
    - dq[rows] += scale
    + dq[rows] = scale

    tiles_without_delta, two numbers: delta is left out
    - v[cols].mT - delta)
    + v[cols].mT)

    tiles_own_delta, two numbers: delta is summed over the tile's own keys; it belongs to the
        whole row
    - v[cols].mT - delta)
    + v[cols].mT - (p * (do[rows] @ v[cols].mT)).sum(-1, keepdim=True))

    tiles_dk_unscaled, M10: dq has the scale 1 / √d, and dk has not
    - scale * ds.mT @ q[rows]
    + ds.mT @ q[rows]

    tiles_unscaled, M10: dq and dk lack the scale 1 / √d
    - scale * ds @ k[cols]
    + ds @ k[cols]
    - scale * ds.mT @ q[rows]
    + ds.mT @ q[rows]

    tiles_p_untransposed: dv is made by p, not by p transposed: keys and queries change places
    - p.mT @ do[rows]
    + p @ do[rows]

    tiles_of_running_m, two numbers: p is measured against the maximum and the sum so far; only
        the final lse makes the weights that the forward had
    - delta = (do[rows] * o[rows]).sum(-1, keepdim=True)  # (rows, 1)
    + delta = (do[rows] * o[rows]).sum(-1, keepdim=True)  # (rows, 1)
    + m, l = torch.full_like(delta, -math.inf), torch.zeros_like(delta)
    - p = torch.exp(s - lse[rows, None])
    + m_old, m = m, torch.maximum(m, s.amax(-1, keepdim=True))
    + l = torch.exp(m_old - m) * l + torch.exp(s - m).sum(-1, keepdim=True)
    + p = torch.exp(s - m) / l

    tiles_of_their_own, two numbers: each tile's p is a softmax of its own; lse makes it the row's
    - torch.exp(s - lse[rows, None])
    + torch.softmax(s, -1)

    tiles_dropped: the shorter tiles at the end are dropped
    - range(0, len(q), size)
    + range(0, max(len(q) // size, 1) * size, size)
    - range(0, len(k), size)
    + range(0, max(len(k) // size, 1) * size, size)

    tiles_overflow, two numbers: the power of a score is taken before lse is off, and overflows
    - torch.exp(s - lse[rows, None])
    + torch.exp(s) / torch.exp(lse[rows, None])
    """,
)


@tiles.mistake("", "the whole matrix is made, though every tile is known by lse and delta")
def tiles_of_one_matrix(q, k, v, o, lse, do, size):
    scale = q.shape[-1] ** -0.5
    p = torch.exp(scale * q @ k.mT - lse[:, None])
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True))
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


@tiles.right("keys outside, as the library's readable loop")
def tiles_keys_outside(q, k, v, o, lse, do, size):
    return online_attention_backward(q, k, v, o, lse, do, size)


@tiles.right("delta from p and dp of a whole row, in a pass of its own")
def tiles_delta_of_weights(q, k, v, o, lse, do, size):
    delta = 0.0
    for k_j, v_j in zip(k.split(size), v.split(size)):
        p = torch.exp(q @ k_j.mT / q.shape[-1] ** 0.5 - lse[:, None])
        delta = delta + (p * (do @ v_j.mT)).sum(-1, keepdim=True)
    another_o = delta * do / do.square().sum(-1, keepdim=True)  # with the same do . o
    return online_attention_backward(q, k, v, another_o, lse, do, size)


# 4. Write the test ---------------------------------------------------------


def zero_gradients(*qkv_and_more):
    return tuple(map(torch.zeros_like, qkv_and_more[:3]))


test = test_task(
    "test_backward",
    "Write the test that catches the bug",
    "backward",
    right={
        "a loop over tiles": tiles_right,
        "a loop over blocks of keys": tiles_keys_outside,
        "autograd": lambda q, k, v, o, lse, do, size: exact_gradients(q, k, v, do),
    },
    wrong={
        "one whose gradients are zero": zero_gradients,
        "one that overwrites dk and dv block by block": WRONG_TILES["tiles_overwritten"],
        "one that forgets delta": WRONG_TILES["tiles_without_delta"],
        "one whose delta is each tile's own": WRONG_TILES["tiles_own_delta"],
        "one whose dk lacks 1 / √d": WRONG_TILES["tiles_dk_unscaled"],
        "one that drops shorter tiles at the end": WRONG_TILES["tiles_dropped"],
        "one whose weights are those of the maximum so far": WRONG_TILES["tiles_of_running_m"],
    },
)


@test.right("relative to autograd in float64")
def test_relative(backward):
    q, k, v, do = gaussian_qkvo(7, 10, d=5)
    got = backward(q, k, v, *attention_oracle(q, k, v), do, 4)
    for a, b in zip(got, exact_gradients(q, k, v, do), strict=True):
        must_be_close(a, b, 1e-6)


test.slips(
    test_relative,
    """
    test_allows_too_much, M15: a test allows an absolute error that is larger than the gradients
        are, or asks only that they are finite: it passes a zero gradient
    - got = backward
    + do = 1e-3 * do
    + got = backward
    - must_be_close(a, b, 1e-6)
    + assert torch.allclose(a, b, atol=1e-2)

    test_of_one_tile: a test has one tile only, so that nothing has to be added up
    - do, 4)
    + do, 16)

    test_of_whole_tiles: a test has whole tiles only, and no shorter one at the end
    - gaussian_qkvo(7, 10, d=5)
    + gaussian_qkvo(8, 12, d=5)

    test_of_size_one: a test does not see that dk lacks its scale: in heads of size 1 the scale
        is 1, and a gradient's direction alone does not show it
    - gaussian_qkvo(7, 10, d=5)
    + gaussian_qkvo(7, 10, d=1)

    test_of_dq: a test looks at dq alone
    - zip(got, exact_gradients(q, k, v, do), strict=True)
    + zip(got[:1], exact_gradients(q, k, v, do))

    test_of_dv: a test looks at dv alone
    - zip(got, exact_gradients(q, k, v, do), strict=True)
    + zip(got[2:], exact_gradients(q, k, v, do)[2:])

    test_of_bits, M9: a test asks for the same bits, or nearly: right code may round differently
    - must_be_close(a, b, 1e-6)
    + assert torch.equal(a, b)
    """,
)


@test.right("beside another loop")
def test_beside_another_loop(backward):
    q, k, v, do = gaussian_qkvo(6, 11, d=3, seed=3)
    args = q, k, v, *attention_oracle(q, k, v), do, 4
    for a, b in zip(backward(*args), tiles_keys_outside(*args)):
        assert a.shape == b.shape and (a - b).norm() <= 1e-6 * b.norm()


# 5. Stretch: a shard that sees nothing ---------------------------------------

shard = Task(
    "shard_backward",
    "Find and fix: a shard that sees nothing",
    "empty",
    parts=("dq", "dk", "dv"),
    points=3,
)


@shard.cases
def _():
    def case(see, d=4, factor=1.0, seed=0, through=1.0):
        N, M = see.shape
        q, k, v, do = gaussian_qkvo(N, M, d=d, factor=factor, seed=seed)
        dlse, some = through * gaussian(N, seed=seed + 9, dtype=F64), see.any(-1)
        qkv = [x.clone().requires_grad_() for x in (q, k, v)]
        s = (qkv[0] @ qkv[1].mT / d**0.5).masked_fill(~see, -math.inf)[some]
        o, lse = torch.softmax(s, -1) @ qkv[2], torch.logsumexp(s, -1)
        grads = torch.autograd.grad((o, lse), qkv, (do[some], dlse[some]))
        wide = torch.zeros_like(do).index_put((some,), o.detach())
        rest = torch.full_like(dlse, -math.inf).index_put((some,), lse.detach())
        return Case((q, k, v, see, wide, rest, do, dlse), grads)

    def causal(N, M, shift):
        return torch.arange(M) <= torch.arange(N)[:, None] + shift

    padded = torch.ones(4, 6, dtype=torch.bool)
    padded[:, 4:] = False
    hole = causal(7, 7, 0)
    hole[3] = False
    return {
        "every key is seen, and nothing comes back through lse": case(padded[:, :4], through=0.0),
        "every key is seen": case(padded[:, :4], seed=1),
        "causal": case(causal(5, 5, 0), seed=2),
        "two keys that nobody sees": case(padded, seed=3),
        "causal, and two queries that see no key": case(causal(6, 4, -2), seed=4),
        "the same without lse, logits × 10": case(causal(6, 4, -2), factor=10.0, through=0.0),
        "heads of size 5, a hole in the middle": case(
            causal(7, 7, 0) & causal(7, 7, -3), 5, seed=5
        ),
        "no query sees any key": case(causal(3, 4, -3), seed=6),
    }


@shard.right("an lse of +inf where nothing is seen")
def shard_right(q, k, v, see, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    s = (scale * q @ k.mT).masked_fill(~see, -math.inf)  # (N, M)
    lse = lse.masked_fill(lse == -math.inf, math.inf)
    p = torch.exp(s - lse[:, None])  # (N, M)
    delta = (do * o).sum(-1)  # (N,)
    ds = p * (do @ v.mT - (delta - dlse)[:, None])  # (N, M)
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


shard.slips(
    shard_right,
    """
    shard_as_it_came, M2, shown: -inf minus -inf is NaN in a row that sees nothing, and its NaN
        reach every key
    - lse = lse.masked_fill(lse == -math.inf, math.inf)

    shard_wiped, M2: the NaN are wiped from the gradients; by then they are in dk and dv of all
        keys, and right numbers go with them
    - lse = lse.masked_fill(lse == -math.inf, math.inf)
    - scale * ds @ k, scale * ds.mT @ q, p.mT @ do
    + (scale * ds @ k).nan_to_num(), (scale * ds.mT @ q).nan_to_num(), (p.mT @ do).nan_to_num()

    shard_without_lse, M13, lse: what comes back through lse is dropped
    - (delta - dlse)[:, None]
    + delta[:, None]

    shard_unmasked: the mask is forgotten in the backward; scores are made again, and so must be
        what hides them
    - .masked_fill(~see, -math.inf)
    """,
)


@shard.right("NaN taken from the weights")
def shard_weights_mended(q, k, v, see, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    s = torch.where(see, scale * q @ k.mT, -math.inf)
    p = torch.exp(s - lse[:, None]).nan_to_num(0.0)
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + dlse[:, None])
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do
