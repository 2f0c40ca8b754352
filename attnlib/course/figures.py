"""draw_* functions: data in, picture out. `draw_all` redraws figures/.

One colour, one role: standard attention has the colour of the scores it keeps,
the flash core that of its state (m, l), torch's SDPA is grey.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from attnlib.course import runs

FIGURES = Path(__file__).parents[2] / "figures"
Q, K, V, S, ML, O = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
GREY = "#666666"
STYLE = {
    "standard": {"color": S, "marker": "s", "linestyle": "-"},
    "flash": {"color": ML, "marker": "o", "linestyle": "-"},
    "SDPA": {"color": GREY, "marker": "^", "linestyle": "--"},
}
LABEL = {
    "standard": "StdAttentionCord",
    "flash": "FlashAttentionCore",
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
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "attnlib",
    "savefig.dpi": 110,
}


def use_style() -> None:
    """The course's look for every figure drawn from now on."""
    plt.rcParams.update(RC)


def draw_peak_memory(rows: list[dict], ax=None):
    """Peak memory over N, a curve a core; rows of one dtype and mode.

    A peak that is predicted but did not fit is an open marker at its height.
    """
    ax = ax or plt.subplots(figsize=(8, 3.5))[1]
    for core, curve in _by_core(rows):
        fitted = [(r["N"], r["measured"] / 2**20) for r in curve if r.get("measured")]
        ax.plot(*zip(*fitted), **STYLE[core])
        end = fitted[-1]
        lost = [r for r in curve if r.get("problem") == "out of memory" and r["predicted"]]
        if lost:
            end = (lost[0]["N"], lost[0]["predicted"] / 2**20)
            ax.plot(*zip(fitted[-1], end), color=STYLE[core]["color"], linestyle=":")
            ax.plot(
                *end,
                color=STYLE[core]["color"],
                marker="X",
                markersize=10,
                markerfacecolor="white",
            )
            ax.annotate(
                "out of memory",
                end,
                (-12, 0),
                textcoords="offset points",
                ha="right",
                va="center",
            )
        _label(ax, end, core)
    ax.set(xscale="log", yscale="log", xlabel="sequence length N", ylabel="peak memory, MiB")
    _token_axis(ax, rows)
    return ax


def draw_time(rows: list[dict], ax=None):
    """Time over N, a curve a core; rows of one dtype and mode."""
    ax = ax or plt.subplots(figsize=(8, 3.5))[1]
    for core, curve in _by_core(rows):
        points = [(r["N"], r["ms"]) for r in curve if r.get("ms")]
        ax.plot(*zip(*points), **STYLE[core])
        _label(ax, points[-1], core)
    ax.set(xscale="log", yscale="log", xlabel="sequence length N", ylabel="time, ms")
    _token_axis(ax, rows)
    return ax


def draw_block_sizes(rows: list[dict], axes=None):
    """Time, and peak memory, of the flash core over its block size, at one N."""
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(8, 3.5))[1]
    flash = [(int(r["core"].split()[1]), r) for r in rows if r["core"].startswith("flash")]
    for ax, key, unit, scale in (
        (axes[0], "ms", "time, ms", 1),
        (axes[1], "measured", "peak memory, MiB", 2**20),
    ):
        points = [(block, r[key] / scale) for block, r in flash if r.get(key)]
        ax.plot(*zip(*points), **STYLE["flash"])
        for r in rows:
            core = r["core"].split()[0]
            if core != "flash" and r.get(key):
                line = {**STYLE[core], "marker": None}
                ax.axhline(r[key] / scale, **line)
                ax.annotate(
                    LABEL[core],
                    (points[0][0], r[key] / scale),
                    (0, 4),
                    textcoords="offset points",
                    color=line["color"],
                )
        ax.set(xscale="log", yscale="log", xlabel="block size", ylabel=unit)
        ax.set_xticks([b for b, _ in points], [str(b) for b, _ in points], fontsize=11)
        ax.minorticks_off()
    return axes


def draw_errors(rows: list[dict], axes=None):
    """Error of both cores against float64: a panel a dtype, a line an input."""
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    inputs = list(dict.fromkeys(r["input"] for r in rows))
    if axes is None:
        axes = plt.subplots(1, len(dtypes), figsize=(8, 3.5), sharey=True)[1]
    for ax, dtype in zip(axes, dtypes):
        for core in STYLE:
            points = [
                (r["error"], inputs.index(r["input"]))
                for r in rows
                if r["dtype"] == dtype and r["core"].split()[0] == core and r.get("error")
            ]
            style = {**STYLE[core], "linestyle": ""}
            ax.plot(*zip(*points), label=LABEL[core], markersize=9, alpha=0.85, **style)
        ax.set(xscale="log", title=dtype, ylim=(len(inputs) - 0.5, -0.5))
        ax.set_yticks(range(len(inputs)), inputs)
        ax.minorticks_off()
    axes[len(dtypes) // 2].set_xlabel("relative error against float64")
    axes[0].figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3
    )
    return axes


def draw_all(folder: Path = FIGURES) -> list[Path]:
    """Draw every picture of figures/ from the recordings; the bytes are stable."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        return [_save(draw(), folder / f"{name}.svg") for name, draw in PICTURES.items()]


def _readme_picture() -> Figure:
    recording = runs.load()
    fig, ax = plt.subplots(figsize=(8, 3.5))
    rows = [
        r for r in recording["memory"] if r["dtype"] == "float32" and r["mode"] == "forward"
    ]
    draw_peak_memory(rows, ax)
    ax.set_title("Same answer, without the N × N matrix")
    where = recording["machine"]["device"]
    ax.set_xlabel(f"sequence length N   (8 heads of 64, float32; {where}, {recording['date']})")
    return fig


PICTURES = {"peak_memory": _readme_picture}


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path


def _by_core(rows):
    for core in STYLE:
        curve = [r for r in rows if r["core"].split()[0] == core]
        if any(r.get("measured") or r.get("ms") for r in curve):
            yield core, curve


def _label(ax, end, core):
    ax.annotate(
        LABEL[core],
        end,
        (10, 0),
        textcoords="offset points",
        va="center",
        color=STYLE[core]["color"],
        annotation_clip=False,
    )


def _token_axis(ax, rows):
    Ns = sorted({r["N"] for r in rows})
    ax.set_xticks(Ns, [f"{N // 1024}k" for N in Ns])
    ax.minorticks_off()
    ax.set_xlim(right=Ns[-1] * 4.5)  # room for the labels on the curves
