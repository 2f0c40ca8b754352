"""The toll on the road: what operators read and write."""

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.trips import Trip, trips

N, D = 2048, 8
SCORES = N * N * 4  # bytes of one head's


def test_an_operator_reads_its_tensors_and_writes_its_result():
    x, y = torch.zeros(2, 3), torch.zeros(3)
    assert trips(lambda: x + y) == [Trip("add", 24 + 12, 24)]


def test_in_place_is_a_trip_there_and_back():
    x = torch.zeros(6)
    assert trips(x.exp_) == [Trip("exp_", 24, 24)]


def test_what_is_overwritten_is_not_read():
    x, a = torch.zeros(1, 4, 4), torch.zeros(1, 4, 2)
    assert trips(x.copy_, x.clone()) == [Trip("copy_", 64, 64)]
    assert trips(x.zero_) == [Trip("zero_", 0, 64)]
    for beta, read in ((0, 64), (1, 128)):
        call = lambda: torch.baddbmm(x, a, a.mT, beta=beta, out=x)  # noqa: E731, B023
        assert trips(call) == [Trip("baddbmm", read, 64)]


def test_views_and_fresh_memory_cost_nothing():
    x = torch.zeros(4, 4)
    assert trips(lambda: (x[1:].mT.reshape(4, 3).expand(2, 4, 3), torch.empty_like(x))) == []


def test_small_tensors_can_be_free():
    x, y = torch.zeros(100), torch.zeros(())
    assert trips(lambda: x + y, least=400) == [Trip("add", 400, 400)]


def test_standard_attention_carries_its_scores_four_times():
    qkv = make_qkv(1, 1, N, D, device="meta")
    done = trips(StdAttentionCord(D), *qkv, least=SCORES)
    assert [(t.read // SCORES, t.written // SCORES) for t in done] == [(0, 1), (1, 1), (1, 0)]


@pytest.mark.parametrize("blocks", (2, 4))
def test_smaller_tiles_carry_as_many_scores_in_all(blocks):
    qkv = make_qkv(1, 1, N, D, device="meta")
    whole, tiles = (  # a product of scores may come in eight parts
        trips(FlashAttentionCore(D, N // n), *qkv, least=SCORES // n**2 // 8) for n in (1, blocks)
    )
    for way in ("read", "written"):
        assert sum(getattr(t, way) for t in tiles) == sum(getattr(t, way) for t in whole) > SCORES
