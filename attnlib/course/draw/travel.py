"""How much travels? A tile on its bench, what its walk carries, and its place under a roof."""

from collections.abc import Iterator
from math import log10
from typing import NamedTuple

from attnlib.course.draw.shapes import Area, Look, Path, Shape, Text, box
from attnlib.course.draw.style import GREY, ML, Q, S, V
from attnlib.memory import GIB, MIB
from attnlib.roofline import Roof

SIZE = 880, 318  # pixels
LEFT, BAR, RIGHT = 20, 330, 400  # BAR of a bench that is just full
KEY = ("q, o", Q), ("k, v", V), ("scores", S), ("m, l and others", GREY)
PLOT = 520, 60, 350, 208  # the roof: left, top, width, height
INTENSITY, SPEED = (4, 16384), (10e12, 2e15)  # its axes


class Travel(NamedTuple):
    """A tile of b queries and c keys: `parts` of the bench's M bytes (q and o; k or v;
    scores; the rest), the bytes that its walk and the textbook's carry for a head, those of
    k and v in it, and the operations that both make."""

    b: int
    c: int
    M: int
    parts: tuple[int, int, int, int]
    keys: int
    moved: int
    textbook: int
    work: int

    @property
    def fits(self) -> bool:
        return sum(self.parts) <= self.M


def amount(size: float) -> str:
    unit, name = next(((u, n) for u, n in ((GIB, "GiB"), (MIB, "MiB")) if size >= u), (1024, "KiB"))
    return f"{size / unit:,.4g} {name}"


def describe_travel(t: Travel) -> str:
    peak = f"{amount(sum(t.parts))} of {amount(t.M)} on the bench"
    if not t.fits:
        return f"{t.b} queries, {t.c} keys: {peak}, refused"
    times = f"{t.textbook / t.moved:.1f} times less than the textbook's"
    return f"{t.b} queries, {t.c} keys: {peak}; {amount(t.moved)} travel, {times}"


def draw_travel(t: Travel, roof: Roof, call: str) -> Iterator[Shape]:
    """`call` says what is called. The black line is the end of the bench."""
    claim = f"Flash carries {t.textbook / t.moved:.1f} times less than the textbook"
    yield Text(LEFT, 22, claim if t.fits else "The bench refuses this tile", bold=True)
    yield Text(LEFT, 50, call)
    yield from _bar(90, t.parts, t.M, (Q, V, S, GREY))
    yield box(LEFT + BAR - 1, 82, 3, 50, Look("black"))
    verdict = "fits" if t.fits else "does not fit"
    words = f"bench: {amount(sum(t.parts))} of {amount(t.M)}, {verdict}"
    yield Text(LEFT, 150, words, bold=not t.fits)
    rest = t.moved - t.keys
    yield from _bar(180, (rest, t.keys), t.textbook, (Q, V))
    words = f"flash: {amount(t.moved)}, k and v {t.keys // rest:,} times"
    yield Text(LEFT, 240, words, color=ML, bold=True)
    yield box(LEFT, 254, BAR, 14, Look(S))
    yield Text(LEFT, 288, f"textbook: {amount(t.textbook)}", color=S, bold=True)
    for x, (word, color) in zip((20, 90, 160, 240), KEY):
        yield box(x, 300, 14, 14, Look(color))
        yield Text(x + 20, 313, word)
    yield from _roof(t, roof)


def _bar(top: float, parts, whole: float, colors) -> Iterator[Shape]:
    x = LEFT
    for part, color in zip(parts, colors):
        right = min(x + BAR * part / whole, RIGHT)
        yield box(x, top, right - x, 38, Look(color))
        x = right
    if x == RIGHT:  # there is more than the page is wide
        yield Area([(RIGHT, top), (RIGHT + 18, top + 19), (RIGHT, top + 38)], Look(colors[-1]))


def _roof(t: Travel, roof: Roof) -> Iterator[Shape]:
    left, top, width, height = PLOT
    yield box(*PLOT, Look(edge=GREY))
    ends = [_place(x, roof.at(x)) for x in (INTENSITY[0], roof.ridge, INTENSITY[1])]
    yield Path(ends, Look(edge="black", width=3))
    yield Text(left + width - 8, ends[1][1] - 8, f"{roof.speed / 1e12:.0f} TFLOP/s", "end")
    for moved, color, name in ((t.textbook, S, "textbook"), (t.moved, ML, "flash")):
        if name == "flash" and not t.fits:
            continue
        intensity = t.work / moved
        x, y = _place(intensity, roof.at(intensity))
        yield Path([(x, y), (x, top + height)], Look(edge=color, width=2, dashed=True))
        yield Area([(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7)], Look(color, edge="black"))
        drop = 24 if name == "textbook" else 48
        yield Text(x + 10, y + drop, f"{name}: {intensity:.0f}", color=color, bold=True)
    for x in (10, 100, 1000, 10000):
        yield Text(_place(x, roof.speed)[0], top + height + 20, f"{x}", "middle")
    yield Text(left + width / 2, top + height + 42, "operations for each byte", "middle")
    yield Text(left, top - 12, "what the road allows")


def _place(intensity: float, speed: float) -> tuple[float, float]:
    left, top, width, height = PLOT
    along, up = (
        min(max(log10(x / low) / log10(high / low), 0), 1)
        for x, (low, high) in ((intensity, INTENSITY), (speed, SPEED))
    )
    return left + width * along, top + height * (1 - up)
