"""The backward walk as a picture: a tile is made again, and adds to its row and its column."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from attnlib.course.draw.shapes import Look, Shape, Text, arrow, box
from attnlib.course.draw.style import GREY, LETTERS, ML, K, O, Q, S, V

SIZE = 880, 376  # pixels
LEFT, TOP, SIDE = 92, 88, 224  # of the grid
DEEP = 34  # of a sum's cells, filled as its tiles are added
PANEL, BAR = 474, 388  # left edge and width of the panels beside the grid
TILE = 88  # side of an enlarged tile
PALE = {Q: "#cce3f0", K: "#faecd0", V: "#cceee3", O: "#ddf0fb", S: "#f2dce9"}
P = LETTERS["p"]
LINE, EMPTY = "#999999", Look("white", "#bbbbbb")
PLUS, MINUS = Look(P, P), Look("white", P)


class Back(NamedTuple):
    """The backward at one tile, after it."""

    place: tuple[int, int]  # its block of queries, its block of keys
    rows: slice
    cols: slice
    p: Tensor  # (rows, cols), as dp and ds
    dp: Tensor
    delta: Tensor  # (rows, 1)
    ds: Tensor
    added: tuple[Tensor, Tensor, Tensor]  # to dq (rows, d), dk (cols, d) and dv (cols, D)
    sums: tuple[Tensor, Tensor, Tensor]  # the same blocks of dq, dk and dv, so far
    have: tuple[tuple[int, ...], tuple[int, ...]]  # tiles added to each dq; to each dk, dv
    moved: dict[str, int]  # numbers carried so far


class BackWalk(NamedTuple):
    """A walk in one order, and the numbers carried at the far end of the scale."""

    steps: list[Back]
    outside: str  # "keys" or "queries"
    most: int

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks of queries, of keys."""
        queries, keys = self.steps[-1].have
        return len(queries), len(keys)

    def added(self, n: int) -> tuple[int, int]:
        """How many tiles dq of step n has, and dk and dv."""
        (i, j), (queries, keys) = self.steps[n].place, self.steps[n].have
        return queries[i], keys[j]

    def describe(self, n: int) -> str:
        """Step n (from 0) in a sentence."""
        step, (dq, dkv), (rows, cols) = self.steps[n], self.added(n), self.blocks
        span = (f"{x.start} to {x.stop - 1}" for x in (step.rows, step.cols))
        return (
            f"tile {n + 1} of {len(self.steps)}: queries {next(span)}, keys {next(span)}; "
            f"dq has {dq} of {cols} tiles, dk and dv {dkv} of {rows}"
        )

    def claim(self, n: int) -> str:
        """What to see at step n."""
        (dq, dkv), (rows, cols) = self.added(n), self.blocks
        if n == len(self.steps) - 1:
            return "The last tile: every sum is whole, and no tile was kept"
        if self.outside == "keys":
            own, mine, has, whole, other = "keys", "dk and dv", dkv, rows, "dq comes and goes"
        else:
            own, mine, has, whole, other = "queries", "dq", dq, cols, "dk and dv come and go"
        if has == whole:
            return f"These {own} are done: {mine} went into the warehouse once"
        if has == 1:
            stay = "stays" if mine == "dq" else "stay"
            return f"New {own}: {mine} {stay} on the bench, {other} with every tile"
        return "A tile is made again, adds to three sums, and is forgotten"


def draw_back(walk: BackWalk, n: int) -> list[Shape]:
    """The grid between its inputs and its sums; beside it the tile, what it adds, what moved."""
    return [
        Text(20, 20, walk.claim(n), bold=True),
        *_draw_grid(walk, n),
        *_draw_inputs(walk, n),
        *_draw_sums(walk, n),
        *_draw_tile(walk, n),
        *_draw_additions(walk, n),
        *_draw_moved(walk, n),
    ]


def _spans(walk: BackWalk) -> tuple[list, list]:
    """(start, length) in pixels of every block of queries, downwards, and of keys."""
    queries, keys = ({s.place[at]: s[1 + at] for s in walk.steps} for at in (0, 1))
    N, M = (max(x.stop for x in blocks.values()) for blocks in (queries, keys))
    return tuple(
        [(SIDE * x.start / n, SIDE * (x.stop - x.start) / n) for x in blocks.values()]
        for blocks, n in ((queries, N), (keys, M))
    )


def _draw_grid(walk, n) -> Iterator[Shape]:
    down, right = _spans(walk)
    places = []
    for m, step in enumerate(walk.steps):
        (y, height), (x, width) = down[step.place[0]], right[step.place[1]]
        places.append((LEFT + x, TOP + y, width, height))
        yield box(*places[m], Look("white" if m >= n else PALE[S], LINE))
    for x, y, width, height in places[:n]:
        yield Text(x + width / 2, y + height / 2 + 6, "✓", "middle", GREY)
    x, y, width, height = places[n]
    largest = max(s.p.max().item() for s in walk.steps)
    yield from _squares(walk.steps[n].p, largest, *places[n])
    yield box(*places[n], Look(edge="black", width=3))
    to_right, below = (x + width + 3, y + height / 2), (x + width / 2, y + height + 3)
    yield arrow(to_right, (LEFT + SIDE + 12, y + height / 2), 4, Look("black"))
    yield arrow(below, (x + width / 2, TOP + SIDE + 12), 4, Look("black"))


def _squares(x: Tensor, largest: float, left, top, width, height) -> Iterator[Shape]:
    """A matrix, a square a number, its area the size; one below zero is hollow."""
    down, across = height / x.shape[0], width / x.shape[1]
    for look, part in ((PLUS, x.clamp(min=0)), (MINUS, (-x).clamp(min=0))):
        for (i, j), number in zip(part.nonzero().tolist(), part[part > 0].tolist()):
            half = 0.45 * min(down, across) * (number / largest) ** 0.5
            if half > 0.4:
                corner = left + across * (j + 0.5) - half, top + down * (i + 0.5) - half
                yield box(*corner, 2 * half, 2 * half, look)


def _draw_inputs(walk, n) -> Iterator[Shape]:
    """k and v above the grid, q and do left of it: the blocks in use are dark."""
    (down, right), (i, j) = _spans(walk), walk.steps[n].place
    for name, color, at in (("k", K, TOP - 46), ("v", V, TOP - 24)):
        yield Text(LEFT - 8, at + 13, name, "end", color, True)
        for m, (x, width) in enumerate(right):
            yield box(LEFT + x, at, width, 16, Look(color if m == j else PALE[color], color))
    for name, color, at in (("q", Q, LEFT - 52), ("do", O, LEFT - 26)):
        yield Text(at + 8, TOP + SIDE + 18, name, "middle", color, True)
        for m, (y, height) in enumerate(down):
            yield box(at, TOP + y, 16, height, Look(color if m == i else PALE[color], color))


def _draw_sums(walk, n) -> Iterator[Shape]:
    """dq right of the grid, dk and dv below it: a cell is full when all its tiles are added."""
    (down, right), (rows, cols), half = _spans(walk), walk.blocks, DEEP / 2
    step, left, top = walk.steps[n], LEFT + SIDE + 16, TOP + SIDE + 16
    (i, j), (queries, keys) = step.place, step.have
    for (y, height), have in zip(down, queries):
        yield box(left, TOP + y, DEEP, height, EMPTY)
        yield box(left, TOP + y, DEEP * have / cols, height, Look(Q))
    for name, color, y in (("dk", K, top), ("dv", V, top + half + 3)):
        for (x, width), have in zip(right, keys):
            yield box(LEFT + x, y, width, half, EMPTY)
            yield box(LEFT + x, y, width, half * have / rows, Look(color))
        yield Text(LEFT + SIDE + 8, y + 14, name, "start", color, True)
    yield Text(left + half, TOP - 10, "dq", "middle", Q, True)
    here, (y, height), (x, width) = Look(edge="black", width=2), down[i], right[j]
    yield box(left, TOP + y, DEEP, height, here)
    yield box(LEFT + x, top, width, DEEP + 3, here)


def _draw_tile(walk, n) -> Iterator[Shape]:
    """p, dp with delta, and ds of the tile; size is size, and hollow is negative."""
    step, lefts = walk.steps[n], (PANEL, PANEL + 140, PANEL + 284)
    formulas = {"p": "exp(s − lse)", "dp": "do · v", "ds": "p (dp − delta)"}
    scales = {x: max(getattr(s, x).abs().max().item() for s in walk.steps) for x in formulas}
    for (name, formula), left in zip(formulas.items(), lefts):
        yield Text(left, 42, name, color=P, bold=True)
        yield Text(left, 61, formula, size=14)
        yield from _squares(getattr(step, name), scales[name], left, 68, TILE, TILE)
        yield box(left, 68, TILE, TILE, Look(edge="black", width=2))
    wide, left = TILE / step.p.shape[1], lefts[1] + TILE + 12
    yield from _squares(step.delta, scales["dp"], left, 68, wide, TILE)
    yield box(left, 68, wide, TILE, Look(edge=ML, width=2))
    yield Text(left + wide / 2, 61, "delta", "middle", ML, True, 14)
    words = "a square's area is its size; hollow is negative"
    yield Text(PANEL, 68 + TILE + 20, words, color=GREY, size=14)


def _draw_additions(walk, n) -> Iterator[Shape]:
    """The three sums: what the tile adds, how much of a sum there is."""
    step, (dq, dkv), (rows, cols) = walk.steps[n], walk.added(n), walk.blocks
    counts = (dq, cols), (dkv, rows), (dkv, rows)
    rules = "ds k / √d", "dsᵀ q / √d", "pᵀ do"
    names, colors = ("dq", "dk", "dv"), (Q, K, V)
    for at, (name, color, rule, total, (have, of)) in enumerate(
        zip(names, colors, rules, step.sums, counts)
    ):
        y = 212 + 25 * at
        yield Text(PANEL, y, f"{name} += {rule}", color=color, bold=True)
        yield Text(PANEL + 168, y, f"{have} of {of} tiles")
        yield Text(PANEL + 268, y, f"‖{name}‖ = {total.norm().item():.3f}")


def _draw_moved(walk, n) -> Iterator[Shape]:
    """Numbers carried so far, in parts."""
    moved = walk.steps[n].moved
    yield Text(PANEL, 304, f"carried so far: {sum(moved.values()):,} numbers", bold=True)
    yield box(PANEL, 312, BAR, 20, Look(edge="#bbbbbb"))
    looks = Look(PALE[Q]), Look(PALE[K]), Look(Q), Look(V)
    left = PANEL
    for (name, size), look in zip(moved.items(), looks):
        width = BAR * size / walk.most
        yield box(left, 312, width, 20, look)
        if width > 9 * len(name):
            color = "black" if look.fill in PALE.values() else "white"
            yield Text(left + width / 2, 327, name, "middle", color, True, 14)
        left += width
    foreign, come = (
        ("dq", "comes and goes") if walk.outside == "keys" else ("dk, dv", "come and go")
    )
    yield Text(PANEL, 352, f"{moved[foreign]:,} of them for {foreign}, which {come}", color=GREY)
