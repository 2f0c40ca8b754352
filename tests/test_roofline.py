"""A roof has two slopes, and they meet at the ridge."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnlib import StdAttentionCord
from attnlib.programs import law, queries_outside, textbook
from attnlib.roofline import Roof, flops


def test_below_the_ridge_bytes_are_the_limit_and_above_it_operations():
    roof = Roof(speed=1000, bandwidth=10)
    assert roof.ridge == 100
    assert [roof.at(x) for x in (1, 50, 100, 200)] == [10, 500, 1000, 1000]


def test_the_operations_are_those_that_torch_counts():
    q, k, v = torch.empty(3, 2, 64, 16, device="meta")
    with FlopCounterMode(display=False) as counted:
        StdAttentionCord(16)(q, k, v)
    assert counted.get_total_flops() == 2 * flops(64, 16)


@pytest.mark.parametrize("size", [2, 4])
def test_the_textbooks_intensity_ends_at_the_head_size_and_flashs_at_the_tile(size):
    N, d, b = 2**20, 64, 256
    intensities = {f: flops(N, d) / law(f, N, d, b, b, size) for f in (textbook, queries_outside)}
    assert intensities[queries_outside] == pytest.approx(2 * b / size, rel=1e-3)
    # its products, too, fetch tiles: k and v once for each b queries
    assert 1 / intensities[textbook] == pytest.approx(size * (1 / d + 1 / (2 * b)), rel=1e-3)
