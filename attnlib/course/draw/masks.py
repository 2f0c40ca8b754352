"""Masks as pictures: what a query may see, and which tiles that computes."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from attnlib.course.draw import shapes
from attnlib.course.draw.shapes import FONT, Look, Path, Shape, Text, box
from attnlib.course.draw.style import ML, S, styled
from attnlib.masks import Tile

SIZE = 880, 385  # pixels
KINDS = ("full", "partial", "hidden", "padded", "skipped")
SIGN = {"full": "●", "partial": "◐", "skipped": "×"}
LOOK = {
    "full": Look(S),
    "partial": Look("#EBCBDD"),
    "hidden": Look("#cccccc", hatch="rising", ink="#606060"),
    "padded": Look("#cccccc", hatch="dots", ink="#404040"),
    "skipped": Look("white", hatch="falling", ink="#d9d9d9"),
    "blind": Look(ML),
}
CELL, TILE = Look(edge="white"), Look(edge="black")
BASE = 0.36 * FONT  # from the middle of a word down to its baseline


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


def draw_mask(view: MaskView) -> list[Shape]:
    """A grid, and beside it what its looks mean."""
    return [*_grid(view, 85, 32, 400, SIZE[1] - 44), *_explain(view)]


@styled
def draw_masks(views: dict[str, MaskView], title: str) -> Figure:
    """Masks side by side, each under its name."""
    drawn, width = [Text(8, 22, title, size=19)], SIZE[0] / len(views)
    for n, (name, view) in enumerate(views.items()):
        left = n * width + 85
        drawn.append(Text(left, 50, name))
        drawn += _grid(view, left, 82, width - 100, SIZE[1] - 94)
    bottom = max(y for shape in drawn if type(shape) is not Text for _, y in shape[0])
    return shapes.figure(drawn, (SIZE[0], bottom + 10))


def _explain(view: MaskView) -> Iterator[Shape]:
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
        y = 88 + 38 * n
        yield from (box(530, y - 12, 24, 24, x) for x in (LOOK[look], TILE))
        yield Text(542, y + BASE, SIGN.get(look, ""), "middle")
        yield Text(566, y + BASE, text)
    yield Text(530, 48, f"{100 * view.saved:.0f} % of the scores are skipped", bold=True)


def _grid(view: MaskView, left, top, width, height) -> Iterator[Shape]:
    """Cells in runs of one kind, tiles with borders and signs, keys across, queries down."""
    Nq, Nk = view.see.shape
    c = min(width / max(Nk, 1), height / Nq, 48)  # one cell's side
    right, bottom = left + c * Nk, top + c * Nq
    cells = {kind: [] for kind in KINDS}
    for i, row in enumerate(view.kinds()):
        start = 0
        for kind, run in groupby(row):
            n = len(list(run))
            cells[kind].append(box(left + c * start, top + c * i, c * n, c, LOOK[kind]))
            start += n
    yield from (cell for kind in KINDS for cell in cells[kind])
    yield from (Path([(left + c * j, top), (left + c * j, bottom)], CELL) for j in range(Nk))
    yield from (Path([(left, top + c * i), (right, top + c * i)], CELL) for i in range(Nq))
    yield from _tiles(view, left, top, c)
    yield box(left, top, c * Nk, c * Nq, TILE)
    yield from (box(left - 9, top + c * i, 6, c, LOOK["blind"]) for i in view.blind)
    yield Text(left - 14, top + c / 2 + BASE, "query 0", "end")
    for i in range(1, Nq):
        if c >= 1.2 * FONT or (i == Nq - 1 and c * i >= FONT):  # all rows, or the last one
            yield Text(left - 14, top + c * (i + 0.5) + BASE, f"{i}", "end")
    yield Text(left, top - 7, "key 0" if Nk else "no keys")
    if c * Nk >= 80:
        yield Text(right, top - 7, f"{Nk - 1}", "end")


def _tiles(view: MaskView, left, top, c) -> list[Shape]:
    borders, signs = [], []
    for kind, sign in SIGN.items():
        for rows, cols, _ in getattr(view, kind):
            x, y = left + c * cols.start, top + c * rows.start
            w, h = c * (cols.stop - cols.start), c * (rows.stop - rows.start)
            borders.append(box(x, y, w, h, TILE))
            if min(w, h) >= 24:
                signs.append(Text(x + w / 2, y + h / 2 + BASE, sign, "middle"))
    return borders + signs
