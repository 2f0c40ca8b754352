"""Will it fit? The bytes of one call of each core beside a card."""

from collections.abc import Iterator
from typing import NamedTuple

from attnlib.course.draw.shapes import Area, Look, Shape, Text, box
from attnlib.course.draw.style import GREY, ML, O, Q, S
from attnlib.memory import GIB

SIZE = 880, 286  # pixels
LEFT, BAR, RIGHT = 130, 600, 840  # BAR of a card that is just full
PEAK = {"standard": S, "flash": ML}
SAYS = {True: "fits", False: "does not fit", None: "too close to call"}
KEY = (("inputs", 0), ("results", 90), ("matrices", 180), ("tile and sums", 285))
KEY += (("workspace and context", 425),)


class Need(NamedTuple):
    """What a core needs: bytes of inputs, results, what else lives at the peak, and what
    CUDA takes; and whether the card has them, None where nobody can say."""

    parts: tuple[int, int, int, int]
    fits: bool | None

    @property
    def bytes(self) -> int:
        return sum(self.parts)


def claim(needs: dict[str, Need], card: int) -> str:
    """What to read off the bars, such as "Only flash fits on 8 GiB"."""
    said = {fits: [c for c, need in needs.items() if need.fits is fits] for fits in SAYS}
    on = f"on {card / GIB:g} GiB"
    if said[None]:
        return f"{' and '.join(said[None])} {on}: too close to call".capitalize()
    if len(said[True]) == 1:
        return f"Only {said[True][0]} fits {on}"
    return f"Both fit {on}" if said[True] else f"Neither fits {on}"


def describe_fit(needs: dict[str, Need]) -> str:
    return "; ".join(
        f"{core} needs {need.bytes:,} bytes: {SAYS[need.fits]}" for core, need in needs.items()
    )


def draw_fit(needs: dict[str, Need], call: str, card: int) -> Iterator[Shape]:
    """A bar for each core, in parts; the black line is the end of the card, of so many
    bytes. `call` says what is called."""
    for (core, need), top in zip(needs.items(), (76, 166)):
        x = LEFT
        yield Text(LEFT - 12, top + 30, core, "end", PEAK[core], True)
        for part, color in zip(need.parts, (Q, O, PEAK[core], GREY)):
            right = min(x + BAR * part / card, RIGHT)
            yield box(x, top, right - x, 44, Look(color))
            x = right
        if x == RIGHT:  # there is more than the page is wide
            tip = [(RIGHT, top), (RIGHT + 22, top + 22), (RIGHT, top + 44)]
            yield Area(tip, Look(PEAK[core]))
        words = f"{need.bytes / GIB:,.2f} GiB: {SAYS[need.fits]}"
        yield Text(LEFT, top + 63, words, bold=not need.fits)
    yield Text(LEFT, 20, claim(needs, card), bold=True)
    yield Text(LEFT, 54, call)
    yield box(LEFT + BAR - 1, 62, 3, 190, Look("black"))
    yield Text(LEFT + BAR, 54, f"the card ends: {card / GIB:g} GiB", "middle")
    for (word, x), color in zip(KEY, (Q, O, S, ML, GREY)):
        yield box(LEFT + x, 264, 14, 14, Look(color))
        yield Text(LEFT + x + 20, 277, word)
