"""The workbench: what travels between two memories, for the loop and for standard attention.

Tiles come from `tile_rows`, weights from the states that `online_attention` yields, bytes
from the tensors that are carried. Lesson 06.
"""

from collections import Counter

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from attnlib import online_attention
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.draw.workbench import SIZE, Haul, Way, draw_haul
from attnlib.course.explore.base import Stepper
from attnlib.masks import tile_rows

COARSE = 8  # cells along a tile's side


def haul_loop(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> list[Haul]:
    """A step a tile: q comes once for its row of tiles, k and v for every tile; o goes back
    when its row is done. In all 2 N d ceil(N / b) + 2 N d numbers for N queries and keys."""
    hauls, moved = [], Counter(q=0, k=0, v=0, o=0)
    for rows, tiles in tile_rows(len(q), len(k), block_size):
        states = online_attention(q[rows], k, v, block_size)
        for tile, state in zip(tiles, states):
            first, last = tile is tiles[0], tile is tiles[-1]
            load = {"k": k[tile.cols].nbytes, "v": v[tile.cols].nbytes}
            load = ({"q": q[rows].nbytes} if first else {}) | load
            store = {"o": state.finalise()[0].nbytes} if last else {}
            moved += Counter(load | store)
            claim = "The next keys and values come in; q, o, m and l stay on the bench"
            if last:
                claim = "The last keys for these queries: o is done, and it alone goes back"
            elif first:
                claim = "New queries on the bench: their scores will never leave it"
            s = q[rows] @ k[tile.cols].mT * q.shape[-1] ** -0.5  # (rows, cols)
            done = {"o": rows.stop if last else rows.start}
            weights = _coarse(torch.exp(s - state.m))
            step = (claim, rows, tile.cols, "qkspvo", weights, load, store, dict(moved), done)
            hauls.append(Haul(*step))
    return hauls


def haul_standard(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> list[Haul]:
    """A step a block of rows, of three kernels that meet in the warehouse only: scores,
    softmax, values. In all 4 N^2 scores and 4 N d numbers: k and v are counted once, as
    if there were always room for them on the bench."""
    s = q @ k.mT * q.shape[-1] ** -0.5  # (N, M)
    p = torch.softmax(s, -1)  # (N, M)
    o = p @ v  # (N, D)
    kernels = (
        ("Scores: q and k come in, and every row of s goes back", "qks", {"q": q}, {"s": s}),
        ("Softmax: every row of s comes in again, and goes back as p", "sp", {"s": s}, {"p": p}),
        ("Values: every row of p comes in again, and o goes back", "pvo", {"p": p}, {"o": o}),
    )
    hauls, moved, done = [], Counter(q=0, k=0, v=0, o=0, s=0, p=0), {"o": 0, "s": 0, "p": 0}
    for claim, letters, loads, stores in kernels:
        for rows, _ in tile_rows(len(q), len(k), block_size):
            load = {name: x[rows].nbytes for name, x in loads.items()}
            if rows.start == 0:
                load |= {name: x.nbytes for name, x in (("k", k), ("v", v)) if name in letters}
            store = {name: x[rows].nbytes for name, x in stores.items()}
            moved += Counter(load) + Counter(store)
            done = done | dict.fromkeys(stores, rows.stop)
            weights = _coarse(torch.exp(s[rows] - s[rows].amax(-1, keepdim=True)))
            step = (claim, rows, slice(0, len(k)), letters, weights, load, store, dict(moved), done)
            hauls.append(Haul(*step))
    return hauls


def _coarse(weights: Tensor) -> list[list[float]]:
    """The mean weight of each of COARSE x COARSE parts of a tile, the largest as 1."""
    size = tuple(min(COARSE, n) for n in weights.shape)
    parts = adaptive_avg_pool2d(weights[None], size)[0]  # (<= COARSE, <= COARSE)
    return (parts / (parts.max() or 1)).tolist()  # far below m all are 0


class Workbench(Stepper):
    """Tiles travel between a warehouse and a workbench: the loop's, or standard attention's.

    A frame a step: what lies on the bench, what comes, what goes back, bytes so far.
    q (N, d), k (M, d), v (M, D). `ways` holds the steps under each name. Lesson 06.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, block_size: int):
        found = {"the loop": haul_loop(q, k, v, block_size)}
        found["standard attention"] = haul_standard(q, k, v, block_size)
        totals = {name: sum(hauls[-1].moved.values()) for name, hauls in found.items()}
        sizes = (len(q), len(k), q.shape[-1], v.shape[-1])
        self.ways = {name: Way(name, x, sizes, block_size, totals) for name, x in found.items()}
        steps = max(map(len, found.values()))
        frames = {name: [_frame(way, n) for n in range(steps)] for name, way in self.ways.items()}
        shown, n = self.ways["the loop"], len(found["the loop"]) // 2
        picture = figure(draw_haul(shown, n), SIZE)
        super().__init__(frames, "step", picture, f"Workbench: {shown.describe(n)}")


def _frame(way: Way, n: int) -> tuple[str, str]:
    text = way.describe(n)
    return svg(draw_haul(way, n), SIZE, text, f"{way.name.split()[0]}-haul-{n}"), text
