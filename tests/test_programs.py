"""Four programs answer the same, and carry what the law says, to the byte."""

import math

import pytest
import torch

from attnlib import attention_oracle
from attnlib.programs import (
    fused_rows,
    key_loads,
    keys_outside,
    largest_tile,
    law,
    paper_tile,
    queries_outside,
    run,
    textbook,
)
from attnlib.softmax import relative_error
from attnlib.traffic import BenchFull

PROGRAMS = (textbook, fused_rows, queries_outside, keys_outside)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "N, d, b, c", [(128, 16, 32, 16), (131, 8, 32, 50), (7, 3, 9, 2), (1, 1, 1, 1)]
)
def test_each_program_carries_what_the_law_says_and_answers_right(f, N, d, b, c):
    q, k, v = torch.randn(3, N, d)
    haul = run(f, 4 * q, k, v, b, c)
    exact = attention_oracle(4 * q.double(), k.double(), v.double())[0]
    assert relative_error(haul.o, exact) < 1e-6
    assert haul.moved == law(f, N, d, b, c)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_keys_need_not_be_as_many_as_queries(f):
    q, k, v = torch.randn(7, 4), torch.randn(12, 4), torch.randn(12, 3)
    exact = attention_oracle(q.double(), k.double(), v.double())[0]
    assert relative_error(run(f, q, k, v, 3, 5).o, exact) < 1e-6


@pytest.mark.parametrize(
    "shapes, b, word",
    [([(4, 2), (5, 2), (4, 2)], 2, "q, k and v must be"), ([(4, 2)] * 3, 0, "b must be")],
)
def test_what_the_programs_cannot_run_is_named(shapes, b, word):
    with pytest.raises(ValueError, match=word):
        run(queries_outside, *(torch.ones(s) for s in shapes), b, 2)


def exponent(count, *sizes):
    """Slope of log count over log size, between the first and the last size."""
    first, last = sizes[0], sizes[-1]
    return math.log(count(last) / count(first)) / math.log(last / first)


def loads(N=4096, d=64, M=2**16):
    return key_loads(N, d, paper_tile(M, d))


def test_the_loads_of_keys_are_those_of_the_shelves():
    shelves = run(queries_outside, *torch.randn(3, 50, 4), 8, 16).shelves
    assert key_loads(50, 4, 8) == shelves["k"].loaded + shelves["v"].loaded


def test_with_the_papers_tile_the_loads_of_keys_grow_as_n2_d2_over_m():
    assert abs(exponent(lambda N: loads(N=N), 1024, 65536) - 2) < 0.01
    assert abs(exponent(lambda d: loads(d=d), 16, 256) - 2) < 0.01
    assert abs(exponent(lambda M: loads(M=M), 2**14, 2**20) + 1) < 0.01


@pytest.mark.parametrize("M, d", [(2**14, 16), (2**15, 64)])
def test_the_largest_tile_fits_and_the_next_is_refused(M, d):
    b = largest_tile(M, d)
    q, k, v = torch.randn(3, 2 * b + 2, d)
    assert run(queries_outside, q, k, v, b, b, M).peak <= M
    with pytest.raises(BenchFull):
        run(queries_outside, q, k, v, b + 1, b + 1, M)


@pytest.mark.parametrize("M, d", [(2**14, 16), (2**15, 64)])
def test_the_papers_tile_of_queries_fits_with_a_few_keys_beside(M, d):
    q, k, v = torch.randn(3, 600, d)
    run(queries_outside, q, k, v, paper_tile(M, d), 4, M)
