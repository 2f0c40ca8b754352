"""What fits on which card: exact bytes of both cores at any N, without a GPU.

`frontier` finds the largest N of a job on each of a few cards; `table_21` puts our
bytes beside a paper's.
"""

import torch

from attnlib.course.measure.jobs import SLACK, Job  # noqa: F401  (lesson 08 takes them here)
from attnlib.memory import GIB, MIB

CARDS = (8, 16, 24, 40, 80)  # GiB


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
