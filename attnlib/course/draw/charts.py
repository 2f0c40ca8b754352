"""Charts of rows, timelines and weights: data in, picture out."""

from collections import Counter, defaultdict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from attnlib.course.draw.style import GREY, LABEL, LETTERS, STYLE, Q, S
from attnlib.memory import MIB, Timeline


def draw_peak_memory(rows: list[dict], ax=None, names=LABEL):
    """Peak memory over N, a curve a core, with its name of `names`; rows of one dtype and mode.

    A peak that is predicted but did not fit is a cross at its height.
    """
    ax = ax or _subplots()[1]
    ends = {}
    for core, curve in _by_core(rows):
        fitted = [(r["N"], r["measured"] / MIB) for r in curve if r.get("measured")]
        ax.plot(*zip(*fitted), **STYLE[core])
        ends[core] = fitted[-1]
        lost = [r for r in curve if r.get("problem") == "out of memory" and r["predicted"]]
        if lost:
            ends[core] = (lost[0]["N"], lost[0]["predicted"] / 2**20)
            color = STYLE[core]["color"]
            ax.plot(*zip(fitted[-1], ends[core]), color=color, linestyle=":")
            ax.plot(*ends[core], color=color, marker="x", markersize=11, markeredgewidth=3)
            _note(ax, "out of memory", ends[core], (-14, 0), ha="right")
    ax.set(xscale="log", yscale="log", xlabel="sequence length N", ylabel="peak memory, MiB")
    _token_axis(ax, rows)
    _label_ends(ax, ends, names)
    return ax


def draw_cost_of_masks(ms: dict[tuple[str, str], float], tiles: dict[str, float]) -> Figure:
    """Each core's time by (core, mask), over its time under the first mask, which is none.

    tiles has the share of tiles that each mask leaves.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    masks, ends = list(tiles), [0.0]
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, core, said in zip(axes, ("standard", "flash"), ("hiding costs", "hiding saves")):
        shares = [ms[core, mask] / ms[core, masks[0]] for mask in masks]
        ax.barh(masks, shares, height=0.6, color=STYLE[core]["color"])
        for y, share in enumerate(shares):
            ends.append(share if core == "standard" else max(share, tiles[masks[y]]))
            _note(ax, f"{share:.2f}", (ends[-1], y), (12, 0))
        ax.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
        ax.set(title=f"{LABEL[core]}: {said}", ylim=(2.7, -0.5), xticks=(0, 0.5, 1, 1.5))
        ax.grid(False)
    axes[1].plot(tiles.values(), range(len(tiles)), "D", color="black", mec="white", markersize=9)
    _note(axes[1], "◆ share of tiles computed", (0.02, 2.5), (0, 0))
    axes[0].set_xlim(0, 1.25 * max(ends))
    figure.supxlabel("time; without a mask it is 1", fontsize=12)
    return figure


def draw_timelines(timelines: dict[str, Timeline], names: dict, axes=None):
    """Bytes alive in the course of a call: a panel a call, all at one scale.

    `names` maps the start of an event's name ("bmm (8, 512, 512)") to the band that
    its tensors join or, where they should be told apart, to a tuple of bands in the
    order of their births. A band takes the colour of its letter, hatched for a
    gradient ("dp"). The rest is grey.
    """
    if axes is None:
        axes = _subplots(1, len(timelines), sharey=True, squeeze=False)[1][0]
    highest = max(timeline.peak for timeline in timelines.values()) / MIB
    for ax, (title, timeline) in zip(axes, timelines.items()):
        bands = _bands(timeline, names)
        colors = [LETTERS.get(name.removeprefix("d")[:1], GREY) for name in bands]
        steps, edges = range(len(timeline.events) + 1), {"edgecolor": "white", "linewidth": 0.8}
        areas = ax.stackplot(steps, *bands.values(), colors=colors, step="post", **edges)
        peak = timeline.peak / MIB
        ax.hlines(peak, 0, steps[-1], "black", ":", linewidth=1)
        _note(ax, f"peak {peak:,.1f} MiB", (steps[-1] / 2, peak), (0, 9), ha="center")
        bottom = np.zeros(len(steps))
        for (name, height), color, area in zip(bands.items(), colors, areas):
            area.set_hatch("//" if name.startswith("d") else None)
            x = _middle(bottom, height)
            if height[int(x)] > highest / 20:
                y = bottom[int(x)] + height[int(x)] / 2
                style = {"ha": "center", "va": "center", "size": 11, "weight": "bold"}
                style["color"] = "white" if color in (Q, LETTERS["p"], GREY) else "black"
                if name.startswith("d"):  # keep the hatching off its letters
                    style["bbox"] = {"facecolor": color, "edgecolor": "none", "pad": 0.5}
                ax.text(x, y, name, **style)
            bottom += height
        ax.set(title=title, xticks=[])
        ax.set(xlim=(0, steps[-1]), ylim=(0, 1.15 * highest))
    axes[0].set_ylabel("alive, MiB")
    axes[0].figure.supxlabel("births and deaths of tensors, in order", fontsize=12)
    return axes


def draw_peaks(timelines: dict[str, Timeline], names: dict, ax=None):
    """What is alive at the highest moment of each call: a bar a call, from the same
    `names` and bands as `draw_timelines`."""
    ax = ax or _subplots()[1]
    highest = max(timeline.peak for timeline in timelines.values()) / MIB
    for y, timeline in enumerate(timelines.values()):
        bands, left = _bands(timeline, names), 0.0
        peak = sum(bands.values()).argmax()
        for name, height in bands.items():
            width, color = height[peak], LETTERS.get(name[:1], GREY)
            ax.barh(y, width, 0.62, left, color=color, edgecolor="white")
            if width > highest / 40:
                ink = "white" if color in (Q, LETTERS["p"], GREY) else "black"
                style = {"ha": "center", "va": "center", "size": 11, "weight": "bold"}
                ax.text(left + width / 2, y, name, color=ink, **style)
            left += width
        _note(ax, f"{left:,.1f} MiB", (left, y), (8, 0))
    ax.set(xlim=(0, 1.15 * highest), ylim=(len(timelines) - 0.5, -0.5), xlabel="alive, MiB")
    ax.set_yticks(range(len(timelines)), list(timelines))
    ax.grid(axis="y", visible=False)
    return ax


def draw_weights(rows: dict[str, Tensor], words: list[str], query: int, top: int = 5, axes=None):
    """The heaviest weights of one query's rows (M,), a panel a row: a bar a key, named
    by its word and its distance from the query."""
    if axes is None:
        axes = _subplots(1, len(rows), sharex=True, squeeze=False)[1][0]
    for ax, (title, row) in zip(axes, rows.items()):
        weights, keys = (x.tolist() for x in row.topk(top))
        ax.barh(range(top), weights, color=LETTERS["p"])
        places = [f"{key - query:+d}" if key != query else "itself" for key in keys]
        names = [f"{words[key]}  {place}" for key, place in zip(keys, places)]
        ax.set_yticks(range(top), [name.replace("-", "−") for name in names])
        ax.set(title=title, ylim=(top - 0.5, -0.5), xlim=(0, 1), xticks=(0, 0.5, 1))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    axes[0].figure.supxlabel("weight", fontsize=12)
    return axes


def draw_weight_maps(maps: dict[str, Tensor], words: list[str], axes=None):
    """Square pieces (n, n) of weight matrices, a panel each, queries down, keys across.

    One scale of colours for all, from white, of powers 0.4, so that small weights can be
    told from none; NaN is a key that is hidden.
    """
    purple = LinearSegmentedColormap.from_list("weights", ["white", LETTERS["p"], "black"])
    if axes is None:
        axes = _subplots(1, len(maps), sharey=True, squeeze=False)[1][0]
    for ax, (title, weights) in zip(axes, maps.items()):
        ax.patch.set(facecolor="#dddddd", edgecolor="#999999", hatch="///")
        image = ax.imshow(weights.numpy(), cmap=purple, norm=PowerNorm(0.4, 0, 1))
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=11)
        ax.set_yticks(range(len(words)), words, fontsize=11)
        ax.set_title(title)
        ax.grid(visible=False)
        ax.tick_params(length=0)
    bar = axes[0].figure.colorbar(image, ax=list(axes), shrink=0.9, ticks=(0, 0.01, 0.1, 0.5, 1))
    bar.ax.set_yticklabels(["0", ".01", ".1", ".5", "1"])
    bar.set_label("weight")
    return axes


def draw_growth(laws: dict[str, list], measured: list, cards: dict[str, int], ax=None):
    """Bytes over N: curves of (N, bytes), measured points, cards as horizontal lines.

    A triangle on the first curve shows its slope on these axes.
    """
    ax = ax or _subplots()[1]
    for (name, curve), line in zip(laws.items(), ("-", "--", ":")):
        ax.plot(*zip(*curve), color=S, linestyle=line)
        _note(ax, name, curve[-1], (8, 0), color=LETTERS["p"])
    ax.plot(*zip(*measured), color=S, linestyle="", marker="s")
    _note(ax, "measured", measured[len(measured) // 4], (-8, 8), ha="right", color=LETTERS["p"])
    for name, size in cards.items():
        ax.axhline(size, color=GREY, linestyle="--", linewidth=1)
        _note(ax, name, (0, size), (6, 9), xycoords=("axes fraction", "data"), color=GREY)
    (N, low), (twice, high) = next(iter(laws.values()))[2:4]
    ax.plot((N, twice, twice), (low, low, high), color="black", linewidth=1)
    _note(ax, f"× {twice / N:.2g}", ((N * twice) ** 0.5, low), (0, -10), ha="center")
    _note(ax, f"× {high / low:.2g}", (twice, (low * high) ** 0.5), (5, 0))
    ax.set(xscale="log", yscale="log", xlabel="sequence length N", ylabel="peak memory")
    powers = range(24, 40, 4)
    ax.set_yticks([2**n for n in powers], ["16 MiB", "256 MiB", "4 GiB", "64 GiB"])
    _token_axis(ax, [{"N": N} for N, _ in next(iter(laws.values()))])
    return ax


def _bands(timeline: Timeline, names: dict) -> dict[str, np.ndarray]:
    """MiB alive after each event, by the band that the tensor's name belongs to."""
    bands, born, alive = {}, Counter(), defaultdict(list)
    for n, event in enumerate(timeline.events):
        start = next((start for start in names if event.name.startswith(start)), None)
        name = names.get(start, "rest")
        if not isinstance(name, str):  # one band each; of several alive the youngest dies first
            if event.size > 0:
                alive[start].append(name[born[start]])
                born[start] += 1
            name = alive[start][-1] if event.size > 0 else alive[start].pop()
        bands.setdefault(name, np.zeros(len(timeline.events) + 1))[n:] += event.size / MIB
    return bands


def _middle(bottom: np.ndarray, height: np.ndarray) -> float:
    """Where a band has its label: the middle of the longest stretch at its full
    height on one level."""
    full = np.flatnonzero(np.isclose(height, height.max()))
    full = full[full < len(height) - 1]  # the last entry ends the picture
    breaks = (np.diff(full) > 1) | (np.diff(bottom[full]) != 0)
    stretch = max(np.split(full, np.flatnonzero(breaks) + 1), key=len)
    return (stretch[0] + stretch[-1] + 1) / 2


def _subplots(*shape, **options):
    return plt.subplots(*shape, figsize=(8, 3.5), layout="constrained", **options)


def _by_core(rows):
    for core in STYLE:
        curve = [r for r in rows if r["core"] == core]
        if any(r.get("measured") or r.get("ms") or r.get("error") for r in curve):
            yield core, curve


def _label_ends(ax, ends: dict, names=LABEL) -> None:
    """Each core's name at the end of its curve, pushed apart where ends meet."""
    ax.figure.draw_without_rendering()  # positions are known from here on
    heights = {core: ax.transData.transform(end)[1] for core, end in ends.items()}
    above, gap = -1e9, 17 * ax.figure.dpi / 72
    for core in sorted(ends, key=heights.get):
        above = max(heights[core], above + gap)
        points = (above - heights[core]) * 72 / ax.figure.dpi
        _note(ax, names[core], ends[core], (10, points), color=STYLE[core]["color"])


def _note(ax, text, xy, offset, **style) -> None:
    style = {"va": "center", "annotation_clip": False} | style
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    ax.annotate(text, xy, offset, textcoords="offset points", bbox=box, **style)


def _token_axis(ax, rows):
    Ns = sorted({r["N"] for r in rows})
    ax.set_xticks(Ns, [f"{N // 1024}k" for N in Ns])
    ax.minorticks_off()
    ax.set_xlim(right=Ns[-1] * 4.5)  # room for the labels on the curves
