"""The sweep and the workbench show what the loop does, and count what it moves."""

import re

import pytest
import torch
from cases import random_qkv

from attnlib import attention_oracle, online_attention
from attnlib.course.explore import (
    SweepStepper,
    Workbench,
    haul_loop,
    haul_standard,
    sweep_keys,
    walk_tiles,
)
from attnlib.course.explore.tile_walk import standard_moves

Q, K, V = random_qkv(Nq=37, Nk=37, d=8, dv=5)
SIZES = pytest.mark.parametrize("size", [1, 5, 37, 50])
LONGEST = 92  # characters that the line above a picture has room for


def frames(stepper):
    """Every frame's SVG, a list for each choice."""
    return [[frame.value for frame in stack.children] for stack in stepper.children[-1].children]


@SIZES
def test_the_sweep_shows_the_readable_loops_states(size):
    sweep = sweep_keys(Q[20], K, V, size)
    for state, want in zip(
        sweep.trace.states, online_attention(Q[20, None], K, V, size), strict=True
    ):
        assert all(torch.equal(x, y) for x, y in zip(state, want))
    o, _ = attention_oracle(Q, K, V)
    torch.testing.assert_close(sweep.trace.states[-1].finalise()[0][0].double(), o[20])


@SIZES
def test_what_was_kept_shrunk_plus_the_blocks_part_is_what_is_kept(size):
    sweep = sweep_keys(Q[20], K, V, size)
    l, o = torch.zeros(1, 1), torch.zeros(1, 5)
    for factor, part, state in zip(sweep.trace.factors, sweep.parts, sweep.trace.states):
        torch.testing.assert_close(factor * l + part.l, state.l)
        torch.testing.assert_close(factor * o + part.o, state.o)
        l, o = state.l, state.o


@SIZES
def test_every_key_is_fetched_once(size):
    fetched = sweep_keys(Q[20], K, V, size).fetched
    assert fetched == [min(size * (n + 1), 37) for n in range(-(-37 // size))]


def test_the_sweep_has_a_frame_a_block_and_one_for_the_division():
    stepper = SweepStepper(Q[20], K, V, 5)
    (shown,) = frames(stepper)
    assert len(shown) == 9 and stepper.slider.max == 8 and not stepper.needs_kernel
    for n, frame in enumerate(shown):
        text = stepper.sweep.describe(n)
        assert f'aria-label="{text}"' in frame and len(text) <= LONGEST
        assert stepper.sweep.claim(n) in frame
    assert len(set(shown)) == 9


def test_words_stand_under_few_keys_with_the_weights_of_the_block():
    labels = [f"w{n}" for n in range(6)]
    sweep = sweep_keys(Q[20], K[:6], V[:6], 2, labels)
    (shown,) = frames(SweepStepper(Q[20], K[:6], V[:6], 2, labels))
    weights = [f"{weight:.2f}" for weight in sweep.trace.weights(1)[2:].tolist()]
    assert all(f">{word}<" in shown[1] for word in labels + weights)


@SIZES
@pytest.mark.parametrize("haul, ends", [(haul_loop, "loop"), (haul_standard, "standard")])
def test_the_bytes_moved_are_those_that_were_carried(haul, ends, size):
    moved, hauls = dict.fromkeys("qkvosp", 0), haul(Q, K, V, size)
    for step in hauls:
        for name, n in (*step.load.items(), *step.store.items()):
            moved[name] += n
        assert step.moved == {name: n for name, n in moved.items() if n}
    walked = sum(walk_tiles(Q, K, V, size, row=0)[-1].moved.values())
    assert sum(moved.values()) == {"loop": walked, "standard": standard_moves(Q, K, V)}[ends]


@pytest.mark.parametrize("N, d, b", [(64, 8, 16), (61, 8, 16), (16, 32, 4)])
def test_the_laws_of_traffic_hold_exactly(N, d, b):
    x = torch.randn(N, d)
    loop, standard = (sum(way(x, x, x, b)[-1].moved.values()) for way in (haul_loop, haul_standard))
    assert loop == 4 * (2 * N * d * -(-N // b) + 2 * N * d)
    assert standard == 4 * (4 * N * N + 4 * N * d)


def test_scores_never_travel_in_the_loop():
    for step in haul_loop(Q, K, V, 5):
        assert not {"s", "p"} & (step.load.keys() | step.store.keys() | step.done.keys())


def test_o_lies_whole_in_the_warehouse_at_the_end():
    for way in (haul_loop, haul_standard):
        assert way(Q, K, V, 5)[-1].done["o"] == 37


@SIZES
def test_a_tile_is_as_dark_as_its_weights(size):
    for step in haul_loop(Q, K, V, size) + haul_standard(Q, K, V, size):
        shades = torch.tensor(step.tile)
        assert shades.min() >= 0 and shades.max() == 1 and shades.numel() <= 64


def test_every_frame_of_the_workbench_says_its_step_and_has_hatches_of_its_own():
    bench = Workbench(Q, K, V, 5)
    shown = frames(bench)
    assert [len(x) for x in shown] == [64, 64] and not bench.needs_kernel
    for way, pictures in zip(bench.ways.values(), shown, strict=True):
        for n, picture in enumerate(pictures):
            assert f'aria-label="{way.describe(n)}"' in picture
            assert len(way.describe(n)) <= LONGEST
    assert "standard attention: done" in shown[1][-1]
    ids = re.findall('pattern id="(.*?)"', "".join(shown[0] + shown[1]))
    assert len(ids) == len(set(ids)) >= 64


@pytest.mark.parametrize(
    "make", [lambda: SweepStepper(Q[20], K, V, 5), lambda: Workbench(Q, K, V, 9)]
)
def test_both_have_a_picture_for_whom_nothing_moves(make):
    bundle = make()._repr_mimebundle_()
    assert bundle["image/png"] and re.match("(Sweep|Workbench): ", bundle["text/plain"])
