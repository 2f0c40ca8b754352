"""The roof of a machine, and programs beneath it. Lesson 11."""

from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.figure import Figure

from attnlib.course.draw.style import GREY, STYLE
from attnlib.roofline import Roof


class Rung(NamedTuple):
    """A program beneath a roof: operations for each byte, and operations a second that
    were measured."""

    core: str
    name: str
    intensity: float
    measured: float


def draw_roof(roof: Roof, rungs: Iterable[Rung], title: str) -> Figure:
    """Operations a second over operations a byte: the roof, and each program below it, a
    full mark where it was measured, a hollow one where the roof would let it."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    ax = figure.subplots()
    rungs = sorted(rungs, key=lambda rung: rung.intensity)
    low, high = rungs[0].intensity / 2.5, 12 * max(roof.ridge, rungs[-1].intensity)
    edges = [low, roof.ridge, high]
    heights = [roof.at(x) / 1e12 for x in edges]
    ax.fill_between(edges, heights, 1e6, color=GREY, alpha=0.12)
    ax.plot(edges, heights, color="black", linewidth=2.5)
    ax.plot([roof.ridge] * 2, [0, heights[1]], color=GREY, linestyle=":")
    for n, rung in enumerate(rungs):
        crowded = n + 1 < len(rungs) and rungs[n + 1].intensity < 1.6 * rung.intensity
        _draw_rung(ax, roof, rung, -20 if crowded else -4)
    floor = min(rung.measured for rung in rungs) / 1e12 / 2.5
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, 2.4 * heights[1]))
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


def _draw_rung(ax, roof: Roof, rung: Rung, drop: float) -> None:
    style = STYLE[rung.core] | {"linestyle": "", "markersize": 9}
    x, measured, allowed = rung.intensity, rung.measured / 1e12, roof.at(rung.intensity) / 1e12
    ax.plot([x, x], [measured, allowed], color=style["color"])
    ax.plot(x, allowed, **style, fillstyle="none")
    ax.plot(x, measured, **style)
    place = {"textcoords": "offset points", "color": style["color"], "fontweight": "bold"}
    ax.annotate(f"{rung.name}: {measured:.0f}", (x, measured), (12, drop), **place)
