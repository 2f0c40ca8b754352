"""Timelines, maps of weights and loops as pictures."""

import pytest
import torch

from attnlib import StdAttentionCord
from attnlib.course.draw import charts, evidence
from attnlib.course.inputs import make_qkv
from attnlib.memory import MIB, forward_backward, live_bytes


def test_bands_add_up_to_what_is_alive_and_tell_namesakes_apart():
    timeline = live_bytes(forward_backward(StdAttentionCord(8)), *make_qkv(2, 16, 8, n=4))
    names = {"bmm (2, 16, 16)": ("s", "dp"), "_softmax": "p"}
    bands = charts._bands(timeline, names)
    alive = [event.live for event in timeline.events]
    assert set(bands) == {"s", "dp", "p", "rest"}
    assert (sum(bands.values())[:-1] * MIB == alive).all()
    assert not (bands["s"] * bands["dp"]).any()  # one is freed long before the other


def test_the_bars_at_the_peak_add_up_to_it():
    x = torch.zeros(64, 256)
    timeline = live_bytes(lambda x: (x + 1).exp() * 2, x)
    ax = charts.draw_peaks({"call": timeline}, {"add": "s", "exp": "p", "mul": "o"})
    widths = [bar.get_width() for bar in ax.patches]
    assert sum(widths) == pytest.approx(timeline.peak / MIB) and len(widths) == 3
    assert {text.get_text() for text in ax.texts} >= {"s", "p"}


def test_maps_of_weights_share_one_scale():
    maps = {"sharp": torch.eye(3), "flat": torch.full((3, 3), 0.1)}
    axes = charts.draw_weight_maps(maps, ["a", "b", "c"])
    sharp, flat = (ax.images[0] for ax in axes)
    assert sharp.norm(0.1) == flat.norm(0.1) < sharp.norm(1.0) == 1


def test_two_loops_say_what_each_carries():
    moved = {"queries outside": [32, 128, 128, 32], "keys outside": [128, 32, 32, 384]}
    figure = evidence.draw_two_loops(moved, 4, "a title")
    titles = [ax.get_title() for ax in figure.axes[:2]]
    assert titles == ["queries outside: 320 numbers carried", "keys outside: 576 numbers carried"]
    assert [len(ax.patches) - 3 for ax in figure.axes[:2]] == [16, 16]


def test_the_parts_of_a_bill_stand_end_to_end_above_what_was_measured():
    ax = evidence.draw_bill({"carrying": 41, "computing": 9}, 58, "ms", "a title").axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 41), (41, 9), (0, 58)]


def test_every_curve_of_a_saving_has_its_name_at_its_end():
    curves = {"a": [(32, 2.0), (2048, 2.0)], "b": [(32, 2.0), (2048, 3.9)]}
    ax = evidence.draw_saving(curves, [(128, 2.0)], "a title").axes[0]
    assert {text.get_text(): text.xy for text in ax.texts} == {"a": (2048, 2.0), "b": (2048, 3.9)}
