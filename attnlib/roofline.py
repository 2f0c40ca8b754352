"""The roof over a program: how fast it can be at most, by the bytes it carries.

A program of F operations that carries B bytes takes at least F / speed for the ones
and B / bandwidth for the others. Its intensity is F / B, operations for each byte.
Williams, Waterman & Patterson, "Roofline" (2009). Lesson 11.
"""

from typing import NamedTuple


class Roof(NamedTuple):
    """A machine's two ceilings: operations a second, bytes a second."""

    speed: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the limit: speed / bandwidth."""
        return self.speed / self.bandwidth

    def at(self, intensity: float) -> float:
        """Operations a second at most: min(speed, intensity * bandwidth)."""
        return min(self.speed, intensity * self.bandwidth)


def flops(N: int, d: int) -> int:
    """Operations of attention's two products, N queries and keys of d numbers: 4 N^2 d."""
    return 4 * N * N * d
