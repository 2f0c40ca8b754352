"""What travels is counted, what lies on the bench is free, and the bench is only so large."""

import pytest
import torch

from attnlib import SoftmaxState
from attnlib.traffic import Bench, BenchFull, Shelf, Tape


def test_what_lies_on_the_bench_is_counted_and_what_is_dropped_is_free_again():
    bench = Bench(M=1000)
    x = Shelf(bench, torch.zeros(200))
    with bench:
        a = x[:100]
        assert bench.live == 400
        a = a + 1
        assert (bench.live, bench.peak) == (400, 800)
    assert (x.loaded, x.stored) == (400, 0)


def test_what_does_not_fit_is_refused_and_leaves_the_books_in_order():
    bench = Bench(M=1000)
    with bench:
        a = torch.zeros(200)
        with pytest.raises(
            BenchFull, match=r"ones \(51,\) takes 204 bytes; of 1000 .* 200 are free"
        ):
            torch.ones(51)
        assert bench.live == bench.peak == 800
        torch.ones(50).add_(a[:50])


def test_an_operator_cannot_reach_into_the_warehouse():
    x, bench = torch.zeros(3, 2), Bench()
    with bench, pytest.raises(ValueError, match=r"\(3, 2\) lies in the warehouse"):
        x + 1
    shelf = Shelf(bench, x)
    with bench:
        shelf[1:] = shelf[1:] + 1
    assert x.sum() == 4 and (shelf.loaded, shelf.stored) == (16, 16)


def test_a_block_on_the_bench_is_free():
    tape = Tape(torch.zeros(6, 5).split(2))
    for i in (0, 0, 1, 1, 0):
        assert tape.take(i).shape == (2, 5)
    assert (tape.loaded, tape.stored, tape.moved) == (30, 0, 30)


def test_what_was_carried_home_must_be_fetched_again():
    tape = Tape([None, None])
    tape.put(1, torch.ones(3, 4))
    assert (tape.loaded, tape.stored) == (0, 12)
    assert tape.take(1).sum() == 12 and tape.take(1) is tape.blocks[1]
    assert (tape.loaded, tape.stored, tape.moved) == (12, 12, 24)


def test_a_block_may_be_a_tuple():
    tape = Tape([SoftmaxState.identity(torch.zeros(2, 4), torch.zeros(3, 5))])
    tape.put(0, tape.take(0))
    assert tape.loaded == tape.stored == 2 * (1 + 1 + 5)


@pytest.mark.parametrize("N, b", [(8, 2), (9, 2), (471, 128)])
def test_with_queries_outside_keys_travel_once_for_each_block_of_queries(N, b):
    d, blocks = 4, -(-N // b)
    q, k = (Tape(torch.zeros(N, d).split(b)) for _ in "qk")
    for i in range(blocks):
        for j in range(blocks):
            q.take(i), k.take(j)
    assert q.moved == N * d and k.moved == N * d * blocks
