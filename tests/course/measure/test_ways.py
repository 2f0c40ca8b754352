"""Three ways to a gradient: the same one, and what each keeps for it."""

from itertools import pairwise

import pytest
import torch
from cases import random_qkv

from attnlib import StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.course.measure import training
from attnlib.course.measure import ways as room
from attnlib.memory import forward_backward, live_bytes, predicted_peak

NAMES = ["autograd", "checkpoint", "Function"]
WAY = pytest.mark.parametrize("name", NAMES)


@WAY
def test_each_way_gives_the_textbooks_gradients(name):
    qkv = random_qkv(Nq=37, Nk=37, d=8, dv=8, dtype=torch.float64)
    got = room.ways(8, 10)[name](*qkv, qkv[2])
    exact = forward_backward(StdAttentionCord(8))(*qkv, qkv[2])
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-13)


@WAY
@pytest.mark.parametrize("N", [256, 500])
def test_a_peak_is_predicted_to_the_byte_that_is_counted(name, N):
    way, qkvo = room.ways(16, 128)[name], make_qkv(N, 16, n=4)
    assert predicted_peak(way, *qkvo) == live_bytes(way, *qkvo).peak


@WAY
def test_autograd_grows_by_the_square_and_the_others_in_step(name):
    """From 1k to 8k: each doubling adds four times what the last one added, or twice."""
    way = room.ways(16, 1024)[name]
    peaks = [predicted_peak(way, *make_qkv(N, 16, n=4, device="meta")) for N in room.LENGTHS]
    _, last, now = (b - a for a, b in pairwise(peaks))
    assert now > 3.95 * last if name == "autograd" else 0 < now <= 2 * last


def test_the_rows_are_a_measurement_and_its_prediction(monkeypatch):
    monkeypatch.setattr(room, "LENGTHS", (64, 100))
    monkeypatch.setattr(room, "BLOCK", 32)
    rows = room.measure_ways()
    assert [(r["N"], r["way"]) for r in rows] == [(N, name) for N in (64, 100) for name in NAMES]
    assert all(r["measured"] == r["predicted"] > 0 and r["ms"] > 0 for r in rows)


def test_the_section_records_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for kind in ("steps", "contexts", "book", "curves"):
        monkeypatch.setattr(training, f"measure_{kind}", list)
    monkeypatch.setattr(training, "measure_ways", lambda: [{"N": 1}])
    assert training.measure_training() == [{"kind": "ways", "N": 1}]
