"""The picture of the two memories: true to scale, and in the words of its arguments."""

import re

import pytest

from attnlib.course.draw.memories import H100, Memory, describe_memories, draw_two_memories

BENCH = Memory("SRAM", 2**20, 30e12, parts=10)
STORE = Memory("HBM", 10 * 10**9, 2e12)


def areas(figure):
    """Bounding boxes of the figure's patches, as (width, height)."""
    boxes = [patch.get_path().get_extents() for patch in figure.axes[0].patches]
    return [(round(b.width, 3), round(b.height, 3)) for b in boxes]


def words(figure):
    return " ".join(text.get_text() for text in figure.axes[0].texts)


def test_areas_are_to_scale():
    drawn = areas(draw_two_memories(BENCH, STORE, 4 * 10**9, "goods"))
    store = drawn[0]
    goods = (store[0], round(0.4 * store[1], 3))
    side = round((store[0] * store[1] * BENCH.bytes / STORE.bytes) ** 0.5, 3)
    assert goods in drawn and (side, side) in drawn


def test_every_number_comes_from_the_arguments():
    said = words(draw_two_memories(BENCH, STORE, 4 * 10**9, "goods"))
    for number in ("15 times as fast", "954 times", "10 GB", "10 MiB", "10 pieces of 1 MiB"):
        assert number in said
    assert "2 TB/s" in said and "30 TB/s" in said and "goods: 4 GB" in said
    assert "228" not in said and "132" not in said


def test_the_sentence_says_what_the_picture_shows():
    said = describe_memories(*H100, 2 * (128 * 1024) ** 2, "one head's scores")
    assert re.search("80 GB at 3.35 TB/s; one head's scores fill 43% of it", said)
    assert "29.4 MiB at 31 TB/s" in said


def test_goods_that_the_warehouse_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="goods"):
        draw_two_memories(BENCH, STORE, 11 * 10**9, "goods")
