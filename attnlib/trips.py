"""Bytes that travel: what each operator of a call reads and writes.

An operator of PyTorch starts and ends in main memory: it fetches its tensors from
there and leaves its result there. So each one's bytes can be counted while the call
runs, on any machine; on meta tensors nothing is computed and any N is free.

What a cache serves is counted too: in truth a tensor that fits into one may travel
less. Compiled code and fused kernels are out of sight, as in `memory.py`. Lesson 08.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OVERWRITES = {"copy_", "fill_", "zero_"}  # write their first tensor without a look at it


class Trip(NamedTuple):
    """What one operator fetched and brought back, in bytes."""

    name: str
    read: int
    written: int


def trips(fn: Callable, *args, least: int = 0) -> list[Trip]:
    """The operators that fn(*args) calls, in order; tensors below `least` bytes are free.

    An operator that moves nothing is left out: one that gives a view, or memory that
    nobody has written yet.
    """
    with _Toll(least) as toll:
        fn(*args)
    return toll.trips


class _Toll(TorchDispatchMode):
    def __init__(self, least: int):
        super().__init__()
        self.least, self.trips = least, []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = op(*args, **kwargs)
        name = op.overloadpacket.__name__
        if not op.is_view and name != "_unsafe_view" and "empty" not in name:
            # With beta = 0 a product forgets what was there.
            unread = name in OVERWRITES or kwargs.get("beta") == 0
            trip = Trip(name, self._bytes(args[unread:]), self._bytes(result))
            if trip.read or trip.written:
                self.trips.append(trip)
        return result

    def _bytes(self, tree) -> int:
        sizes = [x.nbytes for x in tree_leaves(tree) if isinstance(x, Tensor)]
        return sum(size for size in sizes if size >= self.least)
