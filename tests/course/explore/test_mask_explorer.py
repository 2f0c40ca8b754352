"""What the mask explorer shows must be what the library sees and skips."""

import itertools
import re

import pytest
import torch

from attnlib.course.draw.masks import name_blind
from attnlib.course.explore import MaskExplorer, view_mask
from attnlib.masks import Mask, tile_rows, visible

SIZES = [(16, 16), (5, 12), (12, 5), (1, 9), (7, 1), (4, 0)]
MASKS = [{}, {"causal": True}, {"window": 1}, {"window": 4}, {"window": 40}]
EVERY_SIZE = pytest.mark.parametrize("Nq, Nk", SIZES)


def padded_view(Nq, Nk, mask, size, padded=3):
    return view_mask(Mask(Nq, Nk, **mask, key_mask=torch.arange(Nk) >= padded), size)


@EVERY_SIZE
def test_it_shows_the_librarys_mask_and_tiles(Nq, Nk):
    for mask, size in itertools.product(MASKS, (1, 4, 40)):
        view = padded_view(Nq, Nk, mask, size)
        assert torch.equal(view.see, visible(Nq, Nk, **mask) & (torch.arange(Nk) >= 3))
        computed = [tile for _, tiles in tile_rows(Nq, Nk, size, **mask) for tile in tiles]
        assert view.full == [tile for tile in computed if not tile.partial]
        assert view.partial == [tile for tile in computed if tile.partial]


@EVERY_SIZE
def test_every_score_is_in_one_tile_and_skipped_ones_are_hidden(Nq, Nk):
    for mask, size in itertools.product(MASKS, (1, 4, 40)):
        view, times = padded_view(Nq, Nk, mask, size), torch.zeros(Nq, Nk, dtype=torch.int)
        for rows, cols, _ in view.full + view.partial + view.skipped:
            times[rows, cols] += 1
        assert (times == 1).all()
        skipped = cells(view.skipped, Nq, Nk)
        assert not (visible(Nq, Nk, **mask) & skipped).any()
        assert view.saved * Nq * Nk == pytest.approx(skipped.sum().item())


@EVERY_SIZE
def test_a_cell_is_coloured_as_it_is_seen(Nq, Nk):
    for mask, size in itertools.product(MASKS, (1, 4, 40)):
        view = padded_view(Nq, Nk, mask, size)
        kinds, skipped = view.kinds(), cells(view.skipped, Nq, Nk)
        seen = [[kind in ("full", "partial") for kind in row] for row in kinds]
        assert seen == view.see.tolist()
        assert [[kind == "skipped" for kind in row] for row in kinds] == skipped.tolist()
        assert all("padded" not in row[3:] and "hidden" not in row[:3] for row in kinds)


def cells(tiles, Nq, Nk):
    """Where those tiles are, (Nq, Nk) bool."""
    where = torch.zeros(Nq, Nk, dtype=torch.bool)
    for rows, cols, _ in tiles:
        where[rows, cols] = True
    return where


def test_padding_never_skips():
    counts = {len(padded_view(16, 16, {"window": 4}, 4, n).skipped) for n in range(17)}
    assert len(counts) == 1 and counts != {0}


def test_a_full_tile_is_called_full_but_for_padding():
    assert "4 full + 0 partial" in view_mask(Mask(8, 8), 4).describe()
    assert "4 full (but for padding) + 0" in padded_view(8, 8, {}, 4, padded=5).describe()


def test_queries_that_see_nothing_are_named():
    assert view_mask(Mask(6, 3, causal=True), 2).describe().endswith("queries 0-2 see nothing")
    assert name_blind([]) == "every query sees a key"
    assert name_blind([4]) == "query 4 sees nothing"
    assert name_blind([0, 1, 2, 7]) == "queries 0-2, 7 see nothing"


def test_no_combination_of_controls_breaks_the_explorer():
    explorer = MaskExplorer()
    ends = {"Nq": (1, 32), "Nk": (0, 32), "block_size": (1, 40), "window": (0, 1, 32)}
    ends |= {"padded": (0, 32), "side": ("left", "right"), "causal": (False, True)}
    for values in itertools.product(*ends.values()):
        for name, value in zip(ends, values):
            getattr(explorer, name).value = value
        assert explorer.view.describe() == explorer.text in explorer.picture.value
        assert explorer.causal.disabled == (explorer.window.value > 0)


def test_the_picture_has_a_name_large_text_and_a_fallback():
    explorer = MaskExplorer()
    assert explorer.picture.value.startswith('<svg role="img" aria-label="16 × 16: 6 full')
    (size,) = re.findall(r"font-size='(\d+)'", explorer.picture.value)
    assert int(size) >= 15  # pixels: 11 pt
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == f"Mask explorer: {explorer.text}" and bundle["image/png"]
