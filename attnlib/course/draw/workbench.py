"""Tiles on their way between a large slow warehouse and a small fast workbench."""

from collections.abc import Iterator
from typing import NamedTuple

from attnlib.course.draw.shapes import Look, Shape, Text, arrow, box
from attnlib.course.draw.style import GREY, LETTERS, ML, K, O, Q, S, V
from attnlib.course.draw.walk import kib

SIZE = 880, 376  # pixels
LEFT, TOP, BOTTOM = 20, 60, 262  # of the warehouse and of the bench
SIDE, SHELF = 146, 100  # N queries or keys in the warehouse, and where they begin
PLACES = {"q": 36, "k": 72, "v": 108, "o": 144, "s": 186, "p": 350}  # in the warehouse
STORE_RIGHT, BENCH, WIDE = 512, 634, 232  # the warehouse's end; the bench and its width
GRID = 118  # top of the tile on the bench
WHOLE = 840  # width of the longest bar of bytes
FULL = {"q": Q, "k": K, "v": V, "o": O, "s": S, "p": LETTERS["p"]}
PALE = {"q": "#cce3f0", "k": "#faecd0", "v": "#cceee3", "o": "#ddf0fb"}
PALE |= {"s": "#f2dce9", "p": "#dcc0d2"}
SHADES = [Look(x) for x in ("#fbf3f8", "#f0d9e7", "#e2b5d0", "#cc79a7", "#a34f83")]
STORE, WOOD = Look("#eef1f4", GREY), Look("#f3e3c3", "#8a6d3b", 1.5)
NEVER = Look("white", "#999999", dashed=True)
ROAD, REST = Look("#8f9ba8"), Look("#e3e6ea")
OTHER = Look(edge=GREY, hatch="rising")


class Haul(NamedTuple):
    """One step at the bench, and what travels for it, in bytes by letter."""

    claim: str
    rows: slice  # of the queries at work
    cols: slice  # of the keys
    bench: str  # the letters that lie on the bench
    tile: list[list[float]]  # the weights at work, coarsely, each in 0..1
    load: dict[str, int]
    store: dict[str, int]
    moved: dict[str, int]  # so far, both ways, this step's too
    done: dict[str, int]  # rows of o, s or p that lie in the warehouse after this step


class Way(NamedTuple):
    """A way to compute attention of q (N, d), k (M, d), v (M, D), step by step."""

    name: str
    hauls: list[Haul]
    sizes: tuple[int, int, int, int]  # N, M, d, D
    block_size: int
    totals: dict[str, int]  # bytes that move in the end, for this way and the others

    def describe(self, n: int) -> str:
        """Step n in a sentence."""
        haul = self.hauls[min(n, len(self.hauls) - 1)]
        moved = f"moved {kib(sum(haul.moved.values()))} of {kib(self.totals[self.name])} KiB"
        if n >= len(self.hauls):
            return f"{self.name}: done; {moved}"
        said = [
            f"{', '.join(x)} {way}" for x, way in ((haul.load, "in"), (haul.store, "back")) if x
        ]
        return f"{self.name}, step {n + 1} of {len(self.hauls)}: {', '.join(said)}; {moved}"


def draw_haul(way: Way, n: int) -> list[Shape]:
    """The warehouse, its matrices to scale; the road; the bench; the bytes so far."""
    haul = way.hauls[min(n, len(way.hauls) - 1)]
    return [
        Text(LEFT, 20, haul.claim, bold=True),
        *_draw_store(way, haul),
        *_draw_road(haul),
        *_draw_bench(way, haul),
        *_draw_bytes(way, haul),
    ]


def _draw_store(way, haul) -> Iterator[Shape]:
    N, M, d, D = way.sizes
    unit = SIDE / max(N, M)
    yield Text(LEFT, TOP - 8, "warehouse: large and slow")
    yield box(LEFT, TOP, STORE_RIGHT - LEFT, BOTTOM - TOP, STORE)
    for name, rows, cols in (
        ("q", N, d),
        ("k", M, d),
        ("v", M, D),
        ("o", N, D),
        ("s", N, M),
        ("p", N, M),
    ):
        left, wide = PLACES[name], unit * cols
        yield Text(left + wide / 2, SHELF - 12, name, "middle", FULL[name], True)
        if name in "osp":
            yield from _draw_made(name, haul, left, wide, unit, rows)
            continue
        at = haul.cols if name in "kv" else haul.rows
        for start in range(0, rows, way.block_size):
            stop = min(start + way.block_size, rows)
            here = name in haul.bench and at.start <= start and stop <= at.stop
            look = Look((FULL if here else PALE)[name], FULL[name])
            yield box(left, SHELF + unit * start, wide, unit * (stop - start), look)


def _draw_made(name, haul, left, wide, unit, N) -> Iterator[Shape]:
    """o, s or p: the rows that lie in the warehouse, those that travel in full colour."""
    done = haul.done.get(name)
    yield box(left, SHELF, wide, unit * N, NEVER)
    if done is None:
        yield Text(left + wide / 2, SHELF + unit * N / 2 + 6, "never here", "middle", GREY)
        return
    yield box(left, SHELF, wide, unit * done, Look(PALE[name], FULL[name]))
    if name in haul.load or name in haul.store:
        tall = unit * (haul.rows.stop - haul.rows.start)
        yield box(left, SHELF + unit * haul.rows.start, wide, tall, Look(FULL[name], FULL[name]))


def _draw_road(haul) -> Iterator[Shape]:
    left, right = STORE_RIGHT + 8, BENCH - 8
    for goods, y, ends in ((haul.load, 128, (left, right)), (haul.store, 212, (right, left))):
        yield arrow((ends[0], y), (ends[1], y), 12, ROAD if goods else REST)
        x = (left + right) / 2 - 13 * (len(goods) - 1)
        for n, name in enumerate(goods):
            yield box(x + 26 * n - 11, y - 11, 22, 22, Look(FULL[name], "white", 2))
            yield Text(x + 26 * n, y + 5, name, "middle", "white", True)
        said = f"{kib(sum(goods.values()))} KiB" if goods else "nothing"
        yield Text((left + right) / 2, y - 22, said, "middle", "black" if goods else GREY)


def _draw_bench(way, haul) -> Iterator[Shape]:
    """As a product is written: k above the tile, q to its left; then v, o, m and l."""
    unit = min(80 / way.block_size, 24 / max(way.sizes[2:]))
    yield Text(BENCH, TOP - 8, "workbench: small and fast")
    yield box(BENCH, TOP, WIDE, BOTTOM - TOP, WOOD)
    yield Text(BENCH + WIDE - 10, BOTTOM - 10, "enlarged", "end", GREY)
    long = unit * min(haul.rows.stop - haul.rows.start, way.block_size)
    across = unit * min(haul.cols.stop - haul.cols.start, way.block_size)
    d, D = (unit * x for x in way.sizes[2:])
    tile = BENCH + 22 + d
    right = tile + unit * way.block_size + 14
    for name, x, y, width, height in (
        ("q", tile - d - 8, GRID, d, long),
        ("k", tile, GRID - d - 8, across, d),
        ("v", right, GRID, D, across),
        ("o", right + D + 16, GRID, D, long),
    ):
        if name in haul.bench:
            yield box(x, y, width, height, Look(FULL[name], "black"))
            yield Text(
                x + width / 2, y + height + 18 if name != "k" else y - 5, name, "middle", bold=True
            )
    if "o" in haul.bench and "q" in haul.bench:
        yield from (box(right + 2 * D + 28 + 9 * n, GRID, 5, long, Look(ML)) for n in (0, 1))
        yield Text(right + 2 * D + 35, GRID + long + 18, "m l", "middle", bold=True)
    yield from _draw_tile(haul, tile, across, long)


def _draw_tile(haul, left, wide, tall) -> Iterator[Shape]:
    """The weights at work, the darker the larger."""
    rows, cols = len(haul.tile), len(haul.tile[0])
    shaded = [[] for _ in SHADES]
    for i, row in enumerate(haul.tile):
        for j, weight in enumerate(row):
            shade = min(int(weight * len(SHADES)), len(SHADES) - 1)
            x, y = left + wide * j / cols, GRID + tall * i / rows
            shaded[shade].append(box(x, y, wide / cols, tall / rows, SHADES[shade]))
    yield from (cell for cells in shaded for cell in cells)
    yield box(left, GRID, wide, tall, Look(edge="black"))
    said = " → ".join(x for x in haul.bench if x in "sp")
    yield Text(left + wide / 2, GRID + tall + 18, said, "middle", bold=True)


def _draw_bytes(way, haul) -> Iterator[Shape]:
    """This way's bytes so far, and all of the other's, on one scale."""
    longest, so_far = max(way.totals.values()), sum(haul.moved.values())
    yield Text(LEFT, 290, f"{way.name}, moved so far: {kib(so_far)} KiB", bold=True)
    yield box(LEFT, 298, WHOLE, 20, Look(edge="#bbbbbb"))
    left = LEFT
    for name, size in haul.moved.items():
        width = WHOLE * size / longest
        yield box(left, 298, width, 20, Look(FULL[name]))
        if width > 14:
            yield Text(left + width / 2, 313, name, "middle", "white", True)
        left += width
    for name, size in way.totals.items():
        if name != way.name:
            yield box(LEFT, 326, WHOLE * size / longest, 20, OTHER)
            times = size / way.totals[way.name]
            words = f"{name}, in all: {kib(size)} KiB, {times:.2g} times {way.name}’s"
            yield Text(LEFT, 366, words, color=GREY)
