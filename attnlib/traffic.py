"""Bytes that move: a slow memory, and room for one block at hand."""


class Tape:
    """Blocks in slow memory and room for one at hand: counts the numbers that move."""

    def __init__(self, blocks):
        self.blocks, self.hand, self.moved = list(blocks), None, 0

    def take(self, i: int):
        """Block i, a tensor or a tuple of them; free if it is at hand."""
        if i != self.hand:
            self.hand = i
            self.moved += sum(x.numel() for x in self.blocks[i])
        return self.blocks[i]
