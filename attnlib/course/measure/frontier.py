"""What fits on which card: exact bytes of both cores at any N, without a GPU.

`Job` is a call of a core that nobody has made yet. `frontier` finds the largest N
of a job on each of a few cards; `table_21` puts our bytes beside a paper's.
"""

from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import NamedTuple
from unittest import mock

import torch

from attnlib import FlashAttentionCore, StdAttentionCord, masks
from attnlib.course.inputs import make_qkv
from attnlib.memory import GIB, MIB, bytes_needed, forward, forward_backward, predicted_peak

CARDS = (8, 16, 24, 40, 80)  # GiB
# PyTorch takes a card's memory in pages of 20 MiB, and some products a workspace of
# their own: so close to its end nobody can say.
SLACK = 128 * MIB


class Job(NamedTuple):
    """One call of a core: "standard" or "flash", "forward" or "training"."""

    core: str
    mode: str = "forward"
    dtype: torch.dtype = torch.float32
    heads: int = 8
    d: int = 64
    block: int = 2048
    batch: int = 1
    window: int | None = None

    def inputs(self, N: int) -> int:
        """Bytes of q, k, v and, in training, of the gradient that comes back."""
        return sum(x.nbytes for x in self.tensors(N, "meta"))

    def results(self, N: int) -> int:
        """Bytes of the output and, in training, of the gradients of q, k and v."""
        return self.inputs(N) if self.mode == "training" else self.inputs(N) // 3

    def peak(self, N: int) -> int:
        """Bytes at the peak of the call beyond its inputs, exactly."""
        return _peak(self, N)

    def tensors(self, N: int, device) -> tuple[torch.Tensor, ...]:
        """q, k, v and, in training, do: all (batch, heads, N, d)."""
        shape, n = (self.batch, self.heads, N, self.d), 4 if self.mode == "training" else 3
        return make_qkv(*shape, n=n, dtype=self.dtype, device=device)

    def run(self, *tensors):
        """Make the call."""
        core = StdAttentionCord(self.d)
        if self.core == "flash":
            core = FlashAttentionCore(self.d, self.block)
        wrap = forward_backward if self.mode == "training" else forward
        return wrap(core, window=self.window)(*tensors)

    def needed(self, N: int, context: int) -> int:
        """Bytes a card must have: inputs, peak, cuBLAS's workspace, CUDA's context."""
        with short_walk():
            return bytes_needed(self.run, *self.tensors(N, "meta"), context=context)

    def largest(self, card: int, context: int) -> int:
        """The largest N, in steps of `step`, that leaves a card of so many bytes a SLACK."""
        return largest(lambda N: self.needed(N, context) + SLACK <= card, self.step)

    @property
    def step(self) -> int:
        """How finely `largest` looks: to 1024 tokens, or to 16384 where N is huge."""
        return 1024 if self.core == "standard" else 16384


@cache
def _peak(job: Job, N: int) -> int:
    with short_walk():
        return predicted_peak(job.run, *job.tensors(N, "meta"))


@contextmanager
def short_walk():
    """The flash core visits two tiles in each of two blocks of rows, no more.

    Each further tile takes what these took and gives it back, so the peak is that of
    the whole walk, which at N = 1M would have 60,000 tiles. For meta tensors only.
    """
    whole = masks.tile_rows

    def walk(*args, **options):
        for rows, tiles in islice(whole(*args, **options), 2):
            yield rows, tiles[:2]

    with mock.patch.object(masks, "tile_rows", walk):
        yield


def largest(fits, step: int) -> int:
    """The largest multiple of step that fits; fits must be monotone."""
    low, high = 0, 1
    while fits(high * step):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def frontier(job: Job, context: int, cards=CARDS) -> list[dict]:
    """The largest N of both cores on each card (GiB): rows with card, standard, flash."""
    return [
        {"card": card}
        | {
            core: job._replace(core=core).largest(card * GIB, context)
            for core in ("standard", "flash")
        }
        for card in cards
    ]


# The memory table of Dao et al. 2022 (FlashAttention), Table 21: MB for forward and
# backward, batch 16, 8 heads, d 64, fp16, with dropout and a mask.
PRINTED = {
    "standard": (36, 104, 336, 1184, 4416, 17024),
    "flash": (22, 44, 104, 209, 418, 836, 1672, 3344, 6688, 13376),
}


def table_21(block: int = 128) -> list[dict]:
    """Each printed cell, the closed form that explains it, and our own bytes, in MiB.

    In units of X (one N x d tensor), S (one score matrix) and r (one float32 number a
    row), all over batch and heads: the paper's PyTorch is 4 S + 10 X; its FlashAttention
    13 X + 2 r, up to N = 256 11 X. Ours count the inputs, as theirs do, without dropout
    and mask.
    """
    rows = []
    for core, cells in PRINTED.items():
        job = Job(core, "training", torch.float16, heads=8, d=64, block=block, batch=16)
        for n, printed in enumerate(cells):
            N = 128 * 2**n
            X, S, r = (job.batch * job.heads * N * size / MIB for size in (2 * 64, 2 * N, 4))
            flash = 13 * X + 2 * r if N >= 512 else 11 * X
            form = 4 * S + 10 * X if core == "standard" else flash
            ours = (job.inputs(N) + job.peak(N)) / MIB
            row = {"core": core, "N": N, "printed": printed, "form": form, "ours": ours}
            rows.append(row | {"verdict": _verdict(printed, form, ours)})
    return rows


def _verdict(printed: float, form: float, ours: float) -> str:
    explained = "explained" if abs(form - printed) <= 0.5 else "not explained"
    more = ours / printed - 1
    if abs(more) <= 0.05:
        return f"{explained}; ours agree"
    return f"{explained}; ours {abs(more):.0%} {'more' if more > 0 else 'less'}"
