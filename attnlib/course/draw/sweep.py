"""One query sweeps the keys: what a block brings, what is kept of it, what is forgotten."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from attnlib import SoftmaxState
from attnlib.course.draw.fold import Trace
from attnlib.course.draw.shapes import Look, Path, Shape, Text, box
from attnlib.course.draw.style import GREY, LETTERS, ML, K, O, S, V

SIZE = 880, 376  # pixels
LEFT, RIGHT = 60, 860  # of the keys
HIGH, LOW, STRIP = 48, 146, 172  # of the bars of scores, and of the strips below them
LANE, TALL, WIDE = 302, 46, 140  # middle, half height and width of the panels of o
PANELS = 76, 316, 526, 724  # left edges: o before, p v, o now, and the tally
GONE, EMPTY = Look("#dddddd"), Look("white", "#bbbbbb")
ZERO = Look(edge=GREY)


class Sweep(NamedTuple):
    """A trace and what each block brought: its own part of the state, relative to the m
    after it; how many keys and values were fetched up to it; words for the keys."""

    trace: Trace
    parts: list[SoftmaxState]  # m (1, 1), l (1, 1), o (1, D)
    fetched: list[int]
    labels: list[str] | None = None

    def claim(self, n: int) -> str:
        """What to see in frame n; one after the last block divides."""
        if n == len(self.parts):
            return "No weight was asked for twice: one division, o / l, is the answer"
        factor = self.trace.factors[n]
        if n == 0:
            return "The first block: its weights go into l and o, and are forgotten"
        if factor == 1:
            return "m stays: the block’s weights join l and o, and are forgotten"
        return f"m grew: l and o shrink to {_percent(factor)}, then the new weights join them"

    def describe(self, n: int) -> str:
        """Frame n in a sentence."""
        at, M = min(n, len(self.parts) - 1), len(self.trace.scores)
        keys, (m, l, _) = self.trace.blocks[at], self.trace.states[at]
        state = f"m = {m.item():.2f}, l = {l.item():.3f}".replace("-", "−")
        if n > at:
            return f"the end: {state}; {self.fetched[at]} of {M} keys fetched, each once"
        which = f"keys {keys.start} to {keys.stop - 1}"
        if keys.stop - keys.start == 1:
            which = f"key {keys.start}"
        step = f"block {n + 1} of {len(self.parts)}, {which}"
        return f"{step}: {state}; {self.fetched[at]} of {M} fetched"


def _percent(factor: float) -> str:
    return f"{100 * factor:.0f} %" if factor > 0.005 else "almost nothing"


def draw_sweep(sweep: Sweep, n: int) -> list[Shape]:
    """The block's scores over the keys; below, o <- o e^(m_old - m_new) + p v in bars."""
    shapes = [Text(20, 20, sweep.claim(n), bold=True)]
    shapes += _draw_keys(sweep, n)
    return shapes + list(_draw_end(sweep) if n == len(sweep.parts) else _draw_sum(sweep, n))


def _draw_keys(sweep, n) -> Iterator[Shape]:
    """Keys and values as strips: forgotten, on the bench, or to come. Scores stand on
    those that were fetched, grey where they are forgotten; m runs above them."""
    trace, at = sweep.trace, min(n, len(sweep.parts) - 1)
    s, M = trace.scores.tolist(), len(trace.scores)
    low, high = min(*s, 0.0), max(*s, 0.0)
    x = [LEFT + (RIGHT - LEFT) * key / M for key in range(M + 1)]
    gap = 1 if x[1] - x[0] > 6 else 0

    def y(score):
        return LOW - (LOW - HIGH) * (score - low) / (high - low)

    for j, block in enumerate(trace.blocks[: n + 1]):
        for key in range(M)[block]:
            top, bottom = sorted((y(s[key]), y(0)))
            width = x[key + 1] - x[key] - 2 * gap
            yield box(x[key] + gap, top, width, bottom - top, Look(S) if j == n else GONE)
    for name, color, pale, top in (("k", K, "#faecd0", STRIP), ("v", V, "#cceee3", STRIP + 15)):
        for j, block in enumerate(trace.blocks):
            look = Look(pale, color) if j > n else Look(color, color) if j == n else EMPTY
            yield box(x[block.start], top, x[block.stop] - x[block.start], 12, look)
        yield Text(LEFT - 8, top + 11, name, "end", color, True)
    yield Path([(LEFT, y(0)), (RIGHT, y(0))], ZERO)
    m = y(trace.m[at])
    yield Path([(LEFT, m), (x[trace.blocks[at].stop], m)], Look(edge=ML, width=2.5))
    yield Text(LEFT - 8, m + 5, "m", "end", ML, True)
    if sweep.labels is not None and x[1] - x[0] <= 36:
        top = trace.scores[: trace.blocks[at].stop].argmax().item()
        place = ("start", "middle", "end")[(top > 0.04 * M) + (top > 0.96 * M)]
        yield Text(x[top], y(s[top]) - 6, f"“{sweep.labels[top]}”", place)
    yield from _draw_words(sweep, n, x) if x[1] - x[0] > 36 else _explain(sweep, n, x)


def _draw_words(sweep, n, x) -> Iterator[Shape]:
    """A few keys by their words, and the weights of those on the bench."""
    words = sweep.labels or [f"key {key}" for key in range(len(x) - 1)]
    if n < len(sweep.parts):
        start = sweep.trace.blocks[n].start
        yield Text(LEFT - 8, LOW + 17, "p", "end", LETTERS["p"], True)
        for key, weight in enumerate(sweep.trace.weights(n)[start:].tolist(), start):
            middle = (x[key] + x[key + 1]) / 2
            yield Text(middle, LOW + 17, f"{weight:.2f}", "middle", LETTERS["p"], True)
    fit = int((x[1] - x[0]) / 9)
    for key, word in enumerate(words[: len(x) - 1]):
        word = word if len(word) <= fit else word[: fit - 1] + "…"
        yield Text((x[key] + x[key + 1]) / 2, STRIP + 44, word, "middle", size=15)


def _explain(sweep, n, x) -> Iterator[Shape]:
    """What the colours of many keys mean."""
    if n == len(sweep.parts):
        yield Text(RIGHT, STRIP + 44, "every key was used once, then forgotten", "end", GREY)
        return
    now = sweep.trace.blocks[n]
    said = "on the bench" + ("; grey: used once, then forgotten" if now.start else "")
    place = "start" if now.start < 0.5 * len(x) else "end"
    yield Text(x[now.start if place == "start" else now.stop], STRIP + 44, said, place, GREY)


def _draw_sum(sweep, n) -> Iterator[Shape]:
    """l and o before, times the factor, plus the block's part, is l and o now."""
    trace, part, now = sweep.trace, sweep.parts[n], sweep.trace.states[n]
    before = trace.states[n - 1] if n else SoftmaxState(now.m, 0 * now.l, 0 * now.o)
    factor, largest = trace.factors[n], _largest([*trace.states, *sweep.parts])
    said = (before.l.item(), part.l.item(), now.l.item())
    yield from _signs(f"× {factor:.2f} +" if n else "+", "=")
    yield from _numbers([f"{l:.3f}" for l in said])
    yield from _bars(
        PANELS[0],
        before.o,
        largest,
        Look("white", O),
        "nothing yet" if n == 0 else "so far, shrunk" if factor < 1 else "so far",
    )
    yield from _bars(PANELS[0], factor * before.o, largest, Look(O))
    yield from _bars(PANELS[1], part.o, largest, Look(V), "this block: p v")
    yield from _bars(PANELS[2], now.o, largest, Look(O), "kept")
    yield from _tally(sweep, n)


def _draw_end(sweep) -> Iterator[Shape]:
    """o / l: the one division."""
    state = sweep.trace.states[-1]
    answer = state.finalise()[0]
    yield from _signs(f"÷ {state.l.item():.2f} =")
    yield from _numbers([f"{state.l.item():.3f}", "1"])
    yield from _bars(PANELS[0], state.o, _largest([state]), Look(O), "kept")
    yield from _bars(PANELS[1], answer, answer.abs().max().item(), Look(O), "o / l, the answer")
    yield from _tally(sweep, len(sweep.parts) - 1)


def _signs(*signs: str) -> Iterator[Shape]:
    """Between the panels."""
    for left, right, sign in zip(PANELS, PANELS[1:], signs):
        for y in (LANE - 52, LANE + 6):
            yield Text((left + WIDE + right) / 2, y, sign, "middle", ML, True)


def _numbers(said: list[str]) -> Iterator[Shape]:
    yield Text(LEFT - 8, LANE - 52, "l", "end", ML, True)
    yield Text(LEFT - 8, LANE + 6, "o", "end", O, True)
    for left, number in zip(PANELS, said):
        yield Text(left + WIDE / 2, LANE - 52, number, "middle", ML, True)


def _bars(left: float, o: Tensor, largest: float, look: Look, name: str = "") -> Iterator[Shape]:
    """The numbers of o (1, D), a bar each; `largest` would reach the panel's edge."""
    numbers = o[0].tolist()
    step = WIDE / len(numbers)
    for i, number in enumerate(numbers):
        tall = TALL * number / largest
        bar = box(left + step * (i + 0.1), LANE - max(tall, 0), 0.8 * step, abs(tall), look)
        yield bar
    yield Path([(left, LANE), (left + WIDE, LANE)], ZERO)
    yield Text(left + WIDE / 2, LANE + TALL + 22, name, "middle", GREY)


def _tally(sweep, n) -> Iterator[Shape]:
    M = len(sweep.trace.scores)
    for top, words, number in (
        (LANE - 52, "weights used", f"{sweep.fetched[n]} of {M}"),
        (LANE + 16, "asked for again", "none"),
    ):
        yield Text(PANELS[3], top, words, color=GREY)
        yield Text(PANELS[3], top + 23, number, bold=True, size=19)


def _largest(states: list[SoftmaxState]) -> float:
    return max(state.o.abs().max().item() for state in states) or 1.0
