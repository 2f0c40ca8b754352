"""The sweep: one query over its keys, block by block, as the readable loop does it. Lesson 03."""

from torch import Tensor

from attnlib import SoftmaxState
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.draw.sweep import SIZE, Sweep, draw_sweep
from attnlib.course.explore.base import Stepper
from attnlib.course.explore.fold import trace_row
from attnlib.traffic import Tape


def sweep_keys(q: Tensor, k: Tensor, v: Tensor, block_size: int, labels=None) -> Sweep:
    """The trace of one query q (d,) over k (M, d), v (M, D), and what each block brought.

    The blocks are fetched from a `Tape`, which counts. labels: a word for every key.
    """
    trace = trace_row(q, k, v, block_size)
    tape = Tape([(k[block], v[block]) for block in trace.blocks])
    parts, fetched = [], []
    for n, (block, state) in enumerate(zip(trace.blocks, trace.states)):
        _, v_j = tape.take(n)  # (block, d), (block, D)
        parts.append(SoftmaxState.of(trace.scores[None, block], v_j).rebase(state.m))
        fetched.append(tape.moved // (k.shape[-1] + v.shape[-1]))
    return Sweep(trace, parts, fetched, labels)


class SweepStepper(Stepper):
    """One query sweeps the keys: fetch a block, weigh it, add it to l and o, forget it.

    A frame for every block, o <- o e^(m_old - m_new) + p v in bars, and one for the
    division at the end. q (d,), k (M, d), v (M, D); labels: a word for every key.
    `sweep` holds what is shown. Lesson 03.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, block_size: int, labels=None):
        self.sweep = sweep_keys(q, k, v, block_size, labels)
        numbers = range(len(self.sweep.parts) + 1)
        texts = [self.sweep.describe(n) for n in numbers]
        drawn = [draw_sweep(self.sweep, n) for n in numbers]
        frames = [(svg(d, SIZE, t, f"sweep-{n}"), t) for n, d, t in zip(numbers, drawn, texts)]
        factors = self.sweep.trace.factors[1:]
        shown = 1 + factors.index(min(factors)) if factors else 0  # where most is rescaled
        super().__init__(
            {"": frames}, "block", figure(drawn[shown], SIZE), f"Sweep: {texts[shown]}"
        )
