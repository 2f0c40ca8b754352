"""The mask as a matrix, as tiles, and as skipped work must be one mask."""

import itertools

import pytest
import torch

from attnlib.masks import Mask, Tile, tile_rows, visible

SIZES = [(1, 1), (7, 7), (3, 8), (8, 3), (5, 0), (0, 5), (9, 4)]
MASKS = list(itertools.product((False, True), (None, 1, 3, 100)))


def may_see(i, j, Nq, Nk, causal, window):
    """The definition, said once more without tensors."""
    p = i + Nk - Nq
    if window is not None:
        return p - window < j <= p
    return j <= p or not causal


@pytest.mark.parametrize("Nq, Nk", SIZES)
@pytest.mark.parametrize("causal, window", MASKS)
def test_visible_is_the_definition(Nq, Nk, causal, window):
    see = visible(Nq, Nk, causal=causal, window=window)
    assert see.shape == (Nq, Nk)
    for i, j in itertools.product(range(Nq), range(Nk)):
        assert see[i, j].item() == may_see(i, j, Nq, Nk, causal, window)


@pytest.mark.parametrize("Nq, Nk", SIZES)
@pytest.mark.parametrize("causal, window", MASKS)
@pytest.mark.parametrize("block_size", [1, 2, 4, 50])
def test_tiles_cover_exactly_what_can_be_seen(Nq, Nk, causal, window, block_size):
    mask, covered = Mask(Nq, Nk, causal, window), torch.zeros(Nq, Nk, dtype=torch.bool)
    seen_rows = []
    for rows, tiles in mask.tile_rows(block_size):
        seen_rows += range(rows.start, rows.stop)
        for tile in tiles:
            s = mask.hide_(torch.zeros(Nq, Nk)[tile.rows, tile.cols], tile)
            assert (s == 0).any(), "a tile in which nothing can be seen was not skipped"
            assert tile.partial == (s != 0).any().item()
            covered[tile.rows, tile.cols] = s == 0
    assert seen_rows == list(range(Nq))
    assert torch.equal(covered, visible(Nq, Nk, causal=causal, window=window))


def test_causal_computes_half_the_tiles_and_their_diagonal():
    counts = [len(tiles) for _, tiles in tile_rows(64, 64, 8, causal=True)]
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8]


def test_window_computes_a_band():
    counts = [len(tiles) for _, tiles in tile_rows(64, 64, 8, window=8)]
    assert counts == [1, 2, 2, 2, 2, 2, 2, 2]


def test_key_mask_hides_for_every_query():
    mask = Mask(2, 3, key_mask=torch.tensor([True, False, True]))
    s = mask.hide_(torch.zeros(2, 3), Tile(slice(0, 2), slice(0, 3), False))
    assert s.tolist() == [[0, -torch.inf, 0]] * 2
