"""The fold, step by step: pictures of what `online_attention` yielded."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from attnlib import SoftmaxState
from attnlib.course.draw import shapes
from attnlib.course.draw.shapes import FONT, Area, Look, Path, Shape, Text, box
from attnlib.course.draw.style import GREY, ML, PAIR, O, S, styled

SIZE = 880, 372  # pixels
LEFT, RIGHT = 60, 850  # of the keys, in the rescaling picture
HIGH, LOW, ONE, ZERO = 72, 226, 280, 345  # heights there: of the scores, of the factors
WHITE, RED = Look("white", ML), Look(ML)


class Trace(NamedTuple):
    """One query against its keys: scores (M,), and the state after every block."""

    scores: Tensor
    block_size: int
    states: list[SoftmaxState]  # m (1, 1), l (1, 1), o (1, D)

    @property
    def m(self) -> list[float]:
        return [state.m.item() for state in self.states]

    @property
    def l(self) -> list[float]:
        return [state.l.item() for state in self.states]

    @property
    def factors(self) -> list[float]:
        """e^(m_old - m_new) of every step; the first has nothing to rescale, and is 0."""
        m = [-np.inf, *self.m]
        return [float(np.exp(old - new)) if new > -np.inf else 1.0 for old, new in pairwise(m)]

    @property
    def rescales(self) -> int:
        """In how many steps, the first apart, m grew."""
        return sum(new > old for old, new in pairwise(self.m))

    @property
    def blocks(self) -> list[slice]:
        ends = range(0, len(self.scores), self.block_size)
        return [slice(j, min(j + self.block_size, len(self.scores))) for j in ends]

    def weights(self, step: int) -> Tensor:
        """e^(s - m) of the keys seen up to block `step`, relative to its m: (seen,)."""
        return torch.exp(self.scores[: self.blocks[step].stop] - self.m[step])


@styled
def draw_local(scores: Tensor, m: Tensor, l: Tensor, fx: Tensor, names: list[str]) -> Figure:
    """Rows of scores (B, N), named: each under its maximum m, and fx = e^(s - m) beside it;
    m, l (B, 1) and fx (B, N) as `calculate_local_fx` returns them."""
    figure = Figure(figsize=(8, 3.5), dpi=110, layout="constrained")
    axes = figure.subplots(len(scores), 2, sharex=True, squeeze=False)
    x = range(scores.shape[-1])
    for (left, right), row, top, total, e, name in zip(axes, scores, m, l, fx, names):
        left.bar(x, row, color=S)
        left.hlines(top.item(), -1, len(x), color=ML, linewidth=2.5)
        _beside(left, "m", (len(x), top.item()), ML)
        left.set(xlim=(-1, 1.1 * len(x)), title=f"{name}: m = {top.item():.1f}")
        right.bar(x, e, color=S)
        right.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        right.set(ylim=(0, 1.15), yticks=(0, 1), title=f"fx is at most 1; l = {total.item():.2f}")
    for ax in axes[-1]:
        ax.set(xlabel="key", xticks=range(0, len(x), 5))
    return figure


@styled
def draw_block_step(trace: Trace, step: int, labels=None) -> Figure:
    """Everything the loop knows after block `step` (from 0): scores under the running
    maximum, weights with the ghost of their last height, l, and the output so far."""
    figure = _figure(8, 3.6)
    ratios = {"height_ratios": (3, 3, 1), "width_ratios": (2.6, 1)}
    grid = figure.add_gridspec(3, 2, **ratios)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.9, bottom=0.115, hspace=0.42, wspace=0.2)
    scores, weights, total = (figure.add_subplot(grid[i, 0]) for i in range(3))
    plane = figure.add_subplot(grid[:, 1])
    _draw_scores(scores, trace, step, labels)
    scores.set_title(_what_happened(trace, step).capitalize() + " (m over the scores)")
    scores.tick_params(labelbottom=False)  # the weights below share its keys
    _draw_weights(weights, trace, step)
    _draw_total(total, trace, step)
    _draw_plane(plane, trace, step)
    return figure


def describe_step(trace: Trace, step: int) -> str:
    """The same in a sentence."""
    m, l, done = trace.m[step], trace.l[step], _what_happened(trace, step)
    if step and trace.factors[step] < 1:
        done += f": all before shrinks to {100 * trace.factors[step]:.3g} %"
    return f"block {step + 1} of {len(trace.states)}: {done}; m = {m:.2f}, l = {l:.3f}"


def _what_happened(trace: Trace, step: int) -> str:
    if step == 0:
        return "first block, nothing to rescale"
    return "the maximum stays, nothing shrinks" if trace.factors[step] == 1 else "the maximum grew"


@styled
def draw_blocks(blocks: list[Tensor], m: Tensor, factors: Tensor, title: str) -> Figure:
    """Blocks of scores measured alone: each under its own maximum of m (blocks,), and
    below its factor of `factors` (blocks,), which brings it to the common maximum."""
    figure = _figure(8, 3.4)
    scores, below = figure.subplots(2, 1, height_ratios=(3, 1.6))
    figure.subplots_adjust(left=0.075, right=0.985, top=0.9, bottom=0.145, hspace=0.42)
    edges = np.cumsum([0, *map(len, blocks)]) - 0.5
    keys = [slice(int(a + 0.5), int(b + 0.5)) for a, b in pairwise(edges)]
    for n, (block, s, factor) in enumerate(zip(keys, blocks, factors.tolist())):
        _bars(scores, block, s.numpy(), PAIR[n % 2])
        middle, width = (block.start + block.stop - 1) / 2, len(s)
        below.bar(middle, factor, width, color=ML, edgecolor="white", linewidth=1.5)
        above = {"textcoords": "offset points", "ha": "center", "size": 11}
        below.annotate(f"{factor:.2f}".lstrip("0"), (middle, factor), (0, 3), **above)
    scores.stairs(m, edges, baseline=None, color=ML, linewidth=2.5)
    scores.axhline(0, color=GREY, linewidth=0.6)
    scores.set(xlim=(-1, keys[-1].stop), title=title)
    scores.margins(y=0.16)
    for n, block in enumerate(keys):
        style = {"textcoords": "offset points", "ha": "center", "color": ML, "size": 12}
        middle = (block.start + block.stop - 1) / 2
        scores.annotate(f"$m_{n + 1}$", (middle, m[n].item()), (0, 4), **style)
    below.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    below.set(xlim=scores.get_xlim(), ylim=(0, 1.45), yticks=(0, 1), ylabel="factor", xlabel="key")
    return figure


@styled
def draw_tops(tops: dict[str, Tensor]) -> Figure:
    """Where rows have their largest score, in a panel for each title: the dot of a query,
    a row of keys (heads, N), stands at its key, and glows where that is the first."""
    look = {"alpha": 0.35, "linewidths": 0}
    figure = Figure(figsize=(8, 3.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(tops), sharey=True, squeeze=False)[0]
    for ax, (title, keys) in zip(panels, tops.items()):
        queries = torch.arange(keys.shape[-1]).expand_as(keys)
        first = keys == 0
        ax.scatter(keys[~first], queries[~first], 7, S, **look)
        ax.scatter(keys[first], queries[first], 7, ML, **look)
        ax.set(title=title, xlabel="key of the largest score", xlim=(-12, keys.shape[-1]))
    panels[0].set(ylabel="query", ylim=(keys.shape[-1], -1))
    return figure


def draw_rescaling(trace: Trace, labels=None) -> Iterator[Shape]:
    """Scores under the staircase of the reference m, and each step's factor."""
    s, M = trace.scores.tolist(), len(trace.scores)
    low, high = min(*s, 0.0), max(*s, 0.0)
    x = [LEFT + (RIGHT - LEFT) * key / M for key in range(M + 1)]

    def y(score):
        return LOW - (LOW - HIGH) * (score - low) / (high - low)

    outlines, factors, stairs = [[], []], [], []
    for n, (block, factor, m) in enumerate(zip(trace.blocks, trace.factors, trace.m)):
        left, right = x[block.start], x[block.stop]
        tops = [(x[key + side], y(s[key])) for key in range(M)[block] for side in (0, 1)]
        outlines[n % 2].append([(left, y(0)), *tops, (right, y(0))])
        stairs += [(left, y(m)), (right, y(m))]
        if n:
            tall = (ZERO - ONE) * factor
            factors.append(box(left + 2, ZERO - tall, right - left - 4, tall, RED))
    for color, group in zip(PAIR, outlines):
        yield from (Area(outline, Look(color)) for outline in group)
    yield from factors
    yield Path(stairs, Look(edge=ML, width=2.5))
    yield from (Path([(LEFT, h), (RIGHT, h)], Look(edge=GREY)) for h in (y(0), ZERO))
    yield Path([(LEFT, ONE), (RIGHT, ONE)], Look(edge=GREY, dashed=True))
    title = "m never grows: nothing that came before shrinks"
    if trace.rescales:
        steps = f"{trace.rescales} of {len(trace.states) - 1} steps"
        title = f"m grows in {steps}: there, all that came before shrinks"
    yield Text(LEFT, 18, title, bold=True)
    yield Text(LEFT, 42, "scores, and the reference m that each block was measured against")
    yield Text(LEFT, 262, "factor e^(m_old − m_new) of each step, 1 where nothing is rescaled")
    for number, height in (
        (f"{high:.1f}", y(high)),
        (f"{low:.1f}", y(low)),
        ("1", ONE),
        ("0", ZERO),
    ):
        yield Text(LEFT - 8, height + 5, number, "end")
    yield from (Text(LEFT, 365, "key 0"), Text(RIGHT, 365, f"key {M - 1}", "end"))
    yield Text(RIGHT + 6, y(trace.m[-1]) + 5, "m", color=ML, bold=True)
    if labels is not None:
        top = s.index(high)
        place = ("start", "middle", "end")[(top > 0.04 * M) + (top > 0.96 * M)]
        yield Text(x[top], y(high) - 6, f"“{labels[top]}”", place)


def draw_merge_tree(tree, states: dict, title="") -> Figure:
    """A bracketing (nested pairs of leaf numbers) with (m, l) of its state in `states`
    at every node."""
    return shapes.figure(draw_tree(tree, states, title), SIZE)


def draw_tree(tree, states: dict, title="") -> list[Shape]:
    """The same as shapes."""
    places = _places(tree)
    root, leaves = places[tree][1], sum(isinstance(node, int) for node in places)
    wide, tall = 860 / leaves, min(270 / max(root, 1), 70)

    def at(node):
        x, level = places[node]
        return 10 + wide * (x + 0.5), SIZE[1] - 52 - tall * level

    lines = [
        Path([at(node), at(child)], Look(edge="#999999"))
        for node in places
        if not isinstance(node, int)
        for child in node
    ]
    boxes = []
    words = [Text(10, 22, title, bold=True), Text(870, 22, "in each box: m, l", "end", GREY)]
    for node in places:
        (x, y), (m, l) = at(node), (part.flatten()[0].item() for part in states[node][:2])
        said = f"{m:.1f}, {l:.2f}".replace("-", "−")
        half = 4.6 * len(said) + 5
        boxes.append(box(x - half, y - 13, 2 * half, 26, WHITE))
        words.append(Text(x, y + 0.36 * FONT, said, "middle"))
        if isinstance(node, int):
            words.append(Text(x, y + 34, f"block {node + 1}", "middle", GREY))
    return [*lines, *boxes, *words]


def _places(tree) -> dict:
    """Where each node stands: its slot from the left and its level above the leaves."""
    if isinstance(tree, int):
        return {tree: (0, 0)}
    left, right = (_places(child) for child in tree)
    shift = sum(isinstance(node, int) for node in left)
    right = {node: (x + shift, level) for node, (x, level) in right.items()}
    (xl, yl), (xr, yr) = left[tree[0]], right[tree[1]]
    return left | right | {tree: ((xl + xr) / 2, max(yl, yr) + 1)}


def _figure(width, height) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="none")


def _draw_scores(ax, trace, step, labels):
    s = trace.scores.numpy()
    for n, block in enumerate(trace.blocks):
        _bars(ax, block, s[block], PAIR[n % 2] if n <= step else "#d5d5d5")
    edges = [-0.5, *(b.stop - 0.5 for b in trace.blocks[: step + 1])]
    ax.stairs(trace.m[: step + 1], edges, baseline=None, color=ML, linewidth=2.5)
    ax.axhline(0, color=GREY, linewidth=0.6)
    room = 0.12 * max(float(np.ptp(s)), 1.0)
    ax.set(xlim=(-1, len(s) + 0.04 * len(s)))
    ax.set(ylim=(min(s.min(), 0) - room, max(s.max(), 0) + 2.5 * room))
    _beside(ax, "m", (edges[-1], trace.m[step]), ML)
    if labels is not None:
        top = int(np.argmax(s[: trace.blocks[step].stop]))
        place = ("left", "center", "right")[(top > 0.04 * len(s)) + (top > 0.96 * len(s))]
        style = {"textcoords": "offset points", "ha": place}
        ax.annotate(f"“{labels[top]}”", (top, max(trace.m[step], s[top])), (0, 4), **style)


def _draw_weights(ax, trace, step):
    M, now, weights = len(trace.scores), trace.blocks[step], trace.weights(step)
    if step:
        _bars(ax, slice(0, now.start), trace.weights(step - 1), "#d5d5d5")
    for n, block in enumerate(trace.blocks[: step + 1]):
        _bars(ax, block, weights[block], PAIR[n % 2])
    hatched = {"facecolor": "none", "edgecolor": "#bbbbbb", "hatch": "///", "linewidth": 0}
    if now.stop < M:
        ax.axvspan(now.stop - 0.5, M - 0.5, **hatched)
    ax.set(xlim=(-1, 1.04 * M), ylim=(0, 1.1), yticks=(0, 1))
    ax.set_title("weights e^(s − m); grey: their height one block ago")


def _draw_total(ax, trace, step):
    left, weights = 0.0, trace.weights(step)
    for n, block in enumerate(trace.blocks[: step + 1]):
        part = weights[block].sum().item()
        ax.barh(0, part, left=left, color=PAIR[n % 2], edgecolor="white", linewidth=0.5)
        left += part
    ax.set(xlim=(0, 1.12 * max(trace.l)), yticks=(), ylim=(-0.6, 0.6))
    ax.set_ylabel("l", rotation=0, ha="right", va="center", color=ML)
    ax.annotate(
        f"{trace.l[step]:.3g}", (trace.l[step], 0), (4, 0), textcoords="offset points", va="center"
    )


def _draw_plane(ax, trace, step):
    path = np.array([state.finalise()[0][0, :2].tolist() for state in trace.states])
    ax.plot(*path[: step + 1].T, color=O, marker="o", markersize=5)
    ax.plot(*path[step], color=O, marker="o", markersize=11)
    ax.plot(*path[-1], color="black", marker="*", markersize=11, linestyle="")
    low, high = path.min(0), path.max(0)
    room = np.maximum(0.2 * (high - low), 1e-3)
    ax.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
    ax.set_title("o / l moves to ★")
    ax.set(xlabel="value 0", xticks=(), yticks=())
    ax.set_ylabel("value 1")


def _bars(ax, block: slice, heights, color) -> None:
    # One filled outline a block: a tenth of the SVG of a bar a key.
    edges = np.arange(block.start, block.stop + 1) - 0.5
    ax.stairs(heights, edges, baseline=0, fill=True, color=color, linewidth=0)


def _beside(ax, text, xy, color="black") -> None:
    ax.annotate(text, xy, (4, 0), textcoords="offset points", color=color, va="center")
