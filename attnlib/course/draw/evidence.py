"""Pictures of evidence: who computes what, what travels, and how long it takes."""

from collections import defaultdict
from math import ceil, floor, log10

from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attnlib.course.draw.masks import LOOK, MaskView
from attnlib.course.draw.shapes import HATCHES
from attnlib.course.draw.style import GREY, LABEL, LETTERS, ML, STYLE

MARKS = {"full": "●", "partial": "◐", "skipped": "×"}


def draw_tile_counts(views: dict[str, MaskView], title: str) -> Figure:
    """Grids of tiles, one a mask, and beside each row how many of its tiles are computed."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for ax, (name, view) in zip(figure.subplots(1, len(views)), views.items()):
        counts = defaultdict(int)
        tiles = view.full + view.partial + view.skipped
        b = max(tile.cols.stop - tile.cols.start for tile in tiles)  # the last may be smaller
        for kind, mark in MARKS.items():
            look = {"facecolor": LOOK[kind].fill, "edgecolor": LOOK[kind].ink, "linewidth": 0}
            if LOOK[kind].hatch:
                look["hatch"] = HATCHES[LOOK[kind].hatch][1]
            for tile in getattr(view, kind):
                x, y = tile.cols.start // b, tile.rows.start // b
                counts[y] += kind != "skipped"
                ax.add_patch(Rectangle((x, y), 1, 1, **look))
                ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="black"))
                ax.text(x + 0.5, y + 0.5, mark, ha="center", va="center", fontsize=11)
        n = len(counts)
        for y, count in counts.items():
            ax.text(n + 0.3, y + 0.5, count, va="center", fontsize=12, fontweight="bold")
        ax.text(n + 0.3, n + 0.5, f"= {sum(counts.values())}", va="center", fontsize=12)
        ax.set(xlim=(0, n + 2), ylim=(n + 1, 0), aspect="equal")
        ax.set_title(name, fontsize=12)
        ax.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def draw_rows_of_weights(maps: dict[str, Tensor], words: list[str], title: str) -> Figure:
    """Weights (n, n) in per cent, a grid a name, queries down and keys across.

    NaN is a key that is hidden.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for ax, (name, weights) in zip(figure.subplots(1, len(maps), sharey=True), maps.items()):
        ax.patch.set(facecolor="#cccccc", edgecolor="#606060", hatch="///")
        ax.imshow(weights.numpy(), cmap="viridis", norm=PowerNorm(0.5, 0, 1))
        for i, row in enumerate(weights.tolist()):
            for j, weight in enumerate(row):
                if weight == weight:  # no NaN
                    look = {"color": "black" if weight > 0.25 else "white", "fontsize": 11}
                    ax.text(j, i, f"{100 * weight:.0f}", ha="center", va="center", **look)
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=11)
        ax.set_yticks(range(len(words)), words, fontsize=11)
        ax.set_title(name, fontsize=12)
        ax.grid(visible=False)
        ax.tick_params(length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def draw_two_loops(moved: dict[str, list], n: int, title: str) -> Figure:
    """The order of n x n tiles under each loop, and the numbers that it carries.

    moved: for "queries outside" and "keys outside" the numbers of q, k, v and what is
    made, one after the other.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots(2, len(moved), height_ratios=(3, 1), sharex="row", sharey="row")
    for column, (name, numbers) in zip(axes.T, moved.items()):
        grid, ax = column
        for a in range(n):  # the outer loop
            line = [(0.25, a + 0.5), (n - 0.2, a + 0.5)]
            start, end = line if name.startswith("queries") else [point[::-1] for point in line]
            arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.6}
            grid.annotate("", end, start, arrowprops=arrow)
            for b in range(n):
                grid.add_patch(Rectangle((a, b), 1, 1, facecolor="#f3dfea", edgecolor="white"))
        for letter, y in (("v", -0.4), ("k", -0.8)):
            grid.add_patch(Rectangle((0, y), n, 0.3, facecolor=LETTERS[letter]))
            grid.text(-0.15, y + 0.15, letter, va="center", ha="right", fontsize=11)
        grid.add_patch(Rectangle((-0.45, 0), 0.3, n, facecolor=LETTERS["q"]))
        grid.text(-0.7, n / 2, "q", va="center", ha="center", fontsize=11)
        grid.set(xlim=(-1, n + 0.2), ylim=(n + 0.1, -1), aspect="equal")
        grid.set_title(f"{name}: {sum(numbers)} numbers carried", fontsize=12)
        grid.set_axis_off()
        left = 0
        made = "o" if name.startswith("queries") else "m, l, o"
        for what, number in zip(("q", "k", "v", made), numbers):
            ax.barh(0, number, 0.6, left, color=LETTERS[what[-1]], edgecolor="white")
            ink = {"color": "white" if what == "q" else "black", "fontsize": 11}
            ax.text(left + number / 2, 0, what, ha="center", va="center", **ink)
            left += number
        ax.set(xlim=(0, 1.02 * max(map(sum, moved.values()))))
        ax.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def draw_saving(curves: dict[str, list], counted: list, title: str) -> Figure:
    """How many times less is carried over N: a named curve of (N, times) each, and dots."""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    ax = figure.subplots()
    for (name, curve), line in zip(curves.items(), (":", "--", "-")):
        ax.plot(*zip(*curve), color=STYLE["flash"]["color"], linestyle=line)
        _note(ax, name, curve[-1], (8, 0))
    ax.plot(*zip(*counted), "ko")
    Ns = [N for N, _ in curve]
    ax.set(xscale="log", xlim=(Ns[0], 6 * Ns[-1]), xlabel="N", ylabel="times less to carry")
    ax.set(ylim=(0, None), title=title)
    ax.set_xticks(Ns[::2], [f"{N // 1024}k" if N >= 1024 else str(N) for N in Ns[::2]])
    ax.minorticks_off()
    return figure


def draw_closeness(rows: list[dict], title: str) -> Figure:
    """Error against float64 of rows of one dtype: an input a line, its cores below each other."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    ax = figure.subplots()
    inputs = list(dict.fromkeys(r["input"] for r in rows))
    cores = [core for core in STYLE if any(r["core"] == core for r in rows)]
    for n, core in enumerate(cores):
        points = [(r["error"], inputs.index(r["input"])) for r in rows if r["core"] == core]
        x, y = zip(*points)
        y = [place + 0.2 * (n - (len(cores) - 1) / 2) for place in y]  # none hides another
        ax.plot(x, y, label=LABEL[core], markersize=9, **{**STYLE[core], "linestyle": ""})
    for y in range(1, len(inputs)):
        ax.axhline(y - 0.5, color=GREY, linewidth=0.5)
    ax.set(xscale="log", xlabel="relative error against float64: further left is better")
    low, high = (f(r["error"] for r in rows) for f in (min, max))
    ax.set(xlim=(10 ** floor(log10(low)), 10 ** ceil(log10(high))))
    ax.minorticks_off()
    ax.set(ylim=(len(inputs) - 0.5, -0.5))
    ax.set_yticks(range(len(inputs)), inputs)
    ax.grid(axis="y", visible=False)
    ax.set_title(title)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    return figure


def draw_time_of_a_tile(rows: list[dict], N: int, title: str) -> Figure:
    """ms of a tile of the flash core over its side, at one N; beside it, what time would be
    if it followed the number of scores, from the largest tile down."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    ax = figure.subplots()
    points = [(r["block"], r["ms"] / (N / r["block"]) ** 2) for r in rows if r.get("ms")]
    blocks, times = zip(*points)
    work = [times[-1] * (block / blocks[-1]) ** 2 for block in blocks]
    ax.plot(blocks, work, color=GREY, linestyle="--")
    ax.plot(blocks, times, **STYLE["flash"])
    _note(ax, "one tile, measured", (blocks[1], times[1]), (0, 14), color=ML)
    _note(ax, "if time followed the scores", (blocks[1], work[1]), (30, -8), color=GREY)
    ax.set(xscale="log", yscale="log", xlabel="side of a tile", ylabel="time of a tile, ms")
    ax.set_xticks(blocks, [str(block) for block in blocks])
    ax.minorticks_off()
    ax.set_title(title)
    return figure


def draw_trips(rows: list[dict], title: str) -> Figure:
    """Two panels with a bar a core: `bytes`, what a score costs in travel, and `ms`."""
    labels = {"bytes": "bytes that travel for each score", "ms": "time measured, ms"}
    return draw_bars(rows, labels, title)


def draw_bars(rows: list[dict], labels: dict[str, str], title: str) -> Figure:
    """A panel for each key of `labels`, with a bar a core."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, len(labels), sharey=True)
    names = [LABEL[r["core"]] for r in rows]
    colors = [STYLE[r["core"]]["color"] for r in rows]
    for ax, (key, label) in zip(axes, labels.items()):
        values = [r[key] for r in rows]
        ax.bar_label(ax.barh(names, values, color=colors, height=0.6), fmt="%.3g", padding=4)
        ax.set(xlabel=label, xlim=(0, 1.2 * max(values)))
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def draw_bill(parts: dict[str, float], measured: float, label: str, title: str) -> Figure:
    """What was predicted, its parts end to end, above what was measured."""
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    ax = figure.subplots()
    left = 0
    for (name, part), color in zip(parts.items(), (STYLE["standard"]["color"], LETTERS["o"])):
        ax.barh("predicted", part, left=left, color=color)
        ax.text(left + part / 2, 0, f"{name}\n{part:.0f}", ha="center", va="center", fontsize=11)
        left += part
    ax.bar_label(ax.barh("measured", measured, color=GREY), fmt="%.0f", padding=4)
    ax.set(xlabel=label, xlim=(0, 1.1 * max(left, measured)))
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def _note(ax, text, xy, offset, **style) -> None:
    ax.annotate(text, xy, offset, textcoords="offset points", va="center", **style)
