"""Three ways to attention's gradients, and what each keeps until the backward has passed.

1. autograd    through the readable loop: every tile, N x N numbers again;
2. checkpoint  PyTorch's, around a row of tiles: one row at a time, block x N;
3. Function    `FlashAttentionCore`, which makes each tile again: one tile.

Lesson 09 writes the first two.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from attnlib import FlashAttentionCore, online_attention
from attnlib.course.inputs import make_qkv
from attnlib.course.measure.clock import attempt, contest, peak_here, result
from attnlib.course.measure.machine import device_type
from attnlib.memory import forward_backward, predicted_peak

HEADS, D, BLOCK = 8, 64, 512
LENGTHS = (1024, 2048, 4096, 8192)


def row_of_tiles(q_i, k, v, size):
    """A block of queries q_i (..., block, d) over all keys: their o (..., block, D)."""
    *_, state = online_attention(q_i, k, v, size)  # the last one
    return state.finalise()[0]


def by_autograd(q, k, v, size=256):
    """The loop that PyTorch differentiates by itself. o (..., N, D)."""
    return torch.cat([row_of_tiles(q_i, k, v, size) for q_i in q.split(size, -2)], -2)


def by_checkpoint(q, k, v, size=256):
    """The same, where each row of tiles keeps its inputs alone, and runs again."""
    how = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat(
        [checkpoint(row_of_tiles, q_i, k, v, size, **how) for q_i in q.split(size, -2)], -2
    )


def ways(d: int, block: int) -> dict[str, Callable]:
    """Each way as fn(q, k, v, do) that gives o, dq, dk and dv."""
    cores = {
        "autograd": partial(by_autograd, size=block),
        "checkpoint": partial(by_checkpoint, size=block),
        "Function": FlashAttentionCore(d, block),
    }
    return {name: forward_backward(core) for name, core in cores.items()}


def measure_ways() -> list[dict]:
    """Peak of a forward and backward by each way, predicted and measured, and its ms."""
    rows, found = [], ways(D, BLOCK)
    for N in LENGTHS:
        shape = 1, HEADS, N, D
        tensors = make_qkv(*shape, n=4, device=device_type())
        timed = contest(found, *tensors)
        for name, way in found.items():
            row = {"way": name, "N": N, "block": BLOCK, "shape": list(shape), "dtype": "float32"}
            row["predicted"] = predicted_peak(way, *tensors)
            peak, problem = attempt(peak_here, way, *tensors)
            rows.append(row | timed[name] | result(problem, measured=peak))
    return rows
