"""Exercises that count: bytes of torch's tensors, and no way around them."""

import functools
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

from attnlib.course.exercises.task import BadAnswer
from attnlib.memory import Timeline, live_bytes


class StayInTorch(TorchFunctionMode):
    """Refuses what would take numbers out of the books' sight."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in {"numpy", "__array__", "__dlpack__", "tolist"}:
            raise BadAnswer(
                "It leaves torch by numpy or lists, where the check cannot count bytes; stay in "
                "torch."
            )
        return func(*args, **(kwargs or {}))


class BlockByBlock(StayInTorch):
    """Refuses a power, or a softmax, of a whole row of scores at once; or of the matrix."""

    POWERS = ("exp", "exp_", "exp2", "exp2_", "softmax", "log_softmax", "logsumexp")

    def __init__(self, whole: int, thing: str = "row"):
        super().__init__()
        self.whole, self.thing = whole, thing

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, x = getattr(func, "__name__", ""), args[0] if args else None
        if name == "scaled_dot_product_attention" or (name in self.POWERS and self._is_whole(x)):
            raise BadAnswer(
                f"It takes all {self.whole} scores of a {self.thing} through {name} at once; here "
                "they come block by block."
            )
        return super().__torch_function__(func, types, args, kwargs)

    def _is_whole(self, x) -> bool:
        if not isinstance(x, torch.Tensor) or not x.dim():
            return False
        return (x.shape[-1] if self.thing == "row" else x.numel()) >= self.whole


def in_tiles(f: Callable, q, k, *args):
    """The answer of f(q, k, ..., block_size), one tile of scores at a time."""
    block_size = args[-1]
    if min(len(q), len(k)) <= block_size:
        return f(q, k, *args)
    with BlockByBlock(len(q) * len(k), "matrix"):
        return f(q, k, *args)


def in_blocks(f: Callable, *args):
    """The answer of f(scores or q, values or k, ..., block_size), one block at a time."""
    row = args[0].shape[-1] if args[0].dim() == 1 else args[1].shape[-2]
    block_size = next(x for x in args if isinstance(x, int))
    if row <= block_size:
        return f(*args)
    with BlockByBlock(row):
        return f(*args)


def counted(call: Callable) -> tuple[object, Timeline]:
    """What a call gives, and when each of its tensors lived."""
    results = []
    with StayInTorch():
        timeline = live_bytes(lambda: results.append(call()))
    return results[0], timeline


def largest(timeline: Timeline) -> int:
    """The bytes of the largest tensor that was made."""
    return max((event.size for event in timeline.events), default=0)


@functools.cache
def wake() -> None:
    """Have torch import what keeping books takes: seconds, once, on no learner's time."""
    live_bytes(torch.ones, 1)
