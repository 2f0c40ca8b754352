"""draw_* functions: data in, picture out. `draw_all` redraws figures/.

One colour, one role: standard attention has the colour of the scores it keeps,
the flash core that of its state (m, l), torch's SDPA is grey.
"""

from math import ceil, floor, log10
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from attnlib.course import runs
from attnlib.memory import Timeline

FIGURES = Path(__file__).parents[2] / "figures"
Q, K, V, S, ML, O = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
GREY = "#666666"
MIB = 2**20
LETTERS = {"q": Q, "k": K, "v": V, "s": S, "p": "#A34F83", "m": ML, "l": ML, "o": O}
STYLE = {
    "standard": {"color": S, "marker": "s", "linestyle": "-"},
    "flash": {"color": ML, "marker": "o", "linestyle": "-"},
    "compiled": {"color": "#7A3000", "marker": "D", "linestyle": "-."},
    "SDPA": {"color": GREY, "marker": "^", "linestyle": "--"},
}
LABEL = {
    "standard": "StdAttentionCord",
    "flash": "FlashAttentionCore",
    "compiled": "compiled step",
    "SDPA": "torch SDPA",
}
RC = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "attnlib",
    "savefig.dpi": 110,
}


def use_style() -> None:
    """The course's look for every figure drawn from now on."""
    plt.rcParams.update(RC)


def draw_peak_memory(rows: list[dict], ax=None):
    """Peak memory over N, a curve a core; rows of one dtype and mode.

    A peak that is predicted but did not fit is a cross at its height.
    """
    ax = ax or _subplots()[1]
    ends = {}
    for core, curve in _by_core(rows):
        fitted = [(r["N"], r["measured"] / 2**20) for r in curve if r.get("measured")]
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
    _label_ends(ax, ends)
    return ax


def draw_time(rows: list[dict], ax=None):
    """Time over N, a curve a core; rows of one dtype and mode."""
    ax = ax or _subplots()[1]
    ends = {}
    for core, curve in _by_core(rows):
        points = [(r["N"], r["ms"]) for r in curve if r.get("ms")]
        ax.plot(*zip(*points), **STYLE[core])
        ends[core] = points[-1]
    ax.set(xscale="log", yscale="log", xlabel="sequence length N", ylabel="time, ms")
    _token_axis(ax, rows)
    _label_ends(ax, ends)
    return ax


def draw_block_sizes(rows: list[dict], axes=None):
    """Time, and peak memory, of the flash core over its block size, at one N."""
    if axes is None:
        axes = _subplots(1, 2)[1]
    flash = [(int(r["core"].split()[1]), r) for r in rows if r["core"].startswith("flash")]
    peers = [r for r in rows if not r["core"].startswith("flash")]
    for ax, key, unit, scale in (
        (axes[0], "ms", "time, ms", 1),
        (axes[1], "measured", "peak memory, MiB", 2**20),
    ):
        points = [(block, r[key] / scale) for block, r in flash if r.get(key)]
        ax.plot(*zip(*points), **STYLE["flash"])
        ends = {"flash": points[-1]}
        for r in peers:
            if r.get(key):
                core = r["core"].split()[0]
                ax.axhline(r[key] / scale, **{**STYLE[core], "marker": None})
                ends[core] = (points[-1][0], r[key] / scale)
        ax.set(xscale="log", yscale="log", xlabel="block size", ylabel=unit)
        ax.set_xticks([b for b, _ in points[::2]], [str(b) for b, _ in points[::2]])
        ax.minorticks_off()
        ax.set_xlim(right=points[-1][0] * 80)  # room for the labels
        _label_ends(ax, ends, {core: core for core in STYLE})
    return axes


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


def draw_sorted_weights(weights: dict[str, Tensor], title: str) -> Figure:
    """Softmax weights (N,) of one query, the largest first, a curve a name."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ax = figure.subplots()
    for (name, p), line in zip(weights.items(), ("-", "--", ":")):
        p, N = p.sort(descending=True).values, len(p)
        color = LETTERS["p"] if line == "-" else GREY
        ax.plot(range(1, N + 1), p, line, color=color, linewidth=2.5)
        end = int((p > 3e-5).sum())
        _note(ax, name, (end, p[end - 1].item()), (8, 0), color=color)
    ax.axhline(1 / N, color=GREY, linewidth=0.8)
    _note(ax, f"1/{N}: all keys alike", (2, 1 / N), (0, -12))
    ax.set(xscale="log", yscale="log", ylim=(2e-5, 2), xlim=(0.9, 3 * N), title=title)
    ax.set(xlabel="key, by the rank of its weight", ylabel="weight")
    ticks = [x for x in (1, 10, 100, 1000) if x < N] + [N]
    ax.set_xticks(ticks, [str(x) for x in ticks])
    return figure


def draw_errors(rows: list[dict], axes=None):
    """Error of both cores against float64: a panel a dtype, a line an input."""
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    inputs = list(dict.fromkeys(r["input"] for r in rows))
    if axes is None:
        axes = _subplots(1, len(dtypes), sharey=True)[1]
    for ax, dtype in zip(axes, dtypes):
        panel = [r for r in rows if r["dtype"] == dtype and r.get("error")]
        for core, curve in _by_core(panel):
            points = [(r["error"], inputs.index(r["input"])) for r in curve]
            style = {**STYLE[core], "linestyle": ""}
            ax.plot(*zip(*points), label=LABEL[core], markersize=9, alpha=0.85, **style)
        low, high = (f(r["error"] for r in panel) for f in (min, max))
        ax.set(xscale="log", title=dtype, ylim=(len(inputs) - 0.5, -0.5))
        ax.set_xlim(10 ** floor(log10(low)), 10 ** ceil(log10(high)))
        ax.set_yticks(range(len(inputs)), inputs)
        ax.minorticks_off()
    axes[len(dtypes) // 2].set_xlabel("relative error against float64")
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    return axes


def draw_timelines(timelines: dict[str, Timeline], names: dict[str, str], axes=None):
    """Bytes alive in the course of a call: a panel a call, all at one scale.

    `names` maps the start of an event's name ("bmm (8, 512, 512)") to the band that
    its tensor joins; a band takes the colour of its first letter. The rest is grey.
    """
    if axes is None:
        axes = _subplots(1, len(timelines), sharey=True, squeeze=False)[1][0]
    highest = max(timeline.peak for timeline in timelines.values()) / MIB
    for ax, (title, timeline) in zip(axes, timelines.items()):
        bands = _bands(timeline, names)
        colors = [LETTERS.get(name[0], GREY) for name in bands]
        steps = range(len(timeline.events) + 1)
        ax.stackplot(steps, *bands.values(), colors=colors, step="post", linewidth=0)
        peak = timeline.peak / MIB
        ax.hlines(peak, 0, steps[-1], "black", ":", linewidth=1)
        _note(ax, f"peak {peak:,.1f} MiB", (steps[-1] / 2, peak), (0, 9), ha="center")
        bottom = np.zeros(len(steps))
        for name, height in bands.items():
            longest = np.flatnonzero(height == height.max())
            middle = longest[len(longest) // 2]
            at = middle + 0.5, bottom[middle] + height[middle] / 2
            if height[middle] > highest / 12:
                ax.annotate(name, at, ha="center", va="center", color="white", fontweight="bold")
            bottom += height
        ax.set(title=title, xlabel="allocations and frees, in order", xticks=[])
        ax.set(xlim=(0, steps[-1]), ylim=(0, 1.15 * highest))
    axes[0].set_ylabel("alive, MiB")
    return axes


def draw_all(folder: Path = FIGURES) -> list[Path]:
    """Draw every picture of figures/ from the recordings; the bytes are stable."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        return [_save(draw(), folder / f"{name}.svg") for name, draw in PICTURES.items()]


def _readme_picture() -> Figure:
    recording = runs.load()
    fig, ax = _subplots()
    memory = recording["memory"]
    rows = [r for r in memory if r["dtype"] == "float32" and r["mode"] == "forward"]
    draw_peak_memory(rows, ax)
    ax.set_title("Same answer, without the N × N matrix")
    where = recording["machine"]["device"]
    ax.set_xlabel(f"sequence length N   (8 heads of 64, float32; {where}, {recording['date']})")
    return fig


PICTURES = {"peak_memory": _readme_picture}


def _bands(timeline: Timeline, names: dict[str, str]) -> dict[str, np.ndarray]:
    """MiB alive after each event, by the band that the tensor's name belongs to."""
    bands = {}
    for n, event in enumerate(timeline.events):
        name = next((name for start, name in names.items() if event.name.startswith(start)), "rest")
        bands.setdefault(name, np.zeros(len(timeline.events) + 1))[n:] += event.size / MIB
    return bands


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path


def _subplots(*shape, **options):
    return plt.subplots(*shape, figsize=(8, 3.5), layout="constrained", **options)


def _by_core(rows):
    for core in STYLE:
        curve = [r for r in rows if r["core"].split()[0] == core]
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
