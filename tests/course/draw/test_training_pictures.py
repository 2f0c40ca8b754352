"""Pictures of training: heights and points are the data's."""

import pytest

from attnlib.course.draw.training import BOOKS, draw_curves, draw_reach, draw_stack

PARTS = {"parameters": 1e9, "activations": 2e9, "attention": 4e9}
STACKS = {"standard": {1024: PARTS, 2048: {**PARTS, "attention": 17e9}}, "flash": {1024: PARTS}}
MEASURED = {"standard": {1024: 7e9, 2048: 21e9}, "flash": {1024: 7e9}}


def test_a_stack_is_as_high_as_its_parts_and_the_dots_are_what_was_measured():
    standard, *_ = draw_stack(STACKS, MEASURED, "title").axes
    tops = [bar.get_y() + bar.get_height() for bar in standard.patches]
    assert tops == pytest.approx([1, 1, 3, 3, 7, 20])
    assert list(standard.lines[0].get_ydata()) == [7, 21]


def test_cores_share_a_scale_and_the_last_panel_says_how_much_it_enlarges():
    standard, flash, last = draw_stack(STACKS, MEASURED, "title").axes
    assert standard.get_ylim() == flash.get_ylim() != last.get_ylim()
    times = flash.get_ylim()[1] / last.get_ylim()[1]
    assert last.get_title(loc="left") == f"enlarged {times:.0f} times"


def test_equal_losses_have_no_distance_and_others_have_theirs():
    figure = draw_curves({"standard": [3.0, 2.0, 1.0], "flash": [3.0, 2.5, 1.25]}, "title")
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [[3, 2, 1], [3, 2.5, 1.25]]
    (points,) = right.lines
    assert list(points.get_xdata()) == [1, 2] and list(points.get_ydata()) == [0.5, 0.25]


def test_a_reach_is_to_scale_and_one_that_leaves_the_page_has_an_arrow():
    reach = {"standard": {"small": 50}, "flash": {"small": 150, "large": 500}}
    (ax,) = draw_reach(reach, {"I": 0, "II": 40}, 100, "title").axes
    assert [bar.get_width() for bar in ax.patches] == [50, 150, 100 * BOOKS]
    said = [text.get_text() for text in ax.texts]
    assert said[:3] == ["50 = 50%", "150 = 1.5 books", "500 = 5.0 books →"]
