"""Bytes that move, counted while code runs: a large slow warehouse, a small fast bench.

The warehouse is a GPU's memory (HBM), the bench the memory on its chip (SRAM). What
lies on the bench costs nothing to use; what travels is counted.

1. `Bench`, `Shelf`   a bench of M bytes that refuses what does not fit, and tensors in
                      the warehouse that code reaches tile by tile.
2. `Tape`             the smallest case, counted in numbers: room for one block.

`programs.py` runs attention in it. The model is Hong & Kung's (1981), as in
FlashAttention (arXiv 2205.14135, section 3.2). Lessons 03, 06 and 11.
"""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from attnlib.books import Bookkeeper, tensors_in

Block = Tensor | tuple[Tensor, ...]


class BenchFull(MemoryError):
    """What a program asked for does not fit on the bench."""


class Bench(Bookkeeper):
    """A fast memory of M bytes, in force inside `with bench:`.

    What operators make lies on it, from birth to death, and must fit: BenchFull. Other
    tensors are in the warehouse, and an operator that is given one raises ValueError:
    only a `Shelf` carries them.
    """

    def __init__(self, M: float = math.inf):
        super().__init__(sized=int)
        self.M, self.peak = M, 0

    def load(self, x: Tensor, i) -> Tensor:
        """A copy of x[i] on the bench; `Shelf` counts it."""
        with _disable_current_modes():
            tile = x[i].clone()
        super()._see(tile, "load")
        return tile

    def _see(self, values, name):
        if name is None:
            for x in tensors_in(values):
                if x.untyped_storage()._cdata not in self.storages:
                    raise ValueError(
                        f"a tensor of shape {tuple(x.shape)} lies in the warehouse: "
                        "put it on a Shelf and load a tile of it"
                    )
        super()._see(values, name)

    def _enter(self, size, label):
        super()._enter(size, label)
        if size > 0 and self.live > self.M:
            free = self.M - self.live + size
            raise BenchFull(f"{label} takes {size} bytes; of {self.M} on the bench {free} are free")
        self.peak = max(self.peak, self.live)


class Shelf:
    """A tensor in the warehouse: `shelf[i]` loads a tile of it, `shelf[i] = tile` stores one.

    Counts the bytes that it loaded and stored.
    """

    def __init__(self, bench: Bench, x: Tensor):
        self.bench, self.x = bench, x
        self.loaded = self.stored = 0

    @property
    def moved(self) -> int:
        return self.loaded + self.stored

    @property
    def width(self) -> torch.Size:
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i) -> Tensor:
        tile = self.bench.load(self.x, i)
        self.loaded += tile.nbytes
        return tile

    def __setitem__(self, i, tile: Tensor):
        with _disable_current_modes():
            self.x[i] = tile
        self.stored += tile.nbytes


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
