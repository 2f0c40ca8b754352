"""What the backward walk shows must add up to autograd's gradients, in float64."""

import json
import re

import pytest
import torch
from cases import random_qkv

from attnlib import StdAttentionCord
from attnlib.course.draw.backward import BackWalk, draw_back
from attnlib.course.draw.shapes import Text
from attnlib.course.draw.style import Q as BLUE
from attnlib.course.explore import BackwardWalk, walk_backward
from attnlib.memory import forward_backward

Q, K, V = random_qkv(Nq=13, Nk=17, d=8, dv=5, dtype=torch.float64)
DO = torch.randn(13, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
_, *EXACT = forward_backward(StdAttentionCord(8))(Q, K, V, DO)
NAMES, LONGEST = ("dq", "dk", "dv"), 92
ORDER = pytest.mark.parametrize("outside", ["keys", "queries"])
SIZE = pytest.mark.parametrize("size", [1, 4, 5, 17, 50])


def walk(size, outside="keys"):
    return walk_backward(Q, K, V, DO, size, outside)


@ORDER
@SIZE
def test_what_the_tiles_add_is_the_gradient(size, outside):
    found = [torch.zeros_like(x) for x in (Q, K, V)]
    for step in walk(size, outside):
        for total, span, part in zip(found, (step.rows, step.cols, step.cols), step.added):
            total[span] += part
    torch.testing.assert_close(found, EXACT, rtol=1e-12, atol=1e-13)


@ORDER
@SIZE
def test_a_sum_that_has_all_its_tiles_is_autograds(size, outside):
    steps, whole = walk(size, outside), 0
    rows, cols = (len(x) for x in steps[-1].have)
    for step in steps:
        (i, j), (queries, keys) = step.place, step.have
        full = [queries[i] == cols, keys[j] == rows, keys[j] == rows]
        spans = step.rows, step.cols, step.cols
        for done, span, total, exact in zip(full, spans, step.sums, EXACT):
            whole += done
            if done:
                torch.testing.assert_close(total, exact[span], rtol=1e-12, atol=1e-13)
    assert whole == rows + 2 * cols


@SIZE
def test_each_order_walks_every_tile_once(size):
    keys, queries = ([s.place for s in walk(size, x)] for x in ("keys", "queries"))
    assert sorted(keys) == queries and keys == sorted(keys, key=lambda place: place[::-1])
    cells = sum(s.p.numel() for s in walk(size))
    assert cells == 13 * 17 and len(set(queries)) == -(-13 // size) * -(-17 // size)


@ORDER
def test_the_tile_shown_is_a_part_of_softmax_and_its_gradient(outside):
    s = (Q @ K.T / 8**0.5).requires_grad_()
    p = torch.softmax(s, -1)
    p.retain_grad()
    (p @ V).backward(DO)
    for step in walk(4, outside):
        at = step.rows, step.cols
        torch.testing.assert_close((step.p, step.dp, step.ds), (p[at], p.grad[at], s.grad[at]))
        torch.testing.assert_close(step.delta, (p * p.grad).sum(-1, keepdim=True)[step.rows])


@SIZE
def test_the_outer_loops_sums_travel_once_and_the_inner_ones_at_every_tile(size):
    rows, cols = -(-13 // size), -(-17 // size)
    keys, queries = (walk(size, x)[-1].moved for x in ("keys", "queries"))
    sums, read = {"dq": 13 * 8, "dk, dv": 17 * (8 + 5)}, {"q, do": 13 * 15, "k, v": 17 * 13}
    if rows > 1:  # else the one block of queries would never leave the bench
        assert keys["q, do"] == cols * read["q, do"] and keys["k, v"] == read["k, v"]
    assert keys["dk, dv"] == sums["dk, dv"] and keys["dq"] == 2 * cols * sums["dq"]
    assert queries["dq"] == sums["dq"] and queries["dk, dv"] == 2 * rows * sums["dk, dv"]


def test_another_order_is_refused():
    with pytest.raises(ValueError, match="outside must be keys or queries, got 'rows'"):
        walk(4, "rows")


@pytest.fixture(scope="module")
def stepper():
    return BackwardWalk(Q, K, V, DO, 4)


def frames(stepper):
    return [[frame.value for frame in stack.children] for stack in stepper.children[-1].children]


def test_its_controls_choose_the_step(stepper):
    for order in stepper.choice.options:
        stepper.choice.value, stepper.slider.value = order, 7
        assert stepper.now is stepper.walks[order].steps[7]
    assert stepper.slider.max == 4 * 5 - 1 and not stepper.needs_kernel


def test_every_frame_says_its_step_in_a_line(stepper):
    for shown, pictures in zip(stepper.walks.values(), frames(stepper), strict=True):
        for n, picture in enumerate(pictures):
            assert f'aria-label="{shown.describe(n)}"' in picture and shown.claim(n) in picture
            assert len(shown.describe(n)) <= LONGEST and len(shown.claim(n)) <= 80


def test_a_cell_of_dq_fills_as_its_tiles_are_added():
    shown = BackWalk(walk(4, "queries"), "queries", 10**4)
    for n, step in enumerate(shown.steps):
        blue = [a for a in draw_back(shown, n) if type(a) is not Text and a.look.fill == BLUE]
        widths = [a.corners[1][0] - a.corners[0][0] for a in blue[1:5]]  # the first is q's block
        assert widths == pytest.approx([34 * have / 5 for have in step.have[0]])


def test_it_is_light_and_has_a_picture_for_whom_nothing_moves(stepper):
    assert len(json.dumps(frames(stepper))) < 1.5e6
    bundle = stepper._repr_mimebundle_()
    assert bundle["image/png"] and re.match("Backward walk: tile", bundle["text/plain"])
