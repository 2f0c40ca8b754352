"""One list of shapes, two renderers: both must draw what the list says."""

import re

import pytest

from attnlib.course.draw.shapes import (
    FONT,
    HATCHES,
    Area,
    Look,
    Path,
    Text,
    arrow,
    box,
    figure,
    svg,
)

RED, GREY = Look("#ff0000"), Look(edge="#888888", width=2, dashed=True)
HATCHED = Look("#eeeeee", hatch="rising")


def test_neighbours_of_one_look_are_one_path():
    cells = [box(10 * n, 0, 10, 10, RED) for n in range(50)]
    drawn = svg(cells, (500, 10), "cells", "x")
    assert drawn.count("<path") == 1 and drawn.count("M") == 50
    assert len(figure(cells, (500, 10)).axes[0].patches) == 1


def test_what_comes_later_lies_above():
    shapes = [box(0, 0, 9, 9, RED), box(0, 0, 9, 9, Look("#00ff00")), box(0, 0, 9, 9, RED)]
    fills = re.findall('fill="(#.*?)"', svg(shapes, (9, 9), "three", "x"))
    assert fills == ["#ff0000", "#00ff00", "#ff0000"]
    faces = [p.get_facecolor()[:3] for p in figure(shapes, (9, 9)).axes[0].patches]
    assert faces == [(1, 0, 0), (0, 1, 0), (1, 0, 0)]


def test_an_area_is_closed_and_a_path_is_open():
    points = [(0, 0), (5, 0), (5, 5)]
    assert "Z" in svg([Area(points, RED)], (9, 9), "closed", "x")
    assert "Z" not in svg([Path(points, GREY)], (9, 9), "open", "x")


@pytest.mark.parametrize("hatch", HATCHES)
def test_every_hatch_is_drawn_by_both(hatch):
    look = Look("white", hatch=hatch)
    drawn = svg([box(0, 0, 20, 20, look)], (20, 20), "hatched", "x")
    assert 'fill="url(#x-0)"' in drawn and HATCHES[hatch][0] in drawn
    (patch,) = figure([box(0, 0, 20, 20, look)], (20, 20)).axes[0].patches
    assert patch.get_hatch() == HATCHES[hatch][1]


def test_pictures_of_two_names_share_no_hatch():
    one, two = (svg([box(0, 0, 9, 9, HATCHED)], (9, 9), "hatched", name) for name in "ab")
    assert not set(re.findall('id="(.*?)"', one)) & set(re.findall('id="(.*?)"', two))


def test_words_are_the_same_in_both_and_need_no_escape():
    words = "a < b & “c”"
    shapes = [Text(1, 2, words, "middle", "#ff0000", True, 20)]
    drawn = svg(shapes, (90, 20), words, "x")
    assert drawn.count("a &lt; b &amp; “c”") == 2 and 'font-size="20"' in drawn
    (text,) = figure(shapes, (90, 20)).axes[0].texts
    assert text.get_text() == words and text.get_position() == (1, 2)


def test_text_is_at_least_11_points():
    assert FONT * 72 / 96 >= 11
    (text,) = figure([Text(0, 9, "x")], (90, 20)).axes[0].texts
    assert text.get_fontsize() / 72 * 110 == pytest.approx(FONT)


def test_an_arrow_ends_where_it_points_and_is_as_wide_as_it_says():
    corners = arrow((10, 50), (90, 50), 20, RED).corners
    x, y = zip(*corners)
    tail = min(x)
    assert max(x) == pytest.approx(90) and tail == pytest.approx(10)
    at_the_tail = [Y for X, Y in corners if abs(X - tail) < 1e-9]
    assert max(at_the_tail) - min(at_the_tail) == pytest.approx(20)
    assert max(y) - min(y) == pytest.approx(40)


def test_a_figure_has_the_size_of_the_picture():
    drawn = figure([box(0, 0, 9, 9, RED)], (440, 220))
    assert tuple(drawn.get_size_inches() * drawn.dpi) == pytest.approx((440, 220))
