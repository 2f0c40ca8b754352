"""Exercises of lesson 08: bytes, published figures, bfloat16, and your own card."""

import math
from functools import cache

import torch

from attnlib import (
    FlashAttentionCore,
    SoftmaxState,
    StdAttentionCord,
    attention_oracle,
    standard_attention,
)
from attnlib.course.exercises.answer import AtMost, Measured
from attnlib.course.exercises.books import counted, largest
from attnlib.course.exercises.task import BadAnswer, Case, Task, cases_of, gaussian, test_task
from attnlib.course.inputs import make_qkv
from attnlib.memory import CUBLAS_WORKSPACE, bytes_needed, forward, predicted_peak
from attnlib.traffic import Tape

# 1. Predict ----------------------------------------------------------------

peak = Task("flash_peak", "Predict the flash core's bytes", "memory", tolerance=0.06, points=1)


@peak.cases
def _():
    def counted(heads, N, d, block_size):
        qkv = make_qkv(1, heads, N, d, device="meta")
        return predicted_peak(forward(FlashAttentionCore(d, block_size)), *qkv)

    return cases_of(
        counted,
        {
            "8 heads of 64, N = 2048, block 512": (8, 2048, 64, 512),
            "the same with block 1024": (8, 2048, 64, 1024),
            "N = 4096, block 1024": (8, 4096, 64, 1024),
            "1 head of 128, N = 8192, block 2048": (1, 8192, 128, 2048),
            "a block of all of N = 1024": (4, 1024, 64, 1024),
        },
    )


@peak.right("the output and one block")
def peak_of_output_and_block(heads, N, d, block_size):
    return 4 * heads * (N * d + block_size**2)


peak.slips(
    peak_of_output_and_block,
    """
    peak_without_output, memory: the output is forgotten; it is made by the call, and stays
    - (N * d + block_size**2)
    + block_size**2

    peak_without_block: the block of scores is forgotten
    - (N * d + block_size**2)
    + N * d

    peak_with_inputs: q, k and v are counted too; they were there before the call
    - N * d
    + 4 * N * d

    peak_of_three_blocks, buffer: three blocks of scores are counted, as in the readable loop;
        this core works in place, in one
    - block_size**2
    + 3 * block_size**2

    peak_of_two_blocks, buffer: two blocks of scores are counted, scores and weights; in place,
        one is both
    - block_size**2
    + 2 * block_size**2

    peak_of_one_head, memory: the block of scores is counted once for all heads; each has its own
    - heads * (N * d + block_size**2)
    + (heads * N * d + block_size**2)

    peak_of_a_row, core: a row of blocks is counted, block_size × N, where one tile is enough
    - block_size**2
    + block_size * N

    peak_of_standard, law: the N × N matrices of standard attention are counted
    - (N * d + block_size**2)
    + 2 * N**2

    peak_in_numbers, law: numbers are counted and not bytes
    - 4 * heads
    + heads
    """,
)


@peak.right("with m and l of a block of rows")
def peak_with_vectors(heads, N, d, block_size):
    return 4 * heads * (N * d + block_size**2 + 4 * block_size)


# 2. Read a published table --------------------------------------------------

audit = Task("paper_mib", "Audit a published table", "cost", tolerance=1e-3, points=2)
PRINTED = {128: 36, 256: 104, 512: 336, 1024: 1184, 2048: 4416, 4096: 17024}


def paper_law(N, batch, heads, d):
    """4 score matrices and 10 tensors of N × d over all texts and heads, in MiB."""
    return batch * heads * N * (4 * N + 10 * d) * 2 / 2**20


@audit.cases
def _():
    cases = {f"printed, N = {N}": Case((N, 16, 8, 64), float(m)) for N, m in PRINTED.items()}
    others = {"one text, 32 heads of 128": (8192, 1, 32, 128), "a million": (2**20, 1, 1, 64)}
    return cases | cases_of(paper_law, others)


audit.slips(
    paper_law,
    """
    audit_of_one_head: one head of one text is counted; the shape has batch × heads of them
    - return batch * heads * N
    + return N

    audit_of_one_text: the batch is left out: every text has its own matrices
    - return batch * heads
    + return heads

    audit_in_float32: 4 bytes a number are counted; the paper ran in fp16, which takes 2
    - * 2 / 2**20
    + * 4 / 2**20

    audit_swapped: 4 and 10 are swapped: the matrices are what grows with N²
    - 4 * N + 10 * d
    + 10 * N + 4 * d

    audit_matrices_only: only the matrices are counted; from 2048 to 4096 the table grows less
        than fourfold
    - 4 * N + 10 * d
    + 4 * N

    audit_in_mb: 10⁶ bytes are taken for the paper's MB; its cells come out whole with 2²⁰
    - 2**20
    + 1e6

    audit_forward, law: the matrices of a call without gradients are counted, 2; training has 4
    - 4 * N
    + 2 * N
    """,
)
audit.right("4 S and 10 X")(paper_law)


# 3. Write the test ---------------------------------------------------------


def std16(q, k, v):
    return StdAttentionCord(q.shape[-1])(q, k, v)


def flash16(block_size):
    return lambda q, k, v: FlashAttentionCore(q.shape[-1], block_size)(q, k, v)


def rounded_once(q, k, v):
    return attention_oracle(q, k, v)[0].to(q.dtype)


def off_by_ten_percent(q, k, v):
    return rounded_once((1.1 * q.float()).double(), k.double(), v.double()).to(q.dtype)


def carries_in_16(q, k, v):
    s = q / q.shape[-1] ** 0.5 @ k.mT
    p = torch.exp(s - s.amax(-1, keepdim=True))
    l = sum_in_16(p)
    return (p @ v) / l


def sum_in_16(p):
    l = p[..., :1] * 0
    for p_j in p.split(1, -1):
        l = l + p_j
    return l


def one_key_short(q, k, v):
    return rounded_once(q, k[..., :-1, :], v[..., :-1, :])


def in_float32(q, k, v):
    return attention_oracle(q, k, v)[0].float()


bf16 = test_task(
    "test_bfloat16",
    "Write the test that catches the bug",
    "same",
    right={
        "StdAttentionCord": std16,
        "FlashAttentionCore with blocks of 64": flash16(64),
        "FlashAttentionCore with blocks of 100": flash16(100),
        "one that works in float64 and rounds once": rounded_once,
    },
    wrong={
        "one whose scores are 10 % too large": off_by_ten_percent,
        "one that sums its weights in bfloat16": carries_in_16,
        "one that leaves out the last key": one_key_short,
        "one that answers in float32": in_float32,
    },
)


@cache
def sample(N=512, factor=1.0):
    q, k, v = (gaussian(N if n else 16, 32, seed=n, dtype=torch.bfloat16) for n in range(3))
    return factor * q, k, v + 1


@bf16.mistake(
    "M9",
    "a test compares with standard attention bit by bit: both round, each in its "
    "own way, and float64 is the judge",
)
def bits_of_standard(f):
    assert torch.equal(f(*sample()), std16(*sample()))


@bf16.right("half a unit for the rounding, and some room")
def with_room(f):
    for q, k, v in (sample(512, 2.0), sample(9, 2.0)):
        o, exact = f(q, k, v), attention_oracle(q, k, v)[0]
        assert o.dtype == q.dtype and (o.double() - exact).norm() < 0.008 * exact.norm()


bf16.slips(
    with_room,
    """
    as_strict_as_float32, M9: a test allows what float32 would deserve: bfloat16 rounds at the
        third digit
    - 0.008
    + 1e-5

    too_lenient, M15, true: a test allows an absolute error that is as large as the answers
    - (o.double() - exact).norm() < 0.008 * exact.norm()
    + (o.double() - exact).abs().max() < 1.0

    forgets_dtype: a test forgets to ask for the dtype
    - o.dtype == q.dtype and (
    + (

    few_keys, M14, buffer: a test has few keys, and a short sum loses nothing
    - (sample(512, 2.0), sample(9, 2.0))
    + [sample(9, 2.0)]
    """,
)

# 4. Your own card -----------------------------------------------------------

CONTEXT = 512 * 2**20  # what CUDA takes before the first tensor, about
card = Task("largest_N", "Estimate for your own card", "fits", tolerance=0.01, points=3)


@card.cases
def _():
    def largest(gib, heads, d):
        core, N, step = forward(StdAttentionCord(d)), 0, 2**20
        while step >= 8:  # bisection, in steps that leave the answer right to 1 %
            qkv = make_qkv(1, heads, N + step, d, device="meta")
            if bytes_needed(core, *qkv, context=CONTEXT) <= gib * 2**30:
                N += step
            step //= 2
        return N

    return cases_of(
        largest,
        {
            "8 GiB, 8 heads of 64": (8, 8, 64),
            "24 GiB, 8 heads of 64": (24, 8, 64),
            "24 GiB, 32 heads of 128": (24, 32, 128),
            "80 GiB, 8 heads of 64": (80, 8, 64),
            "8 GiB, 1 head of 64": (8, 1, 64),
        },
    )


@card.right("by the quadratic equation")
def card_solved(gib, heads, d):
    room = gib * 2**30 - CONTEXT - CUBLAS_WORKSPACE
    numbers = room / (4 * heads)  # 2 N² + 3 d N
    return int((math.sqrt(9 * d * d + 8 * numbers) - 3 * d) / 4)


card.slips(
    card_solved,
    """
    card_in_gb: a GiB is taken for 10⁹ bytes; it has 2³⁰
    - 2**30
    + 1e9

    card_empty: the card is taken to be empty: CUDA's context and cuBLAS's workspace come first
    - - CONTEXT - CUBLAS_WORKSPACE

    card_one_matrix, alive: half the bytes are counted: scores and weights are both alive, with
        4 bytes a number
    - (math.sqrt(9 * d * d + 8 * numbers) - 3 * d) / 4
    + (math.sqrt(9 * d * d + 4 * numbers) - 3 * d) / 2

    card_one_head, law: the heads are forgotten: each has its own matrices
    - (4 * heads)
    + 4

    card_without_root, law: the root is not taken: the bytes grow with N², and so does this N
    - (math.sqrt(9 * d * d + 8 * numbers) - 3 * d) / 4
    + numbers / 2
    """,
)


@card.right("without q, k and v, which hardly count")
def card_roughly(gib, heads, d):
    return math.isqrt((gib * 2**30 - CONTEXT - CUBLAS_WORKSPACE) // (8 * heads))


@card.right("tried out on meta tensors")
def card_tried(gib, heads, d):
    return card.all_cases()[f"{gib} GiB, {heads} head{'s' * (heads > 1)} of {d}"].expected


# 5. Capstone ----------------------------------------------------------------

ROOM = 40  # blocks of scores at the peak: well below the 64 of one matrix


def ask_core(f, q, k, v, block_size, causal):
    """The answer, the blocks of scores at the peak, and the numbers loaded from the tape."""
    tape = Tape(zip(k.split(block_size), v.split(block_size)))
    o, timeline = counted(lambda: f(q, tape, block_size, causal))
    if tape.moved < k.numel() + v.numel():
        raise BadAnswer("It does not take every block of k and v from the tape.")
    peak = timeline.peak / (4 * block_size**2) if len(q) >= 128 else 0
    return o, Measured(peak, largest(timeline)), tape.moved


core = Task(
    "own_core",
    "Capstone: a core of your own",
    "memory",
    ask=ask_core,
    books=True,
    parts=("o", "blocks of scores at the peak", "numbers loaded"),
    points=6,
)


@core.cases
def _():
    def oracle(q, k, v, block_size, causal):
        _, peak, loaded = ask_core(classic_core, q, k, v, block_size, causal)
        o = attention_oracle(q, k, v, causal=causal)[0].to(q.dtype)
        return o, AtMost(ROOM, round(peak, 1)), AtMost(loaded, loaded)

    def inputs(N, M, d, factor=1.0):
        return factor * gaussian(N, d, seed=N), gaussian(M, d, seed=M + 1), gaussian(M, 8, seed=2)

    return cases_of(
        oracle,
        {
            "4 words, blocks of 2": (*inputs(4, 4, 4), 2, False),
            "the same, causal": (*inputs(4, 4, 4), 2, True),
            "5 queries, 11 keys, causal": (*inputs(5, 11, 5), 4, True),
            "9 queries, 5 keys, causal": (*inputs(9, 5, 5), 4, True),
            "logits × 30": (*inputs(7, 9, 4, 30.0), 4, False),
            "256 words, blocks of 32": (*inputs(256, 256, 16), 32, False),
            "256 words, blocks of 32, causal": (*inputs(256, 256, 16), 32, True),
        },
    )


@core.right("queries outside")
def classic_core(q, tape, block_size, causal):
    outs, shift = [], sum(len(k_j) for k_j, _ in tape.blocks) - len(q)
    for i, q_i in enumerate(q.split(block_size)):
        p_i = shift + i * block_size + torch.arange(len(q_i))[:, None]  # positions
        state = SoftmaxState.identity(q_i, tape.blocks[0][1])
        for j in range(len(tape.blocks)):
            if causal and j * block_size > p_i[-1]:
                break
            k_j, v_j = tape.take(j)
            s = q_i @ k_j.mT / q.shape[-1] ** 0.5
            if causal:
                s = s.masked_fill(j * block_size + torch.arange(len(k_j)) > p_i, -math.inf)
            state = state.merge(SoftmaxState.of(s, v_j))
        outs.append(state.finalise()[0])
    return torch.cat(outs)


core.slips(
    classic_core,
    """
    core_loads_hidden_tiles, tiles: blocks are loaded that causal hides from every query of the row
    - break
    + tape.take(j)

    core_top_left, M8, fewer: the diagonal starts in the top-left corner; it ends in the
        bottom-right one
    - shift + i * block_size
    + i * block_size

    core_unscaled, sqrt: the scale 1 / √d is left out
    - / q.shape[-1] ** 0.5

    core_without_rescaling, M16, division: neither l nor o is rescaled when m grows
    - state = state.merge(SoftmaxState.of(s, v_j))
    + new = SoftmaxState.of(s, v_j)
    + state = SoftmaxState(torch.maximum(state.m, new.m), state.l + new.l, state.o + new.o)

    core_sees_the_future: causal is not heeded within a tile
    - if causal:
    + if False:
    """,
)


@core.mistake("", "the whole matrix is made", "memory")
def core_of_one_matrix(q, tape, block_size, causal):
    k, v = (torch.cat(x) for x in zip(*(tape.take(j) for j in range(len(tape.blocks)))))
    return standard_attention(q, k, v, causal=causal)


@core.right("keys outside: each block is loaded once, and all queries wait with their state")
def core_keys_outside(q, tape, block_size, causal):
    state = SoftmaxState.identity(q, tape.blocks[0][1])
    p = sum(len(k_j) for k_j, _ in tape.blocks) - len(q) + torch.arange(len(q))[:, None]
    for j in range(len(tape.blocks)):
        k_j, v_j = tape.take(j)
        s = q @ k_j.mT / q.shape[-1] ** 0.5
        if causal:
            s = s.masked_fill(j * block_size + torch.arange(len(k_j)) > p, -math.inf)
        state = state.merge(SoftmaxState.of(s, v_j))
    return state.finalise()[0]
