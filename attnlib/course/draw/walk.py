"""The tile walk as a picture: the grid of scores between q, k, v and o, and its bytes."""

from typing import NamedTuple

from attnlib import SoftmaxState
from attnlib.course.draw.shapes import Area, Look, Shape, Text, box
from attnlib.course.draw.style import GREY, ML, K, O, Q, S, V
from attnlib.masks import Tile


class Step(NamedTuple):
    """The walk at one tile of the grid, computed or passed over."""

    tile: Tile
    kind: str  # "full", "partial" or "skipped"
    alive: dict[str, int]  # bytes, where most are alive while the tile is computed
    loads: dict[str, int]  # bytes of q, k and v loaded so far
    stores: dict[str, int]  # bytes of o stored so far
    state: SoftmaxState  # of the followed row, after the tile: m (1, 1), l (1, 1), o (1, D)

    @property
    def moved(self) -> dict[str, int]:
        return self.loads | self.stores


class Walk(NamedTuple):
    """A walk and what its pictures need: whose row, which mask, and the bytes at the
    far end of the scales."""

    steps: list[Step]
    N: int
    row: int
    word: str  # the followed query
    reach: int | None  # how many keys a query sees, up to its own; None: all
    standard: tuple[int, int]  # standard attention's bytes: alive at its peak, moved in all

    def describe(self, n: int) -> str:
        """Step n (from 0) in a sentence."""
        step = self.steps[n]
        rows, cols = (f"{x.start} to {x.stop - 1}" for x in step.tile[:2])
        alive, moved = (kib(sum(sizes.values())) for sizes in (step.alive, step.moved))
        return (
            f"tile {n + 1} of {len(self.steps)}, {step.kind}: queries {rows}, keys {cols}; "
            f"alive {alive} KiB, moved {moved} KiB; {self.says(n)}"
        )

    def claim(self, n: int) -> str:
        """What to see at step n."""
        kind = self.steps[n].kind
        if kind == "skipped":
            return "Skipped: none of these queries may see one of these keys"
        if kind == "partial":
            return "The mask cuts through this tile: it is computed, then hidden in part"
        return "One tile of scores is alive, whatever N; the matrix never is"

    def says(self, n: int) -> str:
        """The followed row's m and l."""
        m, l, _ = self.steps[n].state
        return f"m = {m.item():.2f}, l = {l.item():.3f}".replace("-inf", "−∞")


SIZE = 880, 376  # pixels
LEFT, TOP, SIDE = 120, 82, 274  # of the grid
PANEL, BAR = 480, 388  # left edge and width of the panels beside it
PALE = {Q: "#cce3f0", K: "#faecd0", V: "#cceee3", S: "#f2dce9", O: "#ddf0fb"}
COLOR = dict(zip("qkvo", (Q, K, V, O))) | {"output": O, "score tile": S, "rest": ML}
WHITE, LINE = Look("white"), "#999999"
HIDDEN = Look(edge=GREY, hatch="rising")


def draw_step(walk: Walk, n: int) -> list[Shape]:
    """The grid between q, k, v and o on the left; bytes, loads and the row's state right."""
    return [
        Text(20, 20, walk.claim(n), bold=True),
        *_draw_grid(walk, n),
        *_draw_strips(walk, n),
        *_draw_bytes(walk, n),
        *_draw_row(walk, n),
    ]


def _draw_grid(walk, n):
    px = SIDE / walk.N
    for i, step in enumerate(walk.steps):
        fill = "white" if i > n or step.kind == "skipped" else PALE[S] if i < n else S
        yield _tile(step.tile, px, Look(fill, LINE))
    if walk.reach is not None:  # the hidden keys: right of the diagonal, left of the window
        w, right, bottom = px * walk.reach, LEFT + SIDE, TOP + SIDE
        after = [(LEFT, TOP), (right, TOP), (right, bottom)]
        before = [(LEFT, TOP + w), (LEFT, bottom), (right - w, bottom)]
        for corners in (after, before) if w < SIDE else (after,):
            yield Area(corners, HIDDEN)
    for i, step in enumerate(walk.steps[: n + 1]):
        (rows, cols, _), skipped = step.tile, step.kind == "skipped"
        if i < n or skipped:
            x, y = LEFT + px * (cols.start + cols.stop) / 2, TOP + px * (rows.start + rows.stop) / 2
            half = 21 if skipped else 10
            yield box(x - half, y - 10, 2 * half, 19, WHITE if skipped else Look(PALE[S]))
            yield Text(x, y + 6, "skip" if skipped else "✓", "middle", GREY)
    yield _tile(walk.steps[n].tile, px, Look(edge="black", width=3))
    y = TOP + px * (walk.row + 0.5)
    yield box(LEFT - 28, y - 1.5, SIDE + 64, 3, Look(ML))
    yield Text(LEFT - 34, y + 5, walk.word, "end", ML, True)


def _tile(tile, px, look) -> Area:
    (left, right), (top, bottom) = ((px * x.start, px * x.stop) for x in (tile.cols, tile.rows))
    return box(LEFT + left, TOP + top, right - left, bottom - top, look)


def _draw_strips(walk, n):
    """q, k and v with the block in use; o with what is done, begun and to come."""
    px, now = SIDE / walk.N, walk.steps[n]
    at_work = now.kind != "skipped"
    for step in walk.steps:
        (rows, cols, _), same_row = step.tile, step.tile.rows == now.tile.rows
        x, y = LEFT + px * cols.start, TOP + px * rows.start
        width, height = px * (cols.stop - cols.start), px * (rows.stop - rows.start)
        if same_row:
            here = cols == now.tile.cols and at_work
            yield box(x, TOP - 46, width, 14, Look(K if here else PALE[K], K))
            yield box(x, TOP - 26, width, 14, Look(V if here else PALE[V], V))
        if cols.start == 0:
            yield box(LEFT - 26, y, 14, height, Look(Q if same_row and at_work else PALE[Q], Q))
            done = rows.stop <= now.tile.rows.start or n == len(walk.steps) - 1
            yield box(LEFT + SIDE + 14, y, 14, height, Look(O if done else "white", O))
            if same_row and not done:
                yield box(LEFT + SIDE + 14, y, 14, height, Look(edge=O, hatch="rising", ink=O))
    yield Text(LEFT - 6, TOP - 34, "k", "end", K, True)
    yield Text(LEFT - 6, TOP - 14, "v", "end", V, True)
    yield Text(LEFT - 19, TOP + SIDE + 15, "q", "middle", Q, True)
    yield Text(LEFT + SIDE + 21, TOP + SIDE + 15, "o", "middle", O, True)


def _draw_bytes(walk, n):
    """Bytes alive and bytes moved so far, each on the scale of standard attention."""
    step = walk.steps[n]
    for said, sizes, standard, top in (
        ("alive now", step.alive, walk.standard[0], 50),
        ("moved so far", step.moved, walk.standard[1], 146),
    ):
        parts = ", ".join(f"{name} {kib(size)}" for name, size in sizes.items())
        yield Text(PANEL, top, f"{said}: {kib(sum(sizes.values()))} KiB", bold=True)
        yield Text(PANEL, top + 20, parts)
        yield from _bar(sizes, standard, top + 28)
        yield box(PANEL, top + 49, BAR, 18, HIDDEN)
        words = f"standard attention: {kib(standard)} KiB"
        yield box(PANEL + 8, top + 49.5, 8.6 * len(words), 17, WHITE)
        yield Text(PANEL + 12, top + 63, words, color=GREY)


def _bar(sizes: dict[str, int], whole: int, y: float):
    """Sizes side by side; all of `whole` would fill the panel's width."""
    yield box(PANEL, y, BAR, 18, Look(edge="#bbbbbb"))
    left = PANEL
    for name, size in sizes.items():
        width = BAR * size / whole
        yield box(left, y, width, 18, Look(COLOR[name]))
        if width > 12 and len(name) == 1:
            yield Text(left + width / 2, y + 14, name, "middle", "white", True)
        left += width


def _draw_row(walk, n):
    """The followed row: m and l in numbers, o as bars; o / l once its block is done."""
    step = walk.steps[n]
    divided = step.tile.rows.start > walk.row or n == len(walk.steps) - 1
    yield Text(PANEL, 246, f"the row of {walk.word}: {walk.says(n)}", color=ML, bold=True)
    o = step.state.finalise()[0] if divided else step.state.o
    shown = [o] if divided else [x.state.o for x in walk.steps]
    largest = max(x.abs().max().item() for x in shown)
    words = "o / l, divided once," if divided else "o so far,"
    words += f" {o.abs().max().item():.2f} at most"
    yield Text(PANEL, 267, words if step.state.l.item() else "o is zero: no key seen yet")
    width, middle = BAR / o.shape[-1], 322
    yield box(PANEL, middle - 0.5, BAR, 1, Look(GREY))
    outline = [(PANEL, middle)]
    for i, number in enumerate(o[0].tolist()):
        left, top = PANEL + i * width, middle - 48 * number / largest
        outline += [(left + 1, middle), (left + 1, top), (left + width - 1, top)]
        outline += [(left + width - 1, middle)]
    yield Area(outline, Look(O))


def kib(size: int) -> str:
    return f"{size / 1024:,.0f}"
