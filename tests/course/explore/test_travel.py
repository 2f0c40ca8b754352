"""How much travels? The explorer says what the machine counts."""

import pytest
import torch

from attnlib.course.explore import HowMuchTravels
from attnlib.course.explore.travel import walk
from attnlib.programs import queries_outside, run
from attnlib.roofline import Roof

ROOF = Roof(1e15, 3e12)


@pytest.mark.parametrize("b, c", [(64, 64), (32, 128), (256, 8)])
def test_the_explorer_says_what_the_machine_counts(b, c):
    found = walk(256, 16, 2**14, b, c)
    q, k, v = torch.randn(3, 256, 16).half()
    haul = run(queries_outside, q, k, v, b, c)
    assert (found.moved, sum(found.parts)) == (haul.moved, haul.peak)
    assert found.keys == haul.shelves["k"].loaded + haul.shelves["v"].loaded
    assert found.fits == (haul.peak <= 2**14)


def test_a_tile_too_large_is_refused_and_has_no_place_under_the_roof():
    explorer = HowMuchTravels(ROOF)
    assert explorer.found.fits and "flash: " in explorer.picture.value
    assert "130 MiB travel" in explorer.numbers.value
    explorer.b.value = 2048
    assert not explorer.found.fits and "refused" in explorer.numbers.value
    assert explorer.picture.value.count("<path") < 20 and "refuses" in explorer.picture.value


def test_more_queries_move_the_mark_to_the_right():
    explorer, seen = HowMuchTravels(ROOF), []
    for b in (32, 64, 128):
        explorer.b.value = b
        seen.append(explorer.found.work / explorer.found.moved)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(128, rel=0.03)


def test_the_papers_button_takes_a_quarter_of_the_bench():
    explorer = HowMuchTravels(ROOF)
    explorer.M.value, explorer.d.value = 2**15, 32
    explorer.paper.click()
    assert 4 * explorer.b.value * 32 * 2 == 2**15
