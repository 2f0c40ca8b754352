"""Exercises of lesson 10: a step's bytes, a loss, two tests of a training, a context."""

import math
from functools import cache

import torch
from torch.nn import functional as F

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course import gpt
from attnlib.course.exercises.ex05 import regrad
from attnlib.course.exercises.task import Case, Task, cases_of, must_be_close, test_task

# 1. Predict ----------------------------------------------------------------

parts = Task("step_parts", "Predict what a step holds", "fills", points=2)


def own_values(q, k, v, causal):
    """What stands for attention where only the rest is counted."""
    return v


@parts.cases
def _():
    def counted(vocabulary, width, layers, N):
        with torch.random.fork_rng([]):
            model = gpt.TinyGPT(own_values, vocabulary, width, 2, layers)
        optimiser, numbers = gpt.adamw(model), list(model.parameters())
        gpt.step(model, optimiser, torch.zeros(1, 3, dtype=torch.long))
        moments = [optimiser.state[x][key] for x in numbers for key in ("exp_avg", "exp_avg_sq")]
        return {
            "parameters": sum(x.nbytes for x in numbers),
            "gradients": sum(x.grad.nbytes for x in numbers),
            "moments": sum(x.nbytes for x in moments),
            "mlps": layers * saved_bytes(model.blocks[0].mlp, torch.zeros(1, N, width)),
        }

    return cases_of(
        counted,
        {
            "70 characters, width 64, 2 layers, N = 64": (70, 64, 2, 64),
            "the same with N = 1024": (70, 64, 2, 1024),
            "width 256, 4 layers, N = 1000": (70, 256, 4, 1000),
            "256 characters, width 128, 1 layer, N = 100": (256, 128, 1, 100),
        },
    )


def saved_bytes(module, x) -> int:
    """Bytes that a module keeps for the backward, its parameters aside."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    saved = {}

    def keep(y):
        saved[y.untyped_storage()._cdata] = y
        return y

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda y: y):
        module(x.requires_grad_())
    return sum(y.untyped_storage().nbytes() for at, y in saved.items() if at not in own)


@parts.right("by pencil")
def parts_by_pencil(vocabulary, width, layers, N):
    block = 12 * width**2 + 4 * width  # qkv 3, out 1, mlp 8; two norms
    numbers = 2 * vocabulary * width + layers * block + 2 * width
    kept = layers * N * 9 * width  # what went in, into GELU, and out of it
    return {
        "parameters": 4 * numbers,
        "gradients": 4 * numbers,
        "moments": 8 * numbers,
        "mlps": 4 * kept,
    }


parts.slips(
    parts_by_pencil,
    """
    parts_one_table: the table of characters is counted once; the model has one to read by and
        another to predict by
    - 2 * vocabulary * width
    + vocabulary * width

    parts_without_norms: the norms are left out; each has a weight and a bias
    - 12 * width**2 + 4 * width
    + 12 * width**2
    - layers * block + 2 * width
    + layers * block

    parts_thin_mlp: the mlp is taken to be as wide as the rest; it widens four times
    - 12 * width**2
    + 6 * width**2

    parts_one_moment: one running average is counted; AdamW keeps two
    - 8 * numbers
    + 4 * numbers

    parts_in_numbers: numbers are counted and not bytes
    - "parameters": 4 * numbers
    + "parameters": numbers
    - "gradients": 4 * numbers
    + "gradients": numbers
    - "moments": 8 * numbers
    + "moments": 2 * numbers
    - 4 * kept
    + kept

    parts_of_one_mlp: the mlp of one layer is counted; all of them wait for the backward
    - layers * N * 9
    + N * 9

    parts_of_one_token: what the mlps keep is counted for one character; they keep it for each
    - layers * N * 9
    + layers * 9

    parts_without_gelu: GELU is taken to keep nothing; its derivative depends on what went in
    - 9 * width
    + 5 * width
    """,
)


@parts.right("by the model itself")
def parts_by_model(vocabulary, width, layers, N):
    model = gpt.TinyGPT(None, vocabulary, width, 2, layers)
    size = sum(x.nbytes for x in model.parameters())
    return size, size, 2 * size, 36 * N * width * layers


# 2. Find and fix: the loss that fell to nothing ------------------------------

VOCABULARY = 70


def built(attention, dtype=torch.float32, vocabulary=VOCABULARY, width=16, layers=1):
    """A small model, the same for the same sizes, whatever random numbers come next."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return gpt.TinyGPT(attention, vocabulary, width, 2, layers).to(dtype)


losses = Task("next_losses", "Find and fix: the loss that fell to nothing", "next")


@losses.cases
def _():
    chances = torch.tensor([[1, 3], [2, 2]], dtype=torch.float64) / 4  # of 0 and 1, after 0 and 1
    letters = torch.tensor([[0, 1, 1]])
    model = built(StdAttentionCord(8), torch.float64, 11)

    def exact(model, tokens):
        logits = model(tokens)[:, :-1].detach()
        hit = logits.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return torch.logsumexp(logits, -1) - hit

    def passages(*shape):
        return torch.randint(11, shape, generator=torch.Generator().manual_seed(len(shape)))

    return cases_of(
        exact,
        {
            "two letters, chances in fours": (lambda x: chances[x].log(), letters),
            "a GPT, one passage of 8": (model, passages(1, 9)),
            "a GPT, 3 passages of 6": (model, passages(3, 7)),
            "5 passages of 5": (model, passages(5, 6)),
            "one next character": (model, passages(4, 2)),
            "a GPT that is very sure, and wrong": (lambda x: 4000 * model(x), passages(2, 7)),
        },
    )


@losses.right("by cross entropy")
def losses_right(model, tokens):
    logits = model(tokens[:, :-1])  # (B, N, vocabulary)
    wanted = tokens[:, 1:]  # (B, N)
    return F.cross_entropy(logits.mT, wanted, reduction="none")


losses.slips(
    losses_right,
    """
    losses_unshifted, shown: each character is asked to predict itself, which it can read
    - wanted = tokens[:, 1:]
    + wanted = tokens[:, :-1]

    losses_of_the_past: each character is asked for the one before it
    - model(tokens[:, :-1])
    + model(tokens[:, 1:])
    - wanted = tokens[:, 1:]
    + wanted = tokens[:, :-1]

    losses_softmax_twice: cross entropy gets probabilities; it wants logits, and takes the
        softmax itself
    - cross_entropy(logits.mT
    + cross_entropy(logits.softmax(-1).mT

    losses_log_of_softmax, maximum: the logarithm is taken of a softmax that underflowed to 0
    - return F.cross_entropy(logits.mT, wanted, reduction="none")
    + return -torch.softmax(logits, -1).log().gather(-1, wanted[..., None]).squeeze(-1)

    losses_in_bits: the logarithm has base 2: bits, not nats
    - reduction="none")
    + reduction="none") / math.log(2)

    losses_signed: ln p is given without its minus
    - return F
    + return -F
    """,
)


@losses.right("the whole passage goes in, its last answer is dropped")
def losses_dropped(model, tokens):
    logs = torch.log_softmax(model(tokens)[:, :-1], -1)
    return -logs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


# 3. Write the test: who sees the answer ---------------------------------------


def attention_by(see):
    """Attention whose query i sees key j where see(i, j)."""

    def attention(q, k, v, causal):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~see(i, j), -math.inf)
        return torch.softmax(s, -1) @ v

    return attention


def second_head_unmasked(q, k, v, causal):
    o, unmasked = (StdAttentionCord(8)(q, k, v, causal=x) for x in (True, False))
    return torch.cat((o[:, :1], unmasked[:, 1:]), 1)


def reader(*attentions, noise=0.0):
    """tokens (B, N) -> logits (B, N, 70), a layer for each attention, roundings of `noise`."""

    @cache
    def model():
        net = built(None, width=16, layers=len(attentions))
        for block, attention in zip(net.blocks, attentions):
            block.attention = attention
        return net

    def logits(tokens):
        with torch.no_grad():
            x = 5 * model()(tokens)
        return x * (1 + noise * torch.randn_like(x))

    return logits


masked, blind = attention_by(lambda i, j: j <= i), attention_by(lambda i, j: j >= 0)
ahead = test_task(
    "test_causal",
    "Write the test: does it see the answer?",
    "gpt",
    right={
        "a GPT with standard attention": reader(StdAttentionCord(8)),
        "one with the flash core, in tiles of 8": reader(FlashAttentionCore(8, 8)),
        "one whose sums are rounded otherwise in every call": reader(masked, noise=1e-7),
    },
    wrong={
        "one without a mask": reader(blind),
        "one whose mask starts one key too late": reader(attention_by(lambda i, j: j <= i + 1)),
        "one that masks whole tiles of 8 only": reader(attention_by(lambda i, j: j // 8 <= i // 8)),
        "one whose second layer has no mask": reader(masked, blind),
        "one whose second head has no mask": reader(second_head_unmasked),
    },
)


@ahead.right("another future, the same past")
def another_future(model):
    tokens = torch.randint(VOCABULARY, (2, 21), generator=torch.Generator().manual_seed(1))
    for n in (5, 13, 20):
        other = tokens.clone()
        other[:, n:] = (other[:, n:] + 7) % VOCABULARY
        a, b = model(tokens)[:, :n], model(other)[:, :n]
        assert (a - b).abs().max() < 1e-5 * a.abs().max()


ahead.slips(
    another_future,
    """
    looks_at_the_changed: a test compares the changed places too; there the answer must differ
    - model(tokens)[:, :n], model(other)[:, :n]
    + model(tokens), model(other)

    looks_at_the_first: a test looks only at places far before what it changes; a look of one
        character ahead does not reach them
    - (5, 13, 20)
    + [20]
    - model(tokens)[:, :n], model(other)[:, :n]
    + model(tokens)[:, :1], model(other)[:, :1]

    changes_at_an_edge: a test changes the text only where a tile begins, where whole tiles are
        enough
    - (5, 13, 20)
    + (8, 16)

    asks_for_bits_of_the_past, M9, part: a test asks for the same bits, or nearly; sums may be
        rounded otherwise
    - (a - b).abs().max() < 1e-5 * a.abs().max()
    + torch.equal(a, b)

    allows_any_change, M15: a test asks for what holds of any model: its bound is larger than what
        a look ahead changes, or it changes no future at all
    - (a - b).abs().max() < 1e-5 * a.abs().max()
    + torch.allclose(a, b, rtol=1, atol=1)
    """,
)


@ahead.right("text that is cut off")
def cut_off(model):
    tokens = gpt.read_book()[0][None, 1000:1020]
    whole = model(tokens)
    for n in range(1, 20):
        assert torch.allclose(model(tokens[:, :n]), whole[:, :n], rtol=1e-4, atol=1e-4)


# 4. Write the test: two curves ------------------------------------------------


@cache
def book():
    return gpt.read_book()[0]


def run(core, steps, dtype=torch.float32):
    """The losses of so many steps of training, with this core: (steps,), in float64."""
    torch.manual_seed(0)
    model = gpt.TinyGPT(core, VOCABULARY, width=16, heads=2, layers=1).to(dtype)
    curve = gpt.train(model, book(), steps, N=32, batch=2)
    return torch.tensor(list(curve), dtype=torch.float64)


textbook = StdAttentionCord(8)


def changed(q=1.0, dk=1.0, dv=1.0, **options):
    """The textbook's core, with its scores, gradients or mask changed."""

    def core(queries, k, v, causal):
        return textbook(q * queries, regrad(k, dk), regrad(v, dv), **({"causal": causal} | options))

    return core


def by_sdpa(q, k, v, causal):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


curves = test_task(
    "test_core",
    "Write the test: one training, two cores",
    "part",
    right={
        "the flash core, in tiles of 16": FlashAttentionCore(8, 16),
        "the flash core, in tiles of 12": FlashAttentionCore(8, 12),
        "torch's own": by_sdpa,
    },
    wrong={
        "one whose scores are 1 % too large": changed(q=1.01),
        "one whose scores are a ten-thousandth too large": changed(q=1.0001),
        "one whose gradient of v is half as large": changed(dv=0.5),
        "one whose gradient of k lacks 1 / √d": changed(dk=8**0.5),
        "one without a mask": changed(causal=False),
    },
)


@curves.right("a few steps in float64")
def curves_in_float64(core):
    exact, got = run(textbook, 4, torch.float64), run(core, 4, torch.float64)
    assert (got - exact).abs().max() < 1e-10


curves.slips(
    curves_in_float64,
    """
    curves_in_float32, M15: a test's bound is larger than what a small mistake changes; it can be
        tiny in float64, where roundings are
    - run(textbook, 4, torch.float64), run(core, 4, torch.float64)
    + run(textbook, 4), run(core, 4)
    - < 1e-10
    + < 1e-4

    curves_of_bits, M9: a test asks for the same bits; right cores round differently
    - (got - exact).abs().max() < 1e-10
    + torch.equal(got, exact)

    curves_at_the_start: a test compares what no gradient has touched yet: the first loss, or
        outputs
    - 4, torch.float64), run(core, 4, torch.float64)
    + 1, torch.float64), run(core, 1, torch.float64)

    curves_too_strict, M9: a test allows less than float32 rounds
    - run(textbook, 4, torch.float64), run(core, 4, torch.float64)
    + run(textbook, 4), run(core, 4)
    """,
)


@curves.mistake(
    "",
    "a test asks for what holds with any core: the loss falls with all of these, and a large "
    "bound holds them all",
)
def curves_that_fall(core):
    got = run(core, 6, torch.float64)
    assert got.isfinite().all() and got[-1] < got[0]


@curves.right("outputs and gradients, without a training")
def outputs_and_gradients(core):
    qkv = [torch.randn(1, 2, 12, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    outs = [f(*qkv, causal=True) for f in (core, textbook)]
    must_be_close(*outs, 1e-9)
    grads = [torch.autograd.grad(o.square().sum(), qkv) for o in outs]
    for a, b in zip(*grads):
        must_be_close(a, b, 1e-9)


# 5. Turn a prediction round ---------------------------------------------------

LAWS = {  # constant, bytes a character, bytes a pair: lesson 10's larger model
    "standard": (40_670_720, 63_552, 116),
    "flash": (39_357_952, 85_128, 0),
}
context = Task("largest_context", "Turn a prediction round", "trains", tolerance=1e-3, points=3)


@context.cases
def _():
    def case(law, room, first=4096):
        def step(N):
            return law[0] + law[1] * N + law[2] * N * N

        largest, jump = 0, 2**40
        while jump:
            largest, jump = largest + jump * (step(largest + jump) <= room), jump // 2
        return Case((room, {N: step(N) for N in (first, 2 * first, 4 * first)}), largest)

    rooms = {"half a GiB": 2**29, "8 GiB": 2**33, "77 GiB": 77 * 2**30}
    named = {
        f"{core} core, {name}": case(law, room)
        for core, law in LAWS.items()
        for name, room in rooms.items()
    }
    return named | {"another model, short contexts": case((10**7, 5000, 8), 2**32, first=100)}


@context.right("a parabola through three points")
def context_by_parabola(room, steps):
    (x, A), (y, B), (z, C) = sorted(steps.items())
    slope = (B - A) / (y - x)
    c = ((C - B) / (z - y) - slope) / (z - x)
    b = slope - c * (x + y)
    a = A - b * x - c * x * x - room
    if c < 1e-9:
        return int(-a / b)
    return int((math.sqrt(b * b - 4 * a * c) - b) / (2 * c))


context.slips(
    context_by_parabola,
    """
    context_in_proportion: bytes are taken to grow in proportion to N
    - if c < 1e-9:
    + if c < math.inf:
    - int(-a / b)
    + int(z * room / C)

    context_by_squares: bytes are taken to grow as N²; a part of them grows as N, and with the
        flash core all
    - if c < 1e-9:
    + if c < math.inf:
    - int(-a / b)
    + int(z * math.sqrt(room / C))

    context_on_a_line: a line is drawn; with standard attention it must be a parabola
    - if c < 1e-9:
    + if c < math.inf:
    - int(-a / b)
    + int(z + (room - C) * (z - y) / (C - B))

    context_without_slope: what grows with N is left out beside what grows with N²
    - c = ((C - B) / (z - y) - slope) / (z - x)
    + c = (C - B) / (z * z - y * y)
    - b = slope - c * (x + y)
    + b = 0.0

    context_without_constant: what does not grow, parameters and their like, is left out
    - a = A - b * x - c * x * x - room
    + a = -room

    context_by_zero: the root's formula divides by what grows with N²; with the flash core that is 0
    - if c < 1e-9:
    + if c < 0:
    """,
)


@context.right("by Lagrange's polynomials and bisection")
def context_by_bisection(room, steps):
    def at(N):
        terms = []
        for x, size in steps.items():
            others = [y for y in steps if y != x]
            terms.append(size * math.prod((N - y) / (x - y) for y in others))
        return sum(terms)

    low, high = 0, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) <= room else (low, middle)
    return low
