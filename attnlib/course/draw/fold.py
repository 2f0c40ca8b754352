"""The fold, step by step: pictures of what `online_attention` yielded."""

from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from attnlib import SoftmaxState, calculate_local_fx
from attnlib.course.draw.style import GREY, ML, PAIR, O, S, styled


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


@styled
def draw_local(scores: Tensor) -> Figure:
    """One block: its scores (N,) under their maximum m, and fx = e^(s - m) beside them."""
    figure = Figure(figsize=(8, 2.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    m, l, fx = calculate_local_fx(scores)
    x = range(len(scores))
    left.bar(x, scores, color=S)
    left.hlines(m.item(), -1, len(scores), color=ML, linewidth=2.5)
    _beside(left, f"m = {m.item():.2f}", (len(scores), m.item()), ML)
    left.set(xlim=(-1, 1.35 * len(scores)), xlabel="key", title="scores x, and their maximum")
    left.set_xticks(range(0, len(scores), 5))
    right.bar(x, fx, color=S)
    right.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    right.set(
        ylim=(0, 1.15), xlabel="key", title=f"fx = e^(x − m); their sum is l = {l.item():.2f}"
    )
    return figure


@styled
def draw_block_step(trace: Trace, step: int, labels=None) -> Figure:
    """Everything the loop knows after block `step` (from 0): scores under the running
    maximum, weights with the ghost of their last height, l, and the output so far."""
    figure = _figure(8, 3.6)
    grid = figure.add_gridspec(
        3, 2, height_ratios=(3, 3, 1), width_ratios=(2.6, 1),
        left=0.075, right=0.985, top=0.9, bottom=0.115, hspace=0.42, wspace=0.2,
    )  # fmt: skip
    scores, weights, total = (figure.add_subplot(grid[i, 0]) for i in range(3))
    plane = figure.add_subplot(grid[:, 1])
    _draw_scores(scores, trace, step, labels)
    scores.tick_params(labelbottom=False)  # the weights below share its keys
    _draw_weights(weights, trace, step)
    _draw_total(total, trace, step)
    _draw_plane(plane, trace, step)
    return figure


def describe_step(trace: Trace, step: int) -> str:
    """The same in a sentence."""
    m, l, factor = trace.m[step], trace.l[step], trace.factors[step]
    if step == 0:
        done = "first block, nothing to rescale"
    elif factor == 1:
        done = "the maximum stays, nothing shrinks"
    else:
        done = f"the maximum grew: all before shrinks to {100 * factor:.3g} %"
    return f"block {step + 1} of {len(trace.states)}: {done}; m = {m:.2f}, l = {l:.3f}"


@styled
def draw_rescaling(trace: Trace, title: str, labels=None) -> Figure:
    """Scores under the staircase of the reference m, and each step's factor."""
    return _draw_factors(trace, trace.factors[1:], title, labels)


@styled
def draw_blocks(s: Tensor, block_size: int, title: str) -> Figure:
    """Scores s (M,) in blocks measured alone: each under its own maximum m_j, and
    below the factor e^(m_j - m) that brings it to the common m."""
    alone = [SoftmaxState.of(s_j[None], s_j[:, None]) for s_j in s.split(block_size)]
    trace = Trace(s, block_size, alone)
    factors = [float(np.exp(m_j - max(trace.m))) for m_j in trace.m]
    return _draw_factors(trace, factors, title, None)


def _draw_factors(trace, bars, title, labels) -> Figure:
    figure = _figure(8, 3.4)
    grid = figure.add_gridspec(
        2, 1, height_ratios=(3, 1.6), left=0.075, right=0.985, top=0.9, bottom=0.145, hspace=0.42
    )
    scores, factors = (figure.add_subplot(grid[i]) for i in range(2))
    _draw_scores(scores, trace, len(trace.states) - 1, labels)
    scores.set_title(title)
    for block, factor in zip(trace.blocks[-len(bars) :], bars):
        middle, width = (block.start + block.stop - 1) / 2, block.stop - block.start
        factors.bar(middle, factor, 0.7 * width, color=ML)
    factors.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    factors.set(xlim=scores.get_xlim(), ylim=(0, 1.15), yticks=(0, 1), ylabel="factor")
    factors.set_xlabel("key")
    return figure


def svg_rescaling(trace: Trace, text: str, labels=None) -> str:
    """`draw_rescaling` as hand-made SVG: a thirtieth of the time, for a live explorer.

    `text` names it for screen readers.
    """
    s, M = trace.scores.tolist(), len(trace.scores)
    low, high = min(*s, 0.0), max(*s, 0.0)
    x = [60 + 790 * key / M for key in range(M + 1)]

    def y(score):
        return 225 - 185 * (score - low) / (high - low)

    parts = []
    for n, (block, factor) in enumerate(zip(trace.blocks, trace.factors)):
        left, right = x[block.start], x[block.stop]
        steps = "".join(f"V{y(s[key]):.1f}H{x[key + 1]:.1f}" for key in range(M)[block])
        parts.append(f'<path d="M{left:.1f} {y(0):.1f}{steps}V{y(0):.1f}Z" fill="{PAIR[n % 2]}"/>')
        if n:
            box = f'x="{left + 2:.1f}" y="{345 - 70 * factor:.1f}" width="{right - left - 4:.1f}"'
            parts.append(f'<rect {box} height="{70 * factor:.1f}" fill="{ML}"/>')
    stairs = "".join(f"V{y(m):.1f}H{x[b.stop]:.1f}" for b, m in zip(trace.blocks, trace.m))
    first = f"M60 {y(trace.m[0]):.1f}"
    parts += [
        f'<path d="{first}{stairs}" fill="none" stroke="{ML}" stroke-width="2.5"/>',
        f'<path d="M60 {y(0):.1f}H850M60 345H850" stroke="{GREY}"/>',
        f'<path d="M60 275H850" stroke="{GREY}" stroke-dasharray="2 3"/>',
        *(
            f'<text x="{left}" y="{top:.1f}" text-anchor="{anchor}">{words}</text>'
            for left, top, anchor, words in (
                (
                    60,
                    18,
                    "start",
                    "scores, and the reference m that each block was measured against",
                ),
                (
                    60,
                    264,
                    "start",
                    "factor e^(m_old − m_new) of each step, 1 where nothing is rescaled",
                ),
                (52, y(high) + 5, "end", f"{high:.1f}"),
                (52, y(low) + 5, "end", f"{low:.1f}"),
                (52, 280, "end", "1"),
                (52, 350, "end", "0"),
                (60, 365, "start", "key 0"),
                (850, 365, "end", f"key {M - 1}"),
            )
        ),
        f'<text x="856" y="{y(trace.m[-1]) + 5:.1f}" fill="{ML}">m</text>',
    ]
    if labels is not None:
        top = s.index(high)
        middle = f'x="{x[top]:.1f}" y="{y(high) - 6:.1f}" text-anchor="middle"'
        parts.append(f"<text {middle}>“{escape(labels[top])}”</text>")
    head = f'role="img" aria-label="{escape(text)}" width="880" height="372" font-size="15"'
    return f"<svg {head} font-family='sans-serif'>{''.join(parts)}</svg>"


@styled
def draw_merge_tree(tree, leaves: list[SoftmaxState], title="") -> Figure:
    """A bracketing (nested pairs of leaf numbers) with (m, l) at every node."""
    figure = _figure(8, 3.4)
    ax = figure.add_axes((0.01, 0.02, 0.98, 0.86))
    ax.set_title(title)
    ax.set_axis_off()
    *_, (_, y, _) = _draw_node(ax, tree, leaves)
    ax.set(xlim=(-0.6, len(leaves) - 0.4), ylim=(-0.5, y + 0.6))
    return figure


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
    ax.set_title("scores, and their running maximum m")
    _beside(ax, "m", (edges[-1], trace.m[step]), ML)
    if labels is not None:
        top = int(np.argmax(s[: trace.blocks[step].stop]))
        style = {"textcoords": "offset points", "ha": "center"}
        ax.annotate(f"“{labels[top]}”", (top, max(trace.m[step], s[top])), (0, 4), **style)


def _draw_weights(ax, trace, step):
    s = trace.scores.numpy()
    now = trace.blocks[step]
    if step:
        seen = slice(0, now.start)
        _bars(ax, seen, np.exp(s[seen] - trace.m[step - 1]), "#d5d5d5")
    for n, block in enumerate(trace.blocks[: step + 1]):
        _bars(ax, block, np.exp(s[block] - trace.m[step]), PAIR[n % 2])
    hatched = {"facecolor": "none", "edgecolor": "#bbbbbb", "hatch": "///", "linewidth": 0}
    if now.stop < len(s):
        ax.axvspan(now.stop - 0.5, len(s) - 0.5, **hatched)
    ax.set(xlim=(-1, len(s) + 0.04 * len(s)), ylim=(0, 1.1), yticks=(0, 1))
    ax.set_title("weights e^(s − m); grey: their height one block ago")


def _draw_total(ax, trace, step):
    left, s = 0.0, trace.scores.double().numpy()
    for n, block in enumerate(trace.blocks[: step + 1]):
        part = float(np.exp(s[block] - trace.m[step]).sum())
        ax.barh(0, part, left=left, color=PAIR[n % 2], edgecolor="white", linewidth=0.5)
        left += part
    ax.set(xlim=(0, 1.12 * max(trace.l)), yticks=(), ylim=(-0.6, 0.6))
    ax.set_ylabel("l", rotation=0, ha="right", va="center", color=ML)
    ax.annotate(
        f"{trace.l[step]:.3g}", (trace.l[step], 0), (4, 0), textcoords="offset points", va="center"
    )


def _draw_plane(ax, trace, step):
    path = np.array([(state.o / state.l)[0, :2].tolist() for state in trace.states])
    ax.plot(*path[: step + 1].T, color=O, marker="o", markersize=5)
    ax.plot(*path[step], color=O, marker="o", markersize=11)
    ax.plot(*path[-1], color="black", marker="*", markersize=11, linestyle="")
    low, high = path.min(0), path.max(0)
    room = np.maximum(0.2 * (high - low), 1e-3)
    ax.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
    ax.set_title("o / l moves to ★")
    ax.set(xlabel="value 0", xticks=(), yticks=())
    ax.set_ylabel("value 1")


def _draw_node(ax, tree, leaves):
    """Draws a subtree, yields its nodes as (x, y, state), the root last."""
    if isinstance(tree, int):
        nodes = [(_slot(ax), 0, leaves[tree])]
        label = f"block {tree}\n"
    else:
        left, right = (list(_draw_node(ax, child, leaves)) for child in tree)
        (xl, yl, a), (xr, yr, b) = left[-1], right[-1]
        x, y = (xl + xr) / 2, max(yl, yr) + 1
        for cx, cy in ((xl, yl), (xr, yr)):
            ax.plot((cx, x), (cy, y), color="#999999", zorder=0)
        nodes = [*left, *right, (x, y, a.merge(b))]
        label = ""
    x, y, state = nodes[-1]
    m, l = state.m.flatten()[0].item(), state.l.flatten()[0].item()
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": ML}
    ax.text(x, y, f"{label}{m:.1f}, {l:.2f}", ha="center", va="center", fontsize=11, bbox=box)
    return nodes


def _slot(ax) -> int:
    ax.next_slot = getattr(ax, "next_slot", -1) + 1
    return ax.next_slot


def _bars(ax, block: slice, heights, color) -> None:
    # One filled outline a block: a tenth of the SVG of a bar a key.
    edges = np.arange(block.start, block.stop + 1) - 0.5
    ax.stairs(heights, edges, baseline=0, fill=True, color=color, linewidth=0)


def _beside(ax, text, xy, color="black") -> None:
    ax.annotate(text, xy, (4, 0), textcoords="offset points", color=color, va="center")
