"""The picture of two blocks joining: what its bars say is what their numbers are."""

import pytest
import torch

from attnlib.course.draw.join import draw_join


@pytest.fixture
def panel():
    p, v = torch.tensor([0.5, 1.0]), torch.tensor([8.0, 4.0])
    return draw_join({"block 1": [(0, p, v)], "again": [(1, p / 2, v)]}, "a claim").axes[0]


def test_a_bar_has_a_piece_for_every_key_and_ends_at_its_sum(panel):
    pieces = {y: [b for b in panel.patches if abs(b.get_y() + 0.3 - y) < 1e-9] for y in (1, 0)}
    assert [b.get_width() for b in pieces[1]] == [0.5, 1.0]
    assert [b.get_width() for b in pieces[0]] == [4.0, 4.0]
    assert pieces[0][1].get_x() == 4.0


def test_its_sums_stand_at_its_end(panel):
    bold = [t.get_text() for t in panel.texts if t.get_weight() == "bold"]
    assert bold == ["1.5", "8"]
