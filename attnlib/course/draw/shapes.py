"""A picture as a list of shapes, drawn twice: as SVG, quick enough for a live page,
and by matplotlib for the PNG that stands in for it. Places and sizes are in pixels.
"""

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure

from attnlib.course.draw.style import GREY

FONT = 16  # pixels: 12 pt on a page


class Area(NamedTuple):
    corners: list[tuple[float, float]]
    fill: str = "none"
    edge: str = "none"
    width: float = 1
    hatched: bool = False


class Text(NamedTuple):
    x: float
    y: float  # of the baseline
    words: str
    anchor: str = "start"  # or "middle", "end"
    color: str = "black"
    bold: bool = False


def box(x, y, width, height, *style) -> Area:
    """A rectangle by its upper left corner."""
    return Area([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], *style)


def svg(shapes: Iterable[Area | Text], size: tuple[int, int], text: str, name: str) -> str:
    """Shapes as inline SVG; `text` says it to screen readers, `name` is unique to it."""
    parts = [
        f'<pattern id="{name}" width="7" height="7" patternUnits="userSpaceOnUse">'
        f'<path d="M0 7L7 0" stroke="{GREY}" stroke-width="0.9"/></pattern>'
    ]
    for shape in shapes:
        if isinstance(shape, Text):
            weight = ' font-weight="bold"' if shape.bold else ""
            at = f'x="{shape.x:.0f}" y="{shape.y:.0f}" text-anchor="{shape.anchor}"'
            parts.append(f'<text {at} fill="{shape.color}"{weight}>{escape(shape.words)}</text>')
        else:
            d = "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.corners)
            edge = "" if shape.edge == "none" else f' stroke="{shape.edge}"'
            edge += f' stroke-width="{shape.width}"' if shape.width != 1 else ""
            fill = f"url(#{name})" if shape.hatched else shape.fill
            parts.append(f'<path d="M{d}Z" fill="{fill}"{edge}/>')
    head = f'role="img" aria-label="{escape(text)}" width="{size[0]}" height="{size[1]}"'
    return f"<svg {head} font-size='{FONT}' font-family='sans-serif'>{''.join(parts)}</svg>"


def figure(shapes: Iterable[Area | Text], size: tuple[int, int]) -> Figure:
    """The same shapes as a matplotlib figure."""
    drawn = Figure(figsize=(size[0] / 110, size[1] / 110), dpi=110)
    ax = drawn.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
    ax.set_axis_off()
    for shape in shapes:
        if isinstance(shape, Text):
            anchor = {"start": "left", "middle": "center", "end": "right"}[shape.anchor]
            style = {"color": shape.color, "weight": "bold" if shape.bold else "normal"}
            ax.text(shape.x, shape.y, shape.words, ha=anchor, fontsize=FONT * 72 / 115, **style)
        else:
            hatch = {"hatch": "////", "edgecolor": "#999999"} if shape.hatched else {}
            style = {"facecolor": shape.fill, "edgecolor": shape.edge, "linewidth": shape.width}
            ax.fill(*zip(*shape.corners), **style | hatch)
    return drawn
