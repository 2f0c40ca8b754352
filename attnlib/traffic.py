"""Bytes that move, counted while code runs: a warehouse, and a bench with room for one block.

The warehouse is a GPU's large slow memory (HBM), the bench its small fast one
(SRAM). What lies on the bench costs nothing to use; what travels is counted.
Lesson 06.
"""

from torch import Tensor

Block = Tensor | tuple[Tensor, ...]


class Tape:
    """A tensor in the warehouse, cut in blocks, and room for one of them on the bench.

    Counts the numbers that travel: moved = loaded + stored. A block is a tensor
    or a tuple of them, such as a `SoftmaxState`.
    """

    def __init__(self, blocks):
        self.blocks, self.hand = list(blocks), None
        self.loaded = self.stored = 0

    @property
    def moved(self) -> int:
        return self.loaded + self.stored

    def take(self, i: int) -> Block:
        """Block i; loaded, unless it is the one that lies on the bench."""
        if i != self.hand:
            self.hand = i
            self.loaded += _numbers(self.blocks[i])
        return self.blocks[i]

    def put(self, i: int, block: Block) -> None:
        """Carry a block to place i of the warehouse, which leaves the bench empty."""
        self.blocks[i], self.hand = block, None
        self.stored += _numbers(block)


def _numbers(block: Block) -> int:
    return sum(x.numel() for x in block)
