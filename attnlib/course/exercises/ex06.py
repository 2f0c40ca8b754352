"""Exercises of lesson 06: FlashAttention's loop, its carries and its gradients."""

import math

import torch
from torch.utils.checkpoint import checkpoint

from attnlib import SoftmaxState, attention_oracle, flash_attention, standard_attention
from attnlib.course.exercises.answer import AtMost, Measured
from attnlib.course.exercises.books import counted, in_blocks
from attnlib.course.exercises.task import BadAnswer, Case, Task, cases_of, gaussian
from attnlib.memory import forward_backward
from attnlib.softmax import finite


def gaussian_qkv(*lead, N=5, M=7, d=4, dv=3, seed=0, dtype=torch.float32):
    shapes = (N, d), (M, d), (M, dv)
    return tuple(gaussian(*lead, *x, seed=seed + n, dtype=dtype) for n, x in enumerate(shapes))


# 1. Predict ----------------------------------------------------------------

reads = Task("rows_of_k_read", "Predict how often K is read", "order of loops", points=1)


@reads.cases
def _():
    def counted(Nq, Nk, block_size):
        k, read = torch.arange(Nk), 0
        for _ in torch.arange(Nq).split(block_size):
            read += sum(len(k_j) for k_j in k.split(block_size))
        return read

    return cases_of(
        counted,
        {
            "8 queries, 8 keys, blocks of 2": (8, 8, 2),
            "4096 of each, blocks of 128": (4096, 4096, 128),
            "the same in blocks of 512": (4096, 4096, 512),
            "471 of each, blocks of 128": (471, 471, 128),
            "one query, 4096 keys": (1, 4096, 128),
            "4096 queries, 77 keys": (4096, 77, 128),
        },
    )


@reads.right("by blocks of queries")
def read_by_blocks(Nq, Nk, block_size):
    return math.ceil(Nq / block_size) * Nk


reads.slips(
    read_by_blocks,
    """
    read_once, M11: K is taken to be read once; every block of queries reads all of it
    - math.ceil(Nq / block_size) * Nk
    + Nk

    read_by_every_query, M11: every query is taken to read K by itself; a block of queries shares it
    - math.ceil(Nq / block_size)
    + Nq

    read_by_whole_blocks: the last, shorter block of queries is left out
    - math.ceil(Nq / block_size)
    + (Nq // block_size)

    read_whole_blocks: whole blocks are read, beyond the last key
    - * Nk
    + * math.ceil(Nk / block_size) * block_size

    read_in_tiles: tiles are counted, not rows of K
    - * Nk
    + * math.ceil(Nk / block_size)
    """,
)


# 2. Find and fix: the printed algorithm ------------------------------------

printed = Task(
    "flash2_rows",
    "Find and fix: Algorithm 1 as printed",
    "division",
    parts=("o", "lse"),
    ask=in_blocks,
    points=3,
)


def exact(q, k, v, *rest):
    o, lse = attention_oracle(q, k, v)
    return o.to(q.dtype), lse.to(q.dtype)


def loop_inputs():
    q, k, v = gaussian_qkv(M=12)
    up = torch.linspace(-1, 1, 12)[:, None] * torch.ones(4)
    return {
        "one block of keys": (*gaussian_qkv(M=4), 4),
        "three blocks of keys": (q, k, v, 4),
        "scores that fall from block to block": (q.abs(), -4 * up, v, 4),
        "scores that rise from block to block": (q.abs(), 4 * up, v, 4),
        "a shorter last block": (*gaussian_qkv(M=11, seed=3), 4),
        "logits × 20": (20 * q, k, v, 4),
        "blocks of one key": (q, k, v, 1),
        "heads of size 5": (*gaussian_qkv(M=10, d=5, dv=5, seed=7), 4),
        "heads of size 32": (*gaussian_qkv(M=10, d=32, dv=16, seed=8), 4),
    }


printed.cases(lambda: cases_of(exact, loop_inputs()))


@printed.right("line 10 without its power")
def flash2_right(q, k, v, block_size):
    m = q.new_full((len(q), 1), -torch.inf)  # (N, 1)
    l, O = torch.zeros_like(m), q.new_zeros(len(q), v.shape[-1])
    for K_j, V_j in zip(k.split(block_size), v.split(block_size)):
        S = q @ K_j.mT / q.shape[-1] ** 0.5  # line 8
        m_old, m = m, torch.maximum(m, S.amax(-1, keepdim=True))
        P = torch.exp(S - m)  # (N, block), line 9
        l = torch.exp(m_old - m) * l + P.sum(-1, keepdim=True)
        O = torch.exp(m_old - m) * O + P @ V_j  # line 10
    O = l**-1 * O  # line 12
    return O, (m + l.log()).squeeze(-1)  # line 13


printed.slips(
    flash2_right,
    """
    flash2_as_printed, M1, shown: line 10 is followed as printed: its power of −1 makes the
        factor e^(m − m_old), 1 / 0 in the first block, and 1 / 0 times 0 is NaN
    - torch.exp(m_old - m) * O
    + torch.exp(m_old - m) ** -1 * O

    flash2_inverse_repaired, M1: the power of −1 of line 10 is kept, and only its 1 / 0 was
        repaired: the old o grows where it should shrink
    - torch.exp(m_old - m) * O
    + torch.exp((m - m_old).where(m_old > -torch.inf, -torch.inf)) * O

    flash2_o_unscaled, M16: o is not rescaled at all where a later block holds the maximum
    - torch.exp(m_old - m) * O
    + O

    flash2_l_unscaled, M16: l is not rescaled where a later block holds the maximum
    - torch.exp(m_old - m) * l
    + l

    flash2_dividing, M17: o is divided by l in every block, on top of line 12
    - torch.exp(m_old - m) * O + P @ V_j
    + (torch.exp(m_old - m) * O + P @ V_j) / l

    flash2_undivided: line 12 is left out: o is never divided by l
    - O = l**-1 * O

    flash2_lse_without_m, maximum: the lse is log l without m
    - (m + l.log())
    + l.log()
    """,
)


@printed.right("M3: a lagging m")
def flash2_lagging(q, k, v, block_size):
    state = SoftmaxState.identity(q, v)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        state = state.lazy_merge(SoftmaxState.of(q @ k_j.mT / q.shape[-1] ** 0.5, v_j), 8)
    return state.finalise()


@printed.right("by the library's core")
def flash2_by_core(q, k, v, block_size):
    return flash_attention(q, k, v, block_size, return_lse=True)


# 3. Find and fix: 16 bits ---------------------------------------------------

half = Task(
    "flash_16bit",
    "Find and fix: sixteen bits too early",
    "buffer",
    tolerance={torch.bfloat16: 0.01, torch.float16: 0.01},
    points=3,
)


@half.cases
def _():
    b, h = torch.bfloat16, torch.float16
    long = gaussian_qkv(N=4, M=2048, d=16, dv=8, dtype=b, seed=3)
    tall = tuple(x.to(h) for x in gaussian_qkv(N=4, M=512, d=16, dv=8, seed=6))
    even = torch.zeros(2, 4, dtype=b), torch.zeros(1024, 4, dtype=b)
    return cases_of(
        lambda *args: exact(*args)[0],
        {
            "8 keys in bfloat16": (*gaussian_qkv(M=8, dtype=b), 4),
            "1024 equal scores in bfloat16": (*even, 1 + gaussian(1024, 3, dtype=b), 2),
            "2048 keys in bfloat16": (*long, 64),
            "scores up to 60 in bfloat16": (12 * long[0], *long[1:], 64),
            "values near 500 in float16": (*tall[:2], 500 + tall[2], 64),
            "q and k that are 100 and −100 in float16": (
                100 + 0 * tall[0],
                -100 + 0 * tall[1],
                tall[2],
                64,
            ),
            "8 keys in float32": (*gaussian_qkv(M=8), 4),
            "8 keys in float64, which stay float64": (*gaussian_qkv(M=8, dtype=torch.float64), 4),
        },
    )


@half.mistake(
    "M14",
    "m, l and o are carried in 16 bits: a long sum stops growing, and a large one overflows",
    shown=True,
)
def half_carries(q, k, v, block_size):
    state = SoftmaxState.identity(q, v)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        s = q / q.shape[-1] ** 0.5 @ k_j.mT  # (N, block)
        state = state.merge(SoftmaxState.of(s, v_j))
    return state.finalise()[0]


@half.right("all in float32, rounded once")
def half_right(q, k, v, block_size):
    dtype, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    m = q.new_full((len(q), 1), -torch.inf)
    l, o = torch.zeros_like(m), q.new_zeros(len(q), v.shape[-1])
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        s = q @ k_j.mT / q.shape[-1] ** 0.5
        m_old, m = m, torch.maximum(m, s.amax(-1, keepdim=True))
        p, a = torch.exp(s - m), torch.exp(m_old - m)
        l = a * l + p.sum(-1, keepdim=True)
        o = a * o + p @ v_j
    return (o / l).to(dtype)


half.slips(
    half_right,
    """
    half_l, M14: l is carried in 16 bits: adding a small number to a large one changes nothing
    - l = a * l + p.sum(-1, keepdim=True)
    + l = (a * l + p.sum(-1, keepdim=True)).to(dtype).to(wide)

    half_o, M14: o is carried in 16 bits, and rounded in every block
    - o = a * o + p @ v_j
    + o = (a * o + p @ v_j).to(dtype).to(wide)

    half_scores, M14: scores are rounded to 16 bits before exp: a rounding of 0.1 in a score is
        a tenth of its weight
    - s = q @ k_j.mT / q.shape[-1] ** 0.5
    + s = (q @ k_j.mT / q.shape[-1] ** 0.5).to(dtype).to(wide)

    half_not_rounded, core: the output stays in float32; whoever sent 16 bits wants 16 bits back
    - (o / l).to(dtype)
    + o / l
    """,
)


@half.right("by the library's core")
def half_by_core(q, k, v, block_size):
    return flash_attention(q, k, v, block_size)


@half.right("weights in 16 bits for the second product")
def half_weights(q, k, v, block_size):
    wide = torch.promote_types(q.dtype, torch.float32)
    state = SoftmaxState.identity(q.to(wide), v)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        s = q.to(wide) @ k_j.to(wide).mT / q.shape[-1] ** 0.5
        m = torch.maximum(state.m, s.amax(-1, keepdim=True))
        old, p = state.rebase(m), torch.exp(s - finite(m))
        o = old.o + p.to(v.dtype).to(wide) @ v_j.to(wide)
        state = SoftmaxState(m, old.l + p.sum(-1, keepdim=True), o)
    return state.finalise()[0].to(q.dtype)


# 4. Find and fix: memory for training ---------------------------------------


def ask_training(f, q, k, v, do, block_size):
    """The output, the gradients, and by how much the peak grows when N doubles."""
    fn = forward_backward(lambda *qkv: f(*qkv, block_size))
    o, *grads = _gradients(f, q, k, v, do, block_size)
    if len(q) < 96:
        return o, *grads, Measured(0)
    with_graph = [x.detach().requires_grad_() for x in (q, k, v)]
    kept = counted(lambda: f(*with_graph, block_size))[1].kept
    longer = [torch.cat((x, x)) for x in (q, k, v, do)]
    peaks = [counted(lambda: fn(*inputs))[1].peak for inputs in ((q, k, v, do), longer)]  # noqa: B023
    return o, *grads, Measured(peaks[1] / peaks[0], peaks[0], kept)


def _gradients(f, q, k, v, do, block_size):
    qkv = [x.detach().requires_grad_() for x in (q, k, v)]
    o = f(*qkv, block_size)
    if not isinstance(o, torch.Tensor) or o.shape != do.shape:
        raise BadAnswer(f"The output must be a tensor of shape {tuple(do.shape)}.")
    if not o.requires_grad:
        raise BadAnswer("The output has no gradient at all: it does not remember how it was made.")
    grads = torch.autograd.grad(o, qkv, do, allow_unused=True)
    if missing := [name for name, x in zip("qkv", grads) if x is None]:
        raise BadAnswer(f"No gradient reaches {' and '.join(missing)}.")
    return o.detach(), *grads


train = Task(
    "trainable_attention",
    "Find and fix: the peak that did not fall",
    "training",
    parts=("o", "dq", "dk", "dv", "growth of the peak when N doubles"),
    ask=ask_training,
    books=True,
    points=3,
)


@train.cases
def _():
    def oracle(q, k, v, do, block_size):
        qkv = [x.double().requires_grad_() for x in (q, k, v)]
        o = standard_attention(*qkv)
        grads = torch.autograd.grad(o, qkv, do.double())
        return *(x.detach().float() for x in (o, *grads)), AtMost(2.2)

    def inputs(N, d, factor=1.0, seed=0):
        q, k, v, do = (gaussian(N, d, seed=seed + n) for n in range(4))
        return factor * q, k, v, do

    return cases_of(
        oracle,
        {
            "8 words, blocks of 4": (*inputs(8, 4), 4),
            "9 words, blocks of 4": (*inputs(9, 4, seed=4), 4),
            "logits × 5": (*inputs(12, 4, 5.0, seed=8), 4),
            "96 words, then 192, in blocks of 32": (*inputs(96, 16), 32),
        },
    )


@train.mistake(
    "M12",
    "autograd keeps something of every tile until the backward, its weights or "
    "its state: together that is N × N numbers again",
    shown=True,
)
def training_keeps_tiles(q, k, v, block_size):
    outs = []
    for q_i in q.split(block_size):
        state = SoftmaxState.identity(q_i, v)
        for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
            s = q_i @ k_j.mT / q.shape[-1] ** 0.5  # (block, block)
            state = state.merge(SoftmaxState.of(s, v_j))
        outs.append(state.finalise()[0])
    return torch.cat(outs)


def block_of_queries(q_i, k, v, block_size):
    state = SoftmaxState.identity(q_i, v)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        state = state.merge(SoftmaxState.of(q_i @ k_j.mT / q_i.shape[-1] ** 0.5, v_j))
    return state.finalise()[0]


@train.mistake(
    "M12",
    "each tile is recomputed, and the state before it is kept: N / block "
    "states of N rows are N × N numbers again",
)
def training_keeps_states(q, k, v, block_size):
    def step(m, l, o, k_j, v_j):
        s = q @ k_j.mT / q.shape[-1] ** 0.5
        return tuple(SoftmaxState(m, l, o).merge(SoftmaxState.of(s, v_j)))

    state = tuple(SoftmaxState.identity(q, v))
    for kv in zip(k.split(block_size), v.split(block_size)):
        state = checkpoint(step, *state, *kv, use_reentrant=False)
    return SoftmaxState(*state).finalise()[0]


train.slips(
    training_keeps_tiles,
    """
    training_detached, M12: the weights are detached: nothing is kept, and q and k lose their
        gradients
    - s = q_i @ k_j.mT / q.shape[-1] ** 0.5
    + s = (q_i @ k_j.mT / q.shape[-1] ** 0.5).detach()
    - torch.cat(outs)
    + torch.cat(outs) + 0 * (q.sum() + k.sum())
    """,
)


@train.mistake(
    "M12",
    "one checkpoint is around everything: the backward computes all tiles again "
    "at once, and holds them all",
)
def training_in_one_checkpoint(q, k, v, block_size):
    return checkpoint(training_keeps_tiles, q, k, v, block_size, use_reentrant=False)


@train.mistake("", "the whole matrix is made", "four")
def training_standard(q, k, v, block_size):
    return standard_attention(q, k, v)


@train.mistake("M12", "no gradient is recorded at all")
def training_without_gradients(q, k, v, block_size):
    with torch.no_grad():
        return training_keeps_tiles(q, k, v, block_size)


@train.right("a block of queries computed again in the backward")
def training_checkpointed(q, k, v, block_size):
    return torch.cat(
        [
            checkpoint(block_of_queries, q_i, k, v, block_size, use_reentrant=False)
            for q_i in q.split(block_size)
        ]
    )


@train.right("by the library's core")
def training_by_core(q, k, v, block_size):
    return flash_attention(q, k, v, block_size)


# 5. Find and fix: the gradient of lse ---------------------------------------

back = Task(
    "attention_backward",
    "Find and fix: half a gradient",
    "training",
    parts=("dq", "dk", "dv"),
    points=3,
)


@back.cases
def _():
    cases = {}
    for name, N, M, d, factor, through in (
        ("nothing comes back through lse", 3, 4, 4, 1.0, (1.0, 0.0)),
        ("only lse is used", 3, 4, 4, 1.0, (0.0, 1.0)),
        ("both are used", 5, 7, 4, 1.0, (1.0, 1.0)),
        ("logits × 10", 5, 7, 16, 10.0, (1.0, 1.0)),
        ("heads of size 5, more queries than keys", 6, 3, 5, 1.0, (1.0, 1.0)),
    ):
        q, k, v = gaussian_qkv(N=N, M=M, d=d, seed=N, dtype=torch.float64)
        do = through[0] * gaussian(N, 3, seed=8, dtype=torch.float64)
        dlse = through[1] * gaussian(N, seed=9, dtype=torch.float64)
        qkv = [x.requires_grad_() for x in (factor * q, k, v)]
        o, lse = attention_oracle(*qkv)
        grads = torch.autograd.grad((o, lse), qkv, (do, dlse))
        cases[name] = ([x.detach() for x in (*qkv, o, lse, do, dlse)], grads)
    return {name: Case(tuple(args), grads) for name, (args, grads) in cases.items()}


@back.right("the lse's part with the values' part")
def backward_right(q, k, v, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    p = torch.exp(scale * q @ k.mT - lse[:, None])  # (N, M)
    dp = do @ v.mT  # (N, M)
    delta = (do * o).sum(-1, keepdim=True)  # (N, 1)
    ds = p * (dp - delta + dlse[:, None])  # (N, M)
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


back.slips(
    backward_right,
    """
    backward_without_lse, M13, shown: what comes back through lse is dropped
    - dp - delta + dlse[:, None]
    + dp - delta

    backward_wrong_sign, M13: the gradient of lse comes in with the wrong sign
    - + dlse[:, None]
    + - dlse[:, None]

    backward_unweighted, M13: the gradient of lse goes to every score alike; it goes by weight
    - (dp - delta + dlse[:, None])
    + (dp - delta) + dlse[:, None]

    backward_without_delta: delta, which keeps a row's ds summing to 0, is left out
    - dp - delta
    + dp

    backward_dk_unscaled, M10, sqrt: dk lacks the scale 1 / √d
    - scale * ds.mT @ q
    + ds.mT @ q

    backward_unscaled, M10, sqrt: dq and dk lack the scale 1 / √d
    - scale * ds @ k, scale * ds.mT @ q
    + ds @ k, ds.mT @ q
    """,
)


@back.right("by autograd")
def backward_by_autograd(q, k, v, o, lse, do, dlse):
    qkv = [x.clone().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attention_oracle(*qkv), qkv, (do, dlse))
