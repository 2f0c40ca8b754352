"""Masks as pictures: what a query may see, and which tiles that computes."""

from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attnlib.course.draw.style import ML, S, styled
from attnlib.masks import Tile

WIDTH, HEIGHT, FONT = 880, 385, 17  # pixels; a figure of 8 x 3.5 inches, and its 11 pt
KINDS = ("full", "partial", "hidden", "padded", "skipped")
SIGN = {"full": "●", "partial": "◐", "skipped": "×"}
# kind: fill, hatch's colour, hatch in a square of 8 pixels, the same for matplotlib
LOOK = {
    "full": (S, "none", "", ""),
    "partial": ("#EBCBDD", "none", "", ""),
    "hidden": ("#cccccc", "#606060", "M-2 2l4-4M0 8l8-8M6 10l4-4", "////"),
    "padded": ("#cccccc", "#404040", "M3 3h2v2h-2z", "..."),
    "skipped": ("white", "#d9d9d9", "M-2 6l4 4M0 0l8 8M6-2l4 4", "\\\\\\\\"),
    "blind": (ML, "none", "", ""),
    "cell": ("none", "white", "", ""),
    "tile": ("none", "black", "", ""),
}


class MaskView(NamedTuple):
    """Which keys each query sees, and what becomes of every tile."""

    see: Tensor  # (Nq, Nk) bool, padding included
    padded: Tensor  # (Nk,) bool
    full: list[Tile]
    partial: list[Tile]
    skipped: list[Tile]

    @property
    def saved(self) -> float:
        """The share of all scores that is never computed."""
        area = sum(
            (t.rows.stop - t.rows.start) * (t.cols.stop - t.cols.start) for t in self.skipped
        )
        return area / max(self.see.numel(), 1)

    @property
    def blind(self) -> list[int]:
        """The queries that see no key."""
        return (~self.see.any(-1)).nonzero().flatten().tolist()

    def kinds(self) -> list[list[str]]:
        """For every query and key, one of KINDS."""
        kinds = torch.where(self.see, 0, torch.where(self.padded, 3, 2))  # (Nq, Nk)
        for rows, cols, _ in self.partial:
            kinds[rows, cols].masked_fill_(self.see[rows, cols], 1)
        for rows, cols, _ in self.skipped:
            kinds[rows, cols] = 4
        return [[KINDS[code] for code in row] for row in kinds.tolist()]

    def describe(self) -> str:
        """All of it in a sentence."""
        (Nq, Nk), n = self.see.shape, {kind: len(getattr(self, kind)) for kind in SIGN}
        padded, but = "", ""
        if self.padded.any():
            padded, but = f", {int(self.padded.sum())} padded", " (but for padding)"
        return (
            f"{Nq} × {Nk}{padded}: {n['full']} full{but} + {n['partial']} partial tiles, "
            f"{n['skipped']} skipped, {100 * self.saved:.0f} % of the scores saved; "
            f"{name_blind(self.blind)}"
        )


def name_blind(queries: list[int]) -> str:
    """Such as "queries 0-2, 7 see nothing"."""
    if not queries:
        return "every query sees a key"
    runs = [list(run) for _, run in groupby(queries, lambda i: i - queries.index(i))]
    names = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"queries {names} see nothing" if len(queries) > 1 else f"query {names} sees nothing"


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    look: str


class Word(NamedTuple):
    x: float
    y: float  # of the middle
    text: str
    anchor: str = "left"  # or "center", "right"
    color: str = "black"


def svg_mask(view: MaskView) -> str:
    """A grid and its key as hand-made SVG, quick enough to follow a slider."""
    parts, words = dict.fromkeys(LOOK, ""), []
    anchors = {"left": "start", "center": "middle", "right": "end"}
    for s in _explained(view):
        if isinstance(s, Word):
            place = f'x="{s.x:.1f}" y="{s.y + 0.36 * FONT:.1f}" text-anchor="{anchors[s.anchor]}"'
            words.append(f'<text {place} fill="{s.color}">{escape(s.text)}</text>')
        else:
            parts[s.look] += f"M{s.x:.1f} {s.y:.1f}h{s.width:.1f}v{s.height:.1f}h-{s.width:.1f}z"
    paths = [f'<path d="{d}" {_svg_look(look)}/>' for look, d in parts.items()]
    head = f'role="img" aria-label="{escape(view.describe())}" width="{WIDTH}" height="{HEIGHT}"'
    body = "".join([_SVG_HATCHES, *paths, *words])
    return f"<svg {head} font-size='{FONT}' font-family='sans-serif'>{body}</svg>"


@styled
def draw_mask(view: MaskView, title: str = "") -> Figure:
    """The same picture as a figure."""
    return _figure(_explained(view, top=60 if title else 32), title)


@styled
def draw_masks(views: dict[str, MaskView], title: str) -> Figure:
    """Masks side by side, each under its name."""
    shapes, width = [], WIDTH / len(views)
    for n, (name, view) in enumerate(views.items()):
        left = n * width + 85
        shapes += _grid(view, left, 82, width - 100, HEIGHT - 94)
        shapes.append(Word(left, 44, name))
    return _figure(shapes, title)


def _explained(view: MaskView, top=32) -> Iterator[Box | Word]:
    """The grid, and beside it what its looks mean."""
    yield from _grid(view, 85, top, 400, HEIGHT - top - 12)
    said = {
        "full": f"{len(view.full)} full: no mask needed",
        "partial": f"{len(view.partial)} partial: a mask must hide some",
        "skipped": f"{len(view.skipped)} skipped: never computed",
        "hidden": "hidden, though computed",
    }
    if view.padded.any():
        said["full"] = f"{len(view.full)} full, but for padding"
        said["padded"] = "padded: hidden, never skipped"
    if view.blind:
        said["blind"] = name_blind(view.blind)
    for n, (look, text) in enumerate(said.items()):
        y = top + 12 + 38 * n
        yield from (Box(530, y - 12, 24, 24, look), Box(530, y - 12, 24, 24, "tile"))
        yield Word(542, y, SIGN.get(look, ""), "center")
        yield Word(566, y, text)
    yield Word(530, top + 28 + 38 * len(said), f"{100 * view.saved:.0f} % of the scores saved")


def _grid(view: MaskView, left, top, width, height) -> Iterator[Box | Word]:
    """Cells in runs of one kind, tiles with borders and signs, keys across, queries down."""
    Nq, Nk = view.see.shape
    c = min(width / max(Nk, 1), height / Nq, 48)  # one cell's side
    for i, row in enumerate(view.kinds()):
        start = 0
        for kind, run in groupby(row):
            n = len(list(run))
            yield Box(left + c * start, top + c * i, c * n, c, kind)
            start += n
    yield from (Box(left + c * j, top, c, c * Nq, "cell") for j in range(Nk))
    yield from (Box(left, top + c * i, c * Nk, c, "cell") for i in range(Nq))
    yield Box(left, top, c * Nk, c * Nq, "tile")
    for kind, sign in SIGN.items():
        for rows, cols, _ in getattr(view, kind):
            x, y = left + c * cols.start, top + c * rows.start
            w, h = c * (cols.stop - cols.start), c * (rows.stop - rows.start)
            yield Box(x, y, w, h, "tile")
            if min(w, h) >= 24:
                yield Word(x + w / 2, y + h / 2, sign, "center")
    for i in view.blind:
        yield Box(left - 9, top + c * i, 6, c, "blind")
    yield Word(left - 14, top + c / 2, "query 0", "right")
    if c * (Nq - 1) >= FONT:
        yield Word(left - 14, top + c * (Nq - 0.5), f"{Nq - 1}", "right")
    yield Word(left, top - 12, "key 0" if Nk else "no keys")
    if c * Nk >= 80:
        yield Word(left + c * Nk, top - 12, f"{Nk - 1}", "right")


def _figure(shapes: Iterable[Box | Word], title: str) -> Figure:
    shapes = list(shapes)
    height = max(s.y + getattr(s, "height", 0) for s in shapes) + 10
    figure = Figure(figsize=(WIDTH / 110, height / 110), dpi=110, layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.text(8, 16, title, fontsize=13, va="center")
    points = FONT * 72 / 110
    for s in shapes:
        if isinstance(s, Word):
            style = {"ha": s.anchor, "va": "center", "color": s.color, "fontsize": points}
            ax.text(s.x, s.y, s.text, **style)
        else:
            face, edge, _, hatch = LOOK[s.look]
            line = 0.8 if face == "none" else 0
            style = {"facecolor": face, "edgecolor": edge, "hatch": hatch, "linewidth": line}
            ax.add_patch(Rectangle((s.x, s.y), s.width, s.height, **style))
    return figure


def _svg_look(look: str) -> str:
    face, edge, hatch, _ = LOOK[look]
    if hatch:
        return f'fill="url(#attn-{look})"'
    return f'fill="{face}"' + f' stroke="{edge}"' * (face == "none")


_SVG_HATCHES = "".join(
    f'<pattern id="attn-{look}" width="8" height="8" patternUnits="userSpaceOnUse">'
    f'<rect width="8" height="8" fill="{face}"/><path d="{hatch}" stroke="{edge}"/></pattern>'
    for look, (face, edge, hatch, _) in LOOK.items()
    if hatch
)
