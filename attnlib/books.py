"""The books of memory: each tensor that PyTorch's operators make, from birth to death.

`Bookkeeper` is a dispatch mode: between PyTorch and its operators, it sees every
result, on the CPU and on the meta device, where nothing is computed. A storage is
charged once, however many tensors look at it, and leaves with the last of them.
`memory.py` asks the questions. Lesson 05.
"""

import weakref
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Kernels that take a temporary of their result's size on CUDA (grad * output).
CUDA_SCRATCH = {"_softmax_backward_data"}


def round_up(size: int) -> int:
    return -(-size // 512) * 512


class Event(NamedTuple):
    """One tensor came to life (size > 0) or was freed (size < 0)."""

    size: int
    live: int  # bytes alive after it
    name: str  # operator and shape


class Timeline(NamedTuple):
    """Every allocation of one call, in order. Sizes in bytes."""

    events: list[Event]

    @property
    def peak(self) -> int:
        return max((e.live for e in self.events), default=0)

    @property
    def kept(self) -> int:
        """Bytes alive when the call returned: its results."""
        return self.events[-1].live if self.events else 0

    def alive_at_peak(self) -> list[tuple[str, int]]:
        """Name and size of each tensor that was alive when the peak was first met."""
        alive, peak = [], self.peak
        for event in self.events:
            if event.size > 0:
                alive.append((event.name, event.size))
            else:
                alive.remove((event.name, -event.size))
            if event.live == peak:
                break
        return alive


class _Entry(NamedTuple):
    storage: weakref.ref
    nbytes: int
    size: int  # what it is charged for
    label: str


class Bookkeeper(TorchDispatchMode):
    """Sees every operator's result; a storage dies with its last tensor. With a device
    type, those on others are free; `sized` says what a storage of so many bytes is
    charged for. A higher-order operator is one call to it, whose
    result it sees."""

    supports_higher_order_operators = True

    def __init__(self, device: str | None = None, sized: Callable[[int], int] = round_up):
        super().__init__()
        self.device, self.sized = device, sized
        self.events, self.live, self.storages = [], 0, {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # else the compiler, and FlexAttention with it, refuses to run beneath

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._see((args, kwargs), name=None)
        try:
            result = func(*args, **(kwargs or {}))
        except RuntimeError as error:
            self._explain(error, (args, kwargs))
            raise
        name = getattr(func, "overloadpacket", func).__name__
        self._see(result, name)
        if name in CUDA_SCRATCH and result.is_meta:
            scratch = self.sized(result.untyped_storage().nbytes())
            self._enter(scratch, f"scratch of {name} {tuple(result.shape)}")
            self._enter(-scratch, f"scratch of {name} {tuple(result.shape)}")
        return result

    def _explain(self, error, args):
        """Raise what is wrong if a prediction met a tensor with numbers."""
        real = [x for x in tensors_in(args) if self.device not in (None, x.device.type) and x.dim()]
        if real:
            raise ValueError(
                f"fn holds a tensor of shape {tuple(real[0].shape)} on {real[0].device}; "
                "a prediction runs on the meta device: pass tensors and modules as arguments"
            ) from error

    def _see(self, values, name):
        # name is None for an argument: it was there before, and is free.
        for x in tensors_in(values):
            storage = x.untyped_storage()
            key, nbytes = storage._cdata, storage.nbytes()
            old = self.storages.get(key)
            if old is None or (name and nbytes != old.nbytes):  # born, or resized by out=
                free = name is None or self.device not in (None, x.device.type)
                size = 0 if free else self.sized(nbytes)
                label = f"{name} {tuple(x.shape)}"
                ref = weakref.ref(storage, lambda _, key=key: self._freed(key))
                self.storages[key] = _Entry(ref, nbytes, size, label)
                self._enter(size, label)
                if old is not None:
                    self._enter(-old.size, old.label)

    def _freed(self, key):
        entry = self.storages.pop(key)
        self._enter(-entry.size, entry.label)

    def _enter(self, size, label):
        if size:
            self.live += size
            self.events.append(Event(size, self.live, label))


def tensors_in(x) -> list[Tensor]:
    """The tensors in a structure, those of its modules included."""
    found = []
    for leaf in tree_leaves(x):
        if isinstance(leaf, nn.Module):
            found += [*leaf.parameters(), *leaf.buffers()]
        elif isinstance(leaf, Tensor):
            found.append(leaf)
    return found
