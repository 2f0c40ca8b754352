"""What travels: the law and where it bends; a machine's roof and programs beneath it. Lesson 11."""

from matplotlib.figure import Figure

from attnlib.course.draw.style import GREY, LABEL, ML, STYLE
from attnlib.roofline import Roof


def draw_roof(roof: Roof, rows: list[dict], title: str) -> Figure:
    """TFLOP/s over operations a byte: the roof, and below it the core of each row.

    `intensity` is where it stands, `does` what was measured: a full mark, and a hollow one
    where the roof would let it. Where a cache serves a part of the bytes there is `most`
    instead, the intensity if it served all it can: an arrow.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    ax = figure.subplots()
    rows = sorted(rows, key=lambda row: row["intensity"])
    low, high = rows[0]["intensity"] / 2.5, 12 * max(roof.ridge, rows[-1]["intensity"])
    edges = [low, roof.ridge, high]
    heights, floor = [roof.at(x) / 1e12 for x in edges], min(r["does"] for r in rows) / 2.5
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, 2.4 * heights[1]))
    ax.fill_between(edges, heights, 1e6, color=GREY, alpha=0.12)
    ax.plot(edges, heights, color="black", linewidth=2.5)
    ax.plot([roof.ridge] * 2, [floor, heights[1]], color=GREY, linestyle=":")
    for row, after in zip(rows, [*rows[1:], None]):
        crowded = after and after["intensity"] < 1.6 * row["intensity"]
        _draw_rung(ax, row, roof.at(row["intensity"]) / 1e12, crowded)
    ax.set(xlabel="operations for each byte carried", ylabel="TFLOP/s")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    start = (low**2 * roof.ridge) ** (1 / 3)
    ax.text(start, 1.3 * roof.at(start) / 1e12, "limit of the road", ha="right", va="bottom")
    top = f"limit of arithmetic, {heights[1]:.3g}"
    ax.text(high / 1.1, 1.15 * heights[1], top, ha="right", va="bottom")
    ax.text(roof.ridge * 1.08, floor * 1.25, f"ridge: {roof.ridge:.3g}", color=GREY)
    ax.set_title(title)
    return figure


def _draw_rung(ax, row: dict, allowed: float, crowded: bool) -> None:
    style, x, y = (
        STYLE[row["core"]] | {"linestyle": "", "markersize": 9},
        row["intensity"],
        row["does"],
    )
    if row.get("most"):
        arrow = {"arrowstyle": "->", "color": style["color"], "linewidth": 1.5}
        end = min(row["most"], ax.get_xlim()[1] / 1.2)
        ax.annotate("", (end, y), (x, y), arrowprops=arrow)
    else:
        ax.plot([x, x], [y, allowed], color=style["color"])
        ax.plot(x, allowed, **style, fillstyle="none")
    ax.plot(x, y, **style)
    offset = 12, -20 if crowded or row.get("most") else -4
    look = {"textcoords": "offset points", "color": style["color"], "fontweight": "bold"}
    ax.annotate(f"{LABEL[row['core']]}: {y:.0f}", (x, y), offset, **look)


def draw_bends(panels: dict[str, tuple[list, list, list]], title: str) -> Figure:
    """Bytes over a size, a panel for each, named by what is on its axis: sizes, what the
    largest square tile carries, and what the law says."""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, (sizes, square, law)) in zip(axes, panels.items()):
        ax.plot(sizes, [x / 1e6 for x in law], color=GREY, linestyle="--")
        ax.plot(sizes, [x / 1e6 for x in square], color=ML, marker="o")
        ax.set(xscale="log", yscale="log", xlabel=name)
        ticks = sizes if sizes[-1] < 1024 else sizes[::2]
        ax.set_xticks(ticks, [f"{x // 1024}k" if x >= 1024 else str(x) for x in ticks])
        ax.minorticks_off()
        ax.yaxis.set_major_formatter("{x:g}")
    middle, at = len(axes[0].lines[1].get_xdata()) // 2, {"textcoords": "offset points"}
    for line, words, offset in (
        (1, "largest square tile", (2, 12)),
        (0, "M / 4d queries", (-105, -28)),
    ):
        x, y = (z[middle] for z in axes[0].lines[line].get_data())
        axes[0].annotate(words, (x, y), offset, color=axes[0].lines[line].get_color(), **at)
    axes[0].set(ylabel="MB of k and v")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure
