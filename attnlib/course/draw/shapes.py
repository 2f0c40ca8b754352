"""One vocabulary of shapes, drawn twice: as SVG, quick enough for a live page, and by
matplotlib for the PNG that stands in for it.

A picture is a list of shapes, the later over the earlier, places and sizes in pixels
from the upper left corner:

1. `Area`    a closed outline, filled; `box` and `arrow` make two frequent ones.
2. `Path`    an open line.
3. `Text`    words on a baseline.

How an area or a path looks is a `Look`; a picture gives its looks names. Neighbours
of one look become one path of the SVG: a picture of many cells is quick if it lists
them look by look.
"""

from collections.abc import Iterable
from html import escape
from itertools import groupby
from math import hypot
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from attnlib.course.draw.style import GREY

FONT = 16  # pixels: 12 pt on a page
DPI = 110
# A hatch's name: its strokes in a square of 8 pixels, and what matplotlib calls it.
HATCHES = {
    "rising": ("M-2 2l4-4M0 8l8-8M6 10l4-4", "////"),
    "falling": ("M-2 6l4 4M0 0l8 8M6-2l4 4", "\\\\\\\\"),
    "dots": ("M3 3h2v2h-2z", "..."),
}


class Look(NamedTuple):
    fill: str = "none"
    edge: str = "none"
    width: float = 1  # of the edge
    hatch: str = ""  # one of HATCHES, over the fill
    ink: str = GREY  # the hatch's colour
    dashed: bool = False


class Area(NamedTuple):
    corners: list[tuple[float, float]]
    look: Look


class Path(NamedTuple):
    points: list[tuple[float, float]]
    look: Look


class Text(NamedTuple):
    x: float
    y: float  # of the baseline
    words: str
    anchor: str = "start"  # or "middle", "end"
    color: str = "black"
    bold: bool = False
    size: float = FONT


Shape = Area | Path | Text


def box(x: float, y: float, width: float, height: float, look: Look) -> Area:
    """A rectangle by its upper left corner."""
    return Area([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], look)


def arrow(start, end, width: float, look: Look) -> Area:
    """A straight road of that width from point to point, its head twice as wide."""
    (x, y), (X, Y) = start, end
    length = hypot(X - x, Y - y)
    u, v = (X - x) / length, (Y - y) / length  # along it; (-v, u) is across
    neck = length - min(width, length / 2) - 3
    outline = [(0, 0.5), (neck, 0.5), (neck, 1), (length, 0)]
    outline += [(along, -across) for along, across in reversed(outline)]
    shifts = [(along, width * across) for along, across in outline]
    return Area([(x + u * a - v * b, y + v * a + u * b) for a, b in shifts], look)


def svg(shapes: Iterable[Shape], size: tuple[float, float], text: str, name: str) -> str:
    """Shapes as inline SVG; `text` says it to screen readers, and `name`, alone of its
    kind on the page, keeps its hatches apart from those of other pictures."""
    parts, hatched = [], {}
    for (kind, look), group in _alike(shapes):
        if kind is Text:
            parts += map(_svg_text, group)
            continue
        if look.hatch:
            hatched.setdefault(look, f"{name}-{len(hatched)}")
        end = "Z" if kind is Area else ""
        d = "".join([f"M{'L'.join([f'{x:.1f} {y:.1f}' for x, y in s[0]])}{end}" for s in group])
        parts.append(f'<path d="{d}"{_svg_look(look, hatched)}/>')
    patterns = "".join(_svg_pattern(look, key) for look, key in hatched.items())
    head = f'role="img" aria-label="{escape(text)}" width="{size[0]:.0f}" height="{size[1]:.0f}"'
    body = patterns + "".join(parts)
    return f"<svg {head} font-size='{FONT}' font-family='sans-serif'>{body}</svg>"


def figure(shapes: Iterable[Shape], size: tuple[float, float]) -> Figure:
    """The same shapes as a matplotlib figure of that size at DPI dots an inch."""
    drawn = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    ax = drawn.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
    ax.set_axis_off()
    for (kind, look), group in _alike(shapes):
        if kind is Text:
            for shape in group:
                _write(ax, shape)
        else:
            _paint(ax, [_outline(s[0], kind is Area) for s in group], look)
    return drawn


def _alike(shapes):
    """Neighbours of one kind and look, together."""
    return groupby(shapes, lambda s: (type(s), None if type(s) is Text else s.look))


def _svg_text(t: Text) -> str:
    style = ' font-weight="bold"' if t.bold else ""
    style += f' font-size="{t.size:g}"' if t.size != FONT else ""
    style += f' text-anchor="{t.anchor}"' if t.anchor != "start" else ""
    style += f' fill="{t.color}"' if t.color != "black" else ""
    return f'<text x="{t.x:.1f}" y="{t.y:.1f}"{style}>{escape(t.words)}</text>'


def _svg_look(look: Look, hatched: dict[Look, str]) -> str:
    style = f' fill="{f"url(#{hatched[look]})" if look.hatch else look.fill}"'
    if look.edge != "none":
        style += f' stroke="{look.edge}"'
        style += f' stroke-width="{look.width:g}"' if look.width != 1 else ""
        style += ' stroke-dasharray="3 3"' if look.dashed else ""
    return style


def _svg_pattern(look: Look, key: str) -> str:
    under = f'<rect width="8" height="8" fill="{look.fill}"/>' if look.fill != "none" else ""
    strokes = f'<path d="{HATCHES[look.hatch][0]}" stroke="{look.ink}" fill="none"/>'
    attributes = f'id="{key}" width="8" height="8" patternUnits="userSpaceOnUse"'
    return f"<pattern {attributes}>{under}{strokes}</pattern>"


def _outline(points, closed: bool) -> Outline:
    return Outline([*points, points[0]] if closed else points, closed=closed)


def _paint(ax, outlines, look: Look) -> None:
    outline = Outline.make_compound_path(*outlines)
    style = {"facecolor": look.fill, "linewidth": 0}
    if look.hatch:
        style |= {"hatch": HATCHES[look.hatch][1], "edgecolor": look.ink}
    if look.fill != "none" or look.hatch:
        ax.add_patch(PathPatch(outline, **style))
    if look.edge != "none":
        line = {"linewidth": look.width * 72 / DPI, "linestyle": ":" if look.dashed else "-"}
        ax.add_patch(PathPatch(outline, facecolor="none", edgecolor=look.edge, **line))


def _write(ax, t: Text) -> None:
    anchor = {"start": "left", "middle": "center", "end": "right"}[t.anchor]
    style = {"color": t.color, "weight": "bold" if t.bold else "normal"}
    ax.text(t.x, t.y, t.words, ha=anchor, fontsize=t.size * 72 / DPI, **style)
