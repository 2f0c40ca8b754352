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
