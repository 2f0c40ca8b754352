"""Exercises of lesson 05: standard attention, its scale, its bytes, its gradients."""

import torch

from attnlib import StdAttentionCord, flash_attention, standard_attention
from attnlib.course.exercises.answer import AtMost, Measured
from attnlib.course.exercises.books import counted, largest
from attnlib.course.exercises.task import INF, Task, cases_of, gaussian, must_be_close, test_task
from attnlib.course.inputs import alice_qkv, make_qkv
from attnlib.memory import forward, predicted_peak


def gaussian_qkv(*lead, N=5, M=7, d=4, dv=3, seed=0):
    shapes = (N, d), (M, d), (M, dv)
    return tuple(gaussian(*lead, *shape, seed=seed + n) for n, shape in enumerate(shapes))


def exact_attention(q, k, v, bias=0.0):
    s = q.double() @ k.double().mT / q.shape[-1] ** 0.5 + bias
    return (torch.softmax(s, -1) @ v.double()).to(q.dtype)


# 1. Predict ----------------------------------------------------------------

peak = Task("standard_peak", "Predict the bytes, then count", "law", points=1)


@peak.cases
def _():
    def counted(batch, heads, N, d, size):
        dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[size]
        qkv = make_qkv(batch, heads, N, d, dtype=dtype, device="meta")
        return predicted_peak(forward(StdAttentionCord(d)), *qkv)

    return cases_of(
        counted,
        {
            "1 text, 1 head, N = 1024, float32": (1, 1, 1024, 64, 4),
            "the same with N = 2048": (1, 1, 2048, 64, 4),
            "the same with 8 heads": (1, 8, 2048, 64, 4),
            "16 texts, 12 heads, N = 4096, bfloat16": (16, 12, 4096, 128, 2),
            "2 texts, 3 heads, N = 512, float64": (2, 3, 512, 32, 8),
        },
    )


@peak.right("by the law")
def peak_by_law(batch, heads, N, d, size):
    return 2 * batch * heads * N**2 * size


peak.slips(
    peak_by_law,
    """
    peak_of_1_matrix, alive: one matrix is counted: softmax reads its scores while it writes
        its weights
    - 2 * batch
    + batch

    peak_of_3_matrices, alive: three matrices are counted, as if the product were scaled and kept
    - 2 * batch
    + 3 * batch

    peak_of_4_matrices, training: the backward's matrices are counted; this is a call without
        gradients
    - 2 * batch
    + 4 * batch

    peak_in_numbers: numbers are counted and not bytes
    - N**2 * size
    + N**2

    peak_in_mib: MiB are counted and not bytes
    - N**2 * size
    + N**2 * size / 2**20

    peak_with_inputs, alive: q, k and v are counted too; they were there before the call
    - 2 * batch * heads * N**2
    + batch * heads * (2 * N**2 + 3 * N * d)

    peak_of_one_head, four: the heads are forgotten: each has its own matrices
    - heads * N**2
    + N**2

    peak_linear, four: only what grows with N is counted, and the N × N matrices are not
    - 2 * batch * heads * N**2
    + 4 * batch * heads * N * d

    peak_with_output, alive: the output is counted on top; it comes when the scores are gone
        already
    - 2 * batch * heads * N**2
    + batch * heads * (2 * N**2 + N * d)
    """,
)


# 2. Find and fix -----------------------------------------------------------

biased = Task("attention_with_bias", "Find and fix: the scale that took too much", "sqrt")


@biased.cases
def _():
    step = torch.arange(6.0)
    distance = -(step[:, None] - step).abs()
    causal = torch.zeros(6, 6).masked_fill(step > step[:, None], -INF)
    q, k, v = gaussian_qkv(N=6, M=6, d=4, dv=3)
    heads = gaussian_qkv(2, 3, N=6, M=6, d=16, dv=16, seed=5)
    alice = [x[1, 360:380] for x in alice_qkv(0)]
    return cases_of(
        exact_attention,
        {
            "no bias": (q, k, v, torch.zeros(6, 6)),
            "minus the distance": (q, k, v, distance),
            "minus the distance, two texts of three heads": (*heads, distance),
            "a causal mask of -inf": (q, k, v, causal),
            "more keys than queries": (q[:2], k, v, distance[:2]),
            "logits × 20": (20 * q, k, v, distance),
            "heads of size 1": (q[:, :1], k[:, :1], v, distance),
            "heads of size 5": (*gaussian_qkv(N=6, M=6, d=5, seed=9), distance),
            "real q and k of Alice": (*alice, torch.zeros(20, 20)),
        },
    )


@biased.right("the product scaled")
def bias_on_scaled_scores(q, k, v, bias):
    s = q @ k.mT / q.shape[-1] ** 0.5 + bias  # (..., N, M)
    p = torch.softmax(s, -1)
    return p @ v


biased.slips(
    bias_on_scaled_scores,
    """
    bias_scaled, M10, shown: the scale is applied to the bias too: a penalty of 1 becomes 1 / √d
    - k.mT / q.shape[-1] ** 0.5 + bias
    + k.mT + bias
    - softmax(s, -1)
    + softmax(s / q.shape[-1] ** 0.5, -1)

    divided_by_d, M10: scores are divided by d: by √d twice
    - / q.shape[-1] ** 0.5
    + / q.shape[-1]

    multiplied_by_sqrt_d, M10: the scale is inverted: scores are multiplied by √d
    - / q.shape[-1] ** 0.5
    + * q.shape[-1] ** 0.5

    unscaled: scores are not scaled at all
    - / q.shape[-1] ** 0.5

    scaled_by_v: √d is taken from v, whose width is another matter
    - q.shape[-1]
    + v.shape[-1]

    softmax_over_queries, four: weights sum to 1 over the queries; every query's keys must
        share its 1
    - softmax(s, -1)
    + softmax(s, -2)

    bias_after_softmax, four: the bias is added to the weights, after the softmax
    - ** 0.5 + bias
    + ** 0.5
    - softmax(s, -1)
    + softmax(s, -1) + bias

    bias_left_out, four: the bias is left out
    - ** 0.5 + bias
    + ** 0.5
    """,
)


@biased.right("q and k scaled by half each, in float64")
def both_scaled(q, k, v, bias):
    q, k = (x.double() / x.shape[-1] ** 0.25 for x in (q, k))
    return (torch.softmax(q @ k.mT + bias, -1) @ v.double()).float()


@biased.right("row by row")
def row_by_row(q, k, v, bias):
    rows = [
        bias_on_scaled_scores(q[..., i : i + 1, :], k, v, bias[i : i + 1])
        for i in range(q.shape[-2])
    ]
    return torch.cat(rows, -2)


# 3. Write ------------------------------------------------------------------

ROOM = 4  # blocks of scores that a call may hold beside its output


def ask_rows(f, q, k, v, rows):
    """The answer, and how many (rows, M) blocks of scores the call held at its peak."""
    if q.shape[-2] < 128:  # small calls are all overhead
        return f(q, k, v, rows), Measured(0)
    o, timeline = counted(lambda: f(q, k, v, rows))
    block = 4 * q[..., 0, 0].numel() * rows * k.shape[-2]
    blocks = (timeline.peak - timeline.kept) / block
    return o, Measured(blocks, largest(timeline) / block)


by_rows = Task(
    "attention_by_rows",
    "Attention, some rows at a time",
    "alive",
    ask=ask_rows,
    parts=("o", "blocks of scores at the peak"),
    books=True,
    points=3,
)


@by_rows.cases
def _():
    def oracle(q, k, v, rows):
        return exact_attention(q, k, v), AtMost(ROOM)

    return cases_of(
        oracle,
        {
            "4 rows, 2 at a time": (*gaussian_qkv(N=4), 2),
            "5 rows, 2 at a time": (*gaussian_qkv(N=5), 2),
            "3 rows, 8 at a time": (*gaussian_qkv(N=3), 8),
            "two texts of three heads": (*gaussian_qkv(2, 3, N=7, seed=4), 3),
            "one key": (*gaussian_qkv(N=7, M=1), 3),
            "logits × 20": (
                *gaussian_qkv(N=5)[:1],
                20 * gaussian(7, 4, seed=1),
                gaussian(7, 3, seed=2),
                2,
            ),
            "128 rows, 8 at a time": (*gaussian_qkv(2, N=128, M=128, d=8, dv=8), 8),
            "256 rows, 32 at a time": (*gaussian_qkv(N=256, M=256, d=5, dv=8), 32),
        },
    )


@by_rows.mistake("", "the whole matrix is made first, and only then taken in blocks")
def rows_of_a_whole_matrix(q, k, v, rows):
    s = q @ k.mT / q.shape[-1] ** 0.5
    return torch.cat([torch.softmax(x, -1) @ v for x in s.split(rows, -2)], -2)


@by_rows.mistake("M12", "the weights of every block are kept until the end")
def rows_kept(q, k, v, rows):
    p = [torch.softmax(x @ k.mT / q.shape[-1] ** 0.5, -1) for x in q.split(rows, -2)]
    return torch.cat([p_i @ v for p_i in p], -2)


@by_rows.right("blocks pasted at the end")
def rows_pasted(q, k, v, rows):
    return torch.cat(
        [torch.softmax(x @ k.mT / q.shape[-1] ** 0.5, -1) @ v for x in q.split(rows, -2)], -2
    )


by_rows.slips(
    rows_pasted,
    """
    rows_over_queries, four: the weights of a block sum to 1 over its queries
    - ** 0.5, -1)
    + ** 0.5, -2)

    rows_of_the_first_dimension: q is cut along its first dimension, which is texts or heads, and
        not along its rows
    - q.split(rows, -2)
    + q.split(rows)

    rows_unscaled, sqrt: the scale is left out
    - / q.shape[-1] ** 0.5
    """,
)


@by_rows.mistake("", "the rows left over at the end are dropped")
def rows_dropped(q, k, v, rows):
    n = max(q.shape[-2] // rows * rows, min(rows, q.shape[-2]))
    return torch.cat([exact_attention(x, k, v) for x in q[..., :n, :].split(rows, -2)], -2)


@by_rows.mistake("", "keys are cut too, and every block's softmax is taken for the row's", "four")
def rows_of_square_blocks(q, k, v, rows):
    blocks = list(zip(k.split(rows, -2), v.split(rows, -2)))
    return torch.cat(
        [sum(exact_attention(x, *kv) for kv in blocks) / len(blocks) for x in q.split(rows, -2)], -2
    )


@by_rows.mistake("", "each block of queries sees the block of keys beside it, and no other", "four")
def rows_on_the_diagonal(q, k, v, rows):
    blocks = zip(*(x.split(rows, -2) for x in (q, k, v)))
    return torch.cat([exact_attention(*block) for block in blocks], -2)


@by_rows.right("written into the output")
def rows_written(q, k, v, rows):
    o = q.new_empty(*q.shape[:-1], v.shape[-1])
    for i in range(0, q.shape[-2], rows):
        p = torch.softmax(q[..., i : i + rows, :] / q.shape[-1] ** 0.5 @ k.mT, -1)
        o[..., i : i + rows, :] = p @ v
    return o


# 4. Write the test ---------------------------------------------------------


def regrad(x, factor):
    """x, with a gradient that is `factor` times too large."""
    return x.detach() + factor * (x - x.detach())


def with_gradients(q=1.0, k=1.0, v=1.0):
    """Right outputs, and the gradients of q, k and v times these factors."""
    return lambda *qkv: standard_attention(*(regrad(x, c) for x, c in zip(qkv, (q, k, v))))


def forgets_scale(q, k, v):
    return standard_attention(regrad(q, q.shape[-1] ** 0.5), k, v)


def saves_wrong_weights(q, k, v):
    p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    return p.detach() @ v + 0 * (q.sum() + k.sum())


def nan_gradient(q, k, v):
    return standard_attention(q, k + 0 * (k - k.detach()).sqrt(), v)


def by_flash(q, k, v):
    return flash_attention(q, k, v, max(3, q.shape[-2] // 3))


def by_sdpa(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


grads = test_task(
    "test_gradients",
    "Write the test that catches the bug",
    "training",
    right={
        "standard attention": standard_attention,
        "the flash core, which recomputes its blocks": by_flash,
        "torch's own": by_sdpa,
    },
    wrong={
        "one whose gradients of q and k are zero": saves_wrong_weights,
        "one whose gradient of k is zero": with_gradients(k=0.0),
        "one whose gradient of v is half as large": with_gradients(v=0.5),
        "one that forgets 1 / √d in the gradient of q": forgets_scale,
        "one that leaves a loss scale of 65536 in the gradient of v": with_gradients(v=65536.0),
        "one whose gradient of k is NaN": nan_gradient,
    },
)


def gradients(f, qkv, do):
    qkv = [x.detach().requires_grad_() for x in qkv]
    return torch.autograd.grad(f(*qkv), qkv, do)


@grads.right("relative to float64")
def relative_errors(f):
    q, k, v = gaussian_qkv(2, N=12, M=12, d=16, dv=16)
    do = gaussian(2, 12, 16, seed=9)
    pairs = list(zip(gradients(f, (q, k, v), do), gradients(exact_attention, (q, k, v), do)))
    for got, exact in pairs:
        must_be_close(got, exact)


grads.slips(
    relative_errors,
    """
    allows_too_much, M15: a test allows an absolute error that is larger than the gradients
        are: it passes a zero gradient
    - do = gaussian
    + do = 1e-3 * gaussian
    - must_be_close(got, exact)
    + assert torch.allclose(got, exact, atol=1e-2)

    looks_at_q: a test looks at the gradient of q alone
    - in pairs
    + in pairs[:1]

    looks_at_v: a test looks at the gradient of v alone
    - in pairs
    + in pairs[2:]

    asks_for_finite: a test asks whether gradients exist and are finite, not whether they are right
    - must_be_close(got, exact)
    + assert got.isfinite().all()

    asks_for_bits, M9: a test asks for the same bits: right code may round differently
    - exact_attention
    + standard_attention
    - must_be_close(got, exact)
    + assert torch.equal(got, exact)
    """,
)


@grads.mistake("", "a test compares outputs only; all of these have right outputs")
def compares_outputs(f):
    q, k, v = gaussian_qkv(2, N=12, M=12, d=16, dv=16)
    must_be_close(f(q, k, v), exact_attention(q, k, v))


@grads.right("by differences")
def by_differences(f):
    qkv = [x.double().requires_grad_() for x in gaussian_qkv(N=3, M=4, d=4, dv=2)]
    assert torch.autograd.gradcheck(f, qkv, raise_exception=False)
