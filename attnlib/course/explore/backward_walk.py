"""The backward walk: the grid of scores once more, and what each tile adds to dq, dk and dv.

What a tile adds comes from `online_attention_backward` on the tile's own rows and columns,
what travels from a `Tape`. Lesson 09.
"""

from torch import Tensor, exp, zeros_like

from attnlib import online_attention, online_attention_backward
from attnlib.course.draw.backward import SIZE, Back, BackWalk, draw_back
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.explore.base import Stepper
from attnlib.traffic import Tape

ORDERS = ("keys", "queries")


def walk_backward(q, k, v, do, block_size: int, outside: str = "keys") -> list[Back]:
    """Every tile of the backward, in the order of a loop with keys or queries outside.

    dq of a block of queries is the sum over its row of tiles, dk and dv of a block of keys
    that over its column. The outer loop's sums grow on the bench and are stored once; the
    inner loop's come and go with every tile. q, do (N, .), k, v (M, .). Raises ValueError
    for another `outside`.
    """
    if outside not in ORDERS:
        raise ValueError(f"outside must be keys or queries, got {outside!r}")
    *_, state = online_attention(q, k, v, block_size)
    o, lse = state.finalise()  # (N, D), (N,): all that the forward leaves
    delta = (do * o).sum(-1, keepdim=True)  # (N, 1)
    queries, keys = _blocks(block_size, q, do, lse, delta), _blocks(block_size, k, v)
    dq, dkv = _blocks(block_size, zeros_like(q)), _blocks(block_size, *map(zeros_like, (k, v)))
    have, steps = ([0] * len(dq.blocks), [0] * len(dkv.blocks)), []
    for i, j, last in _order(len(dq.blocks), len(dkv.blocks), outside):
        (q_i, do_i, lse_i, delta_i), (k_j, v_j) = queries.take(i), keys.take(j)
        rows = slice(block_size * i, block_size * i + len(q_i))
        cols = slice(block_size * j, block_size * j + len(k_j))
        # The readable backward on this tile's rows and columns: its part of dq, dk and dv.
        added = online_attention_backward(q_i, k_j, v_j, o[rows], lse_i, do_i, block_size)
        _add(dq, i, added[:1], at_home=outside == "queries", last=last)
        _add(dkv, j, added[1:], at_home=outside == "keys", last=last)
        have[0][i], have[1][j] = have[0][i] + 1, have[1][j] + 1
        p = exp(q_i @ k_j.mT * q.shape[-1] ** -0.5 - lse_i[:, None])  # (rows, cols)
        dp = do_i @ v_j.mT  # (rows, cols)
        tapes = {"q, do": queries, "k, v": keys, "dq": dq, "dk, dv": dkv}
        moved = {name: tape.moved for name, tape in tapes.items()}
        weights = p, dp, delta_i, p * (dp - delta_i)
        sums, counts = (*dq.blocks[i], *dkv.blocks[j]), tuple(map(tuple, have))
        steps.append(Back((i, j), rows, cols, *weights, added, sums, counts, moved))
    return steps


def _blocks(size: int, *tensors: Tensor) -> Tape:
    return Tape(zip(*(x.split(size) for x in tensors)))


def _order(rows: int, cols: int, outside: str):
    """(row, column, whether it ends the outer loop's turn) of every tile."""
    if outside == "keys":
        return [(i, j, i == rows - 1) for j in range(cols) for i in range(rows)]
    return [(i, j, j == cols - 1) for i in range(rows) for j in range(cols)]


def _add(tape: Tape, at: int, added, at_home: bool, last: bool) -> None:
    """Add to a block of the warehouse, or to one that stays on the bench until its last."""
    block = tape.blocks[at] if at_home else tape.take(at)
    total = tuple(x + y for x, y in zip(block, added))
    if last or not at_home:
        tape.put(at, total)
    else:
        tape.blocks[at] = total


class BackwardWalk(Stepper):
    """The backward of q, k, v (N, d) and do (N, D), tile by tile, in both orders.

    `walks` holds the steps with keys and with queries outside, `now` the step shown.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, do: Tensor, block_size: int):
        steps = {x: walk_backward(q, k, v, do, block_size, x) for x in ORDERS}
        most = max(sum(walk[-1].moved.values()) for walk in steps.values())
        self.walks = {f"{x} outside": BackWalk(walk, x, most) for x, walk in steps.items()}
        frames = {name: list(_frames(walk)) for name, walk in self.walks.items()}
        shown = self.walks["keys outside"]
        n = len(shown.steps) // 2 + 1  # amid a column
        text = f"Backward walk: {shown.describe(n)}"
        super().__init__(frames, "tile", figure(draw_back(shown, n), SIZE), text)

    @property
    def now(self) -> Back:
        return self.walks[self.choice.value].steps[self.slider.value]


def _frames(walk: BackWalk):
    for n in range(len(walk.steps)):
        text = walk.describe(n)
        yield svg(draw_back(walk, n), SIZE, text, f"back-{walk.outside}-{n}"), text
