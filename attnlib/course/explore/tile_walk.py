"""The tile walk: the grid of scores, a tile at a time, and what each tile costs.

Bytes come from the books kept while `FlashAttentionCore` runs, the tiles from
`tile_rows`, a row's state from `online_attention` and `merge`. Lesson 06.
"""

from torch import Tensor

from attnlib import FlashAttentionCore, SoftmaxState, StdAttentionCord, online_attention
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.draw.walk import SIZE, Step, Walk, draw_step
from attnlib.course.explore.base import Stepper
from attnlib.masks import Tile, key_range, tile_rows
from attnlib.memory import forward, live_bytes


def walk_tiles(q: Tensor, k: Tensor, v: Tensor, block_size: int, row: int, **mask) -> list[Step]:
    """Every tile of the grid, row after row, as `FlashAttentionCore` walks it.

    q (N, d), k (M, d), v (M, D); `mask` is causal or window. A block of q is
    loaded once for its row of tiles, a block of k and one of v for every tile; the block
    of o is stored once, after the row's last tile.
    """
    N, M = len(q), len(k)
    resting, *alive = alive_bytes(q, k, v, block_size, **mask)
    loads, stored, steps = dict.fromkeys("qkv", 0), 0, []
    state = SoftmaxState.identity(q[row, None], v)
    for rows, tiles in tile_rows(N, M, block_size, **mask):
        computed = {tile.cols.start: tile for tile in tiles}
        for j in range(0, M, block_size):
            tile = computed.get(j)
            if tile is None:
                cols = slice(j, min(j + block_size, M))
                tile = Tile(rows, cols, False)
                steps.append(Step(tile, "skipped", resting, loads, {"o": stored}, state))
                continue
            first = q[rows] if tile is tiles[0] else q[:0]
            blocks = {"q": first, "k": k[tile.cols], "v": v[tile.cols]}
            loads = {name: loads[name] + block.nbytes for name, block in blocks.items()}
            if rows.start <= row < rows.stop:
                state = state.merge(state_of_tile(q, k, v, row, tile, **mask))
            if tile is tiles[-1]:  # the rows of o are done, (rows, D) in the dtype of q
                stored += len(q[rows]) * v.shape[-1] * q.element_size()
            kind = "partial" if tile.partial else "full"
            steps.append(Step(tile, kind, alive.pop(0), loads, {"o": stored}, state))
    return steps


def state_of_tile(q, k, v, row: int, tile: Tile, **mask) -> SoftmaxState:
    """What one query saw of the keys of a tile: the readable loop, on those keys alone."""
    start, stop = key_range(slice(row, row + 1), len(q), len(k), **mask)
    keys = slice(max(start, tile.cols.start), max(min(stop, tile.cols.stop), 0))
    *_, state = online_attention(q[row, None], k[keys], v[keys], tile.cols.stop)
    return state


def alive_bytes(q, k, v, block_size: int, **mask) -> list[dict[str, int]]:
    """The bytes alive in a call of the core: first between the tiles, then at the
    highest moment of every tile. Each tile ends with the sum of its weights."""
    timeline = live_bytes(forward(FlashAttentionCore(q.shape[-1], block_size), **mask), q, k, v)
    tile = min(block_size, len(q)) * min(block_size, len(k)) * q.element_size()
    (scores,) = (e.size for e in timeline.events if e.size > 0 and "new_empty" in e.name)
    assert 0 <= scores - tile < 512, "one buffer, as large as a tile"
    known = {"output": timeline.kept, "score tile": scores}
    found, highest = [known | {"rest": 0}], 0
    for event in timeline.events:
        highest = max(highest, event.live)
        if event.size > 0 and event.name.startswith("sum"):
            found.append(known | {"rest": highest - sum(known.values())})
            highest = 0
    return found


def standard_moves(q, k, v) -> int:
    """Bytes that standard attention moves between its memory and its three kernels.

    q and k in, s out; s in, p out; p and v in, o out: 4 N M scores, and q, k, v, o once.
    """
    scores, o = len(q) * len(k), len(q) * v.shape[-1]
    return (4 * scores + o) * q.element_size() + q.nbytes + k.nbytes + v.nbytes


class TileWalk(Stepper):
    """Self-attention of q, k, v (N, d), tile by tile, following one row.

    `walks` holds the steps under each mask, `now` the step that is shown.
    """

    def __init__(self, q, k, v, block_size: int, row: int, word: str, window: int):
        masks = {"every key": {}, "causal": {"causal": True}}
        masks[f"window of {window}"] = {"window": window}
        peak = live_bytes(forward(StdAttentionCord(q.shape[-1])), q, k, v).peak
        steps = {name: walk_tiles(q, k, v, block_size, row, **m) for name, m in masks.items()}
        reach = dict(zip(steps, (None, len(q), window)))
        self.walks = {
            name: Walk(walk, len(q), row, word, reach[name], (peak, standard_moves(q, k, v)))
            for name, walk in steps.items()
        }
        frames = {name: list(_frames(walk, name)) for name, walk in self.walks.items()}
        shown = self.walks["every key"]  # where the followed row has seen its last keys
        n = (row // block_size + 1) * -(-len(k) // block_size) - 1
        picture, text = figure(draw_step(shown, n), SIZE), f"Tile walk: {shown.describe(n)}"
        super().__init__(frames, "tile", picture, text)

    @property
    def now(self) -> Step:
        return self.walks[self.choice.value].steps[self.slider.value]


def _frames(walk, name):
    for n in range(len(walk.steps)):
        text = walk.describe(n)
        yield svg(draw_step(walk, n), SIZE, text, f"{name.split()[0]}-{n}"), text
