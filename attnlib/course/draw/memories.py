"""A small fast workbench and a large slow warehouse: the two memories of a GPU. Lesson 00."""

from math import sqrt
from typing import NamedTuple

from matplotlib.figure import Figure

from attnlib.course.draw.shapes import Area, Look, Text, arrow, box, figure
from attnlib.course.draw.style import GREY, LETTERS, S, styled

SIZE = 880, 385
LEFT, TOP, WIDTH, HEIGHT = 20, 84, 400, 270  # of the warehouse
BENCH, CELL, ACROSS = 565, 15, 12  # left edge of the enlarged workbench, and its squares
STORE = Look("#eef1f4", GREY, 1.5)
WOOD = Look("#f3e3c3", "#8a6d3b")
ROAD = Look("#9aa5b1")
LENS = Look("#f9f4e8")
GOODS = Look("#f2dce9", S, 1, "rising", S)


class Memory(NamedTuple):
    """One of the two: `parts` equal pieces of `size` bytes, `speed` bytes a second in all."""

    name: str
    size: int
    speed: float
    parts: int = 1

    @property
    def bytes(self) -> int:
        return self.parts * self.size


# An H100 SXM5. NVIDIA's data sheet: 80 GB at 3.35 TB/s, 132 streaming multiprocessors;
# FlashAttention-3 (Shah et al. 2024), Table 1: 228 KiB of shared memory in each, 31 TB/s
# from all together.
H100 = (Memory("SRAM", 228 * 2**10, 31e12, parts=132), Memory("HBM", 80 * 10**9, 3.35e12))


@styled
def draw_two_memories(bench: Memory, store: Memory, goods: int, name: str) -> Figure:
    """Both memories with their areas, and the roads from them with their widths, to scale;
    beside that the workbench enlarged, a square a part. `goods` bytes, called `name`,
    lie in the warehouse, to scale as well. Raises ValueError if they do not fit there."""
    if not 0 <= goods <= store.bytes:
        raise ValueError(f"goods must fit the {store.bytes} bytes of {store.name}, got {goods}")
    times, speed = store.bytes / bench.bytes, bench.speed / store.speed
    title = f"The workbench is {speed:.0f} times as fast, the warehouse {times:,.0f} times as large"
    shapes = [Text(LEFT, 28, title, bold=True, size=19)]
    shapes += _draw_store(bench, store, goods, name)
    shapes += _draw_bench(bench, store)
    return figure(shapes, SIZE)


def describe_memories(bench: Memory, store: Memory, goods: int, name: str) -> str:
    """The same in a sentence."""
    return (
        f"a warehouse, {store.name}, of {_size(store.bytes)} at {_speed(store.speed)}; "
        f"{name} fill {goods / store.bytes:.0%} of it; to scale beside it a dot, the workbench, "
        f"{bench.name}, of {_size(bench.bytes)} at {_speed(bench.speed)}"
    )


def _draw_store(bench, store, goods, name):
    yield Text(LEFT, TOP - 12, f"warehouse: {store.name}, {_size(store.bytes)}", bold=True)
    yield box(LEFT, TOP, WIDTH, HEIGHT, STORE)
    top = TOP + HEIGHT * (1 - goods / store.bytes)
    yield box(LEFT, top, WIDTH, TOP + HEIGHT - top, GOODS)
    words = f"{name}: {_size(goods)}"
    yield box(LEFT + 14, TOP + HEIGHT - 42, 10.4 * len(words), 26, Look("white"))
    yield Text(LEFT + 22, TOP + HEIGHT - 24, words, color=LETTERS["p"], bold=True)
    yield Text(
        LEFT, TOP + HEIGHT + 21, "areas, and the widths of the roads, are to scale", color=GREY
    )


def _draw_bench(bench, store):
    """The true dot, a lens on it, the squares of the lens, and both roads."""
    side = sqrt(WIDTH * HEIGHT * bench.bytes / store.bytes)
    rows = -(-bench.parts // ACROSS)
    x, y, dot = BENCH, TOP + 46, (LEFT + WIDTH + 62, TOP + 60)
    width, height = CELL * ACROSS, CELL * rows
    yield Area([dot, (x - 2, y - 2), (x - 2, y + height), (dot[0], dot[1] + side)], LENS)
    yield box(*dot, side, side, WOOD)
    yield Text(dot[0] - 20, dot[1] - 26, "to scale", color=GREY)
    words = f"workbench: {bench.name}, {_size(bench.bytes)}"
    yield Text(x, TOP - 12, words, bold=True)
    yield Text(x, TOP + 12, f"{bench.parts} pieces of {_size(bench.size)}, enlarged", color=GREY)
    for n in range(bench.parts):
        yield box(x + CELL * (n % ACROSS), y + CELL * (n // ACROSS), CELL - 2, CELL - 2, WOOD)
    yield from _draw_roads(bench, store, x, y + height, width)


def _draw_roads(bench, store, x, bottom, width):
    wide = 52
    narrow, middle = wide * store.speed / bench.speed, bottom - 60
    yield arrow((LEFT + WIDTH + 4, bottom - 30), (x - 8, bottom - 30), narrow, ROAD)
    yield Text((LEFT + WIDTH + x) / 2, bottom - 8, _speed(store.speed), "middle", bold=True)
    right = x + width
    yield arrow((right + 6, middle), (right + 92, middle), wide, ROAD)
    yield Text(right + 48, bottom + 12, _speed(bench.speed), "middle", bold=True)
    yield Text(right + 48, bottom + 34, "to the arithmetic", "middle", color=GREY)


def _size(n: int) -> str:
    """Bytes as data sheets write them: GB for a card, MiB and KiB for what is on the chip."""
    for unit, name in ((10**9, "GB"), (2**20, "MiB"), (2**10, "KiB")):
        if n >= unit:
            return f"{n / unit:.3g} {name}"
    return f"{n} bytes"


def _speed(n: float) -> str:
    return f"{n / 1e12:.3g} TB/s"
