"""Under a roof: marks stand where the data says, and nothing stands above it."""

import pytest

from attnlib.course.draw.roof import draw_bends, draw_roof
from attnlib.course.draw.shapes import Area
from attnlib.course.draw.travel import SIZE, Travel, describe_travel, draw_travel
from attnlib.roofline import Roof

ROOF = Roof(100e12, 1e12)
ROWS = [
    {"core": "standard", "intensity": 20, "does": 15.0},
    {"core": "SDPA", "intensity": 50, "does": 45.0, "most": 1e5},
]


def test_a_mark_stands_at_its_intensity_and_one_with_a_cache_has_an_arrow():
    (ax,) = draw_roof(ROOF, ROWS, "title").axes
    marks = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() != "None"]
    assert marks == [[[20, 20]], [[20, 15]], [[50, 45]]]  # allowed, measured; measured
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    (arrow,) = arrows
    assert arrow.get_position() == (50, 45) and not arrow.get_text()


def test_the_law_and_the_squares_are_drawn_as_they_are():
    figure = draw_bends({"M": ([1, 2, 4], [8e6, 5e6, 3e6], [8e6, 4e6, 2e6])}, "title")
    law, square = (line.get_ydata() for line in figure.axes[0].lines)
    assert list(law) == [8, 4, 2] and list(square) == [8, 5, 3]


@pytest.mark.parametrize("M", [100, 1000])
def test_a_bench_is_drawn_to_scale_and_a_refused_tile_has_no_mark(M):
    travel = Travel(4, 2, M, (200, 100, 80, 20), 900, 1000, 5000, 30000)
    shapes = list(draw_travel(travel, ROOF, "a call"))
    widths = [s.corners[1][0] - s.corners[0][0] for s in shapes if isinstance(s, Area)]
    assert ("refused" in describe_travel(travel)) == (M == 100)
    marks = [s for s in shapes if isinstance(s, Area) and s.look.edge == "black"]
    assert len(marks) == (1 if M == 100 else 2)
    if travel.fits:
        assert widths[:4] == pytest.approx([66, 33, 26.4, 6.6])
    points = [xy for s in shapes if isinstance(s, Area) for xy in s.corners]
    assert all(0 <= x <= SIZE[0] and 0 <= y <= SIZE[1] for x, y in points)
