"""Which keys a query may see, and which whole tiles need not be computed.

Query i of Nq stands at key position p = i + Nk - Nq: the last query is level
with the last key (bottom-right alignment). `causal` lets it see keys j <= p,
`window` w lets it see the last w of those, p - w < j <= p. A window therefore
implies causal. With neither, every query sees every key.

1. `visible`    the mask as a matrix: what every later rung must agree with.
2. `hidden`     its complement on one tile, from two ranges.
3. `key_range`  the keys that a range of queries can see at all.
4. `tile_rows`  the walk over the tiles in which something can be seen.

`Mask` applies them to scores, padding included. Padding (`key_mask`) depends
on data, so it masks and never skips: skipping would make the CPU wait for the
GPU to look. What lies in padding is often garbage, and a weight of 0 does not
hide it (0 NaN is NaN): so padded rows of k and v are set to 0 as well. Lesson 07.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnlib.preconditions import require_attention_inputs


class Tile(NamedTuple):
    """One tile of the score matrix that must be computed."""

    rows: slice
    cols: slice
    partial: bool  # some of its queries may not see some of its keys


def visible(
    Nq: int, Nk: int, *, causal: bool = False, window: int | None = None, device=None
) -> Tensor:
    """The mask as a boolean matrix (Nq, Nk), True = may be seen."""
    i = torch.arange(Nq, device=device)[:, None]  # (Nq, 1)
    j = torch.arange(Nk, device=device)  # (Nk,)
    p = i + Nk - Nq
    see = (j <= p) if causal or window is not None else (j >= 0).expand(Nq, Nk)
    return see if window is None else see & (j > p - window)


def hidden(tile: Tile, shift: int, *, window: int | None = None, device=None) -> Tensor:
    """True where a causal query of the tile may not see a key: (rows, cols).

    `shift` = Nk - Nq puts query i at key position i + shift.
    """
    rows, cols, _ = tile
    p = torch.arange(rows.start + shift, rows.stop + shift, device=device)[:, None]
    j = torch.arange(cols.start, cols.stop, device=device)
    mask = j > p  # (rows, cols)
    return mask if window is None else mask.logical_or_(j <= p - window)


def key_range(
    rows: slice, Nq: int, Nk: int, *, causal: bool = False, window: int | None = None
) -> tuple[int, int]:
    """First and one past the last key that some query of `rows` can see.

    Where they see nothing, the range is empty: stop <= start.
    """
    first, last = rows.start + Nk - Nq, rows.stop - 1 + Nk - Nq  # key positions
    start = max(0, first - window + 1) if window is not None else 0
    stop = min(Nk, last + 1) if causal or window is not None else Nk
    return start, stop


def tile_rows(
    Nq: int, Nk: int, block_size: int, *, causal: bool = False, window: int | None = None
) -> Iterator[tuple[slice, list[Tile]]]:
    """For each block of queries, the tiles it must compute, from left to right.

    Tiles that `causal` or `window` hides from every query are left out; the
    list may be empty. `partial` marks the tiles that need a mask. Every query
    is in one block, also where it sees nothing.
    """
    bounded = causal or window is not None
    for i in range(0, Nq, block_size):
        rows = slice(i, min(i + block_size, Nq))
        start, stop = key_range(rows, Nq, Nk, causal=causal, window=window)
        tiles = []
        for j in range(start // block_size * block_size, stop, block_size):
            cols = slice(j, min(j + block_size, Nk))
            # The first query sees least on the right, the last least on the left.
            right = bounded and cols.stop > rows.start + Nk - Nq + 1
            left = window is not None and cols.start <= rows.stop - 1 + Nk - Nq - window
            tiles.append(Tile(rows, cols, right or left))
        yield rows, tiles


class Mask(NamedTuple):
    """What a core was asked to hide, for scores (..., Nq, Nk).

    key_mask broadcasts to (..., Nk): True = may be seen.
    """

    Nq: int
    Nk: int
    causal: bool = False
    window: int | None = None
    key_mask: Tensor | None = None

    @classmethod
    def of(cls, q, k, v, causal, key_mask, window) -> "Mask":
        """The mask of a call. Raises what is wrong with any of its arguments."""
        window = require_attention_inputs(q, k, v, causal, key_mask, window)
        return cls(q.shape[-2], k.shape[-2], causal, window, key_mask)

    def for_heads(self, heads: slice) -> "Mask":
        """The mask of some of q's heads; they lie in dimension -2 of key_mask."""
        return self._replace(key_mask=self.key_mask[..., heads, :]) if self.by_heads() else self

    def by_heads(self) -> bool:
        """Whether heads have a key_mask each."""
        return self.key_mask is not None and self.key_mask.dim() > 1 < self.key_mask.shape[-2]

    def empty_rows(self, device) -> Tensor | None:
        """True for queries that see no key, (..., Nq, 1); None if shapes forbid any.

        A query sees a range of keys; of n[j] unpadded ones among the first j, it sees
        n[stop] - n[start].
        """
        bounded = self.causal or self.window is not None
        if self.key_mask is None and not (bounded and self.Nq > self.Nk):
            return None
        mask = torch.ones(self.Nk, device=device) if self.key_mask is None else self.key_mask
        n = pad(mask.cumsum(-1, dtype=torch.int32), (1, 0))  # (..., Nk + 1)
        p = torch.arange(self.Nk - self.Nq, self.Nk, device=device)  # (Nq,)
        stop = p + 1 if bounded else torch.full_like(p, self.Nk)
        start = p + 1 - (self.window or self.Nk + self.Nq)
        n_start, n_stop = (n[..., j.clamp(0, self.Nk)] for j in (start, stop))  # (..., Nq)
        return (n_stop == n_start)[..., None]

    def whole(self) -> Tile:
        """The score matrix as one tile."""
        partial = self.causal or self.window is not None
        return Tile(slice(0, self.Nq), slice(0, self.Nk), partial)

    def tile_rows(self, block_size: int) -> Iterator[tuple[slice, list[Tile]]]:
        """`tile_rows` of this mask."""
        return tile_rows(self.Nq, self.Nk, block_size, causal=self.causal, window=self.window)

    def without_padding(self, x: Tensor, cols: slice) -> Tensor:
        """k or v at some keys, (..., cols, d), with 0 for those that key_mask hides."""
        return x if self.key_mask is None else x.masked_fill(~self.key_mask[..., cols, None], 0)

    def hide_(self, s: Tensor, tile: Tile) -> Tensor:
        """Set the tile's scores s (..., rows, cols) to -inf where hidden, in place."""
        if tile.partial:
            shift = self.Nk - self.Nq
            s.masked_fill_(hidden(tile, shift, window=self.window, device=s.device), -math.inf)
        if self.key_mask is not None:
            s.masked_fill_(~self.key_mask[..., None, tile.cols], -math.inf)
        return s
