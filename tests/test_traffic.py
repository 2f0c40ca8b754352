"""What travels is counted, and what lies on the bench is free."""

import pytest
import torch

from attnlib import SoftmaxState
from attnlib.traffic import Tape


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
