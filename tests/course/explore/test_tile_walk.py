"""What the tile walk shows must be what the library does and holds."""

import json
import re

import pytest
import torch
from cases import random_qkv

from attnlib import FlashAttentionCore, online_attention
from attnlib.course.explore import TileWalk, walk_tiles
from attnlib.course.explore.tile_walk import standard_moves
from attnlib.course.inputs import alice_qkv
from attnlib.masks import tile_rows
from attnlib.memory import forward, live_bytes
from attnlib.traffic import Tape

MASKS = [{}, {"causal": True}, {"window": 1}, {"window": 9}, {"window": 100}]
MASK = pytest.mark.parametrize("mask", MASKS, ids=str)
Q, K, V = random_qkv(Nq=37, Nk=37, d=8, dv=5)


@MASK
@pytest.mark.parametrize("size", [5, 8, 37, 50])
def test_it_computes_the_librarys_tiles_in_the_librarys_order(mask, size):
    steps = walk_tiles(Q, K, V, size, row=20, **mask)
    computed = [tile for _, tiles in tile_rows(37, 37, size, **mask) for tile in tiles]
    assert [s.tile for s in steps if s.kind != "skipped"] == computed
    assert all((s.kind == "partial") == s.tile.partial for s in steps)
    assert len(steps) == (-(-37 // size)) ** 2


@MASK
@pytest.mark.parametrize("row", [0, 20, 36])
def test_the_followed_row_ends_as_the_core_ends(mask, row):
    o, lse = walk_tiles(Q, K, V, 8, row, **mask)[-1].state.finalise()
    want_o, want_lse = FlashAttentionCore(8, 8)(Q, K, V, **mask, return_lse=True)
    torch.testing.assert_close((o[0], lse[0]), (want_o[row], want_lse[row]))


def test_without_a_mask_its_states_are_the_readable_loops():
    steps = walk_tiles(Q, K, V, 8, row=20)
    states = [s.state for s in steps if s.tile.rows.start <= 20 < s.tile.rows.stop]
    for state, want in zip(states, online_attention(Q[20, None], K, V, 8), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(state, want))


@MASK
def test_the_bytes_alive_are_those_of_the_real_call(mask):
    q, k, v = (x[0] for x in alice_qkv())
    timeline = live_bytes(forward(FlashAttentionCore(32, 128), **mask), q, k, v)
    alive = [sum(s.alive.values()) for s in walk_tiles(q, k, v, 128, row=0, **mask)]
    assert max(alive) == timeline.peak and min(alive) > timeline.kept


@MASK
def test_q_is_loaded_once_and_k_and_v_for_every_tile(mask):
    steps = walk_tiles(Q, K, V, 8, row=0, **mask)
    tiles = [s.tile for s in steps if s.kind != "skipped"]
    keys = sum(t.cols.stop - t.cols.start for t in tiles)
    assert steps[-1].loads == {"q": 37 * 8 * 8, "k": keys * 8 * 8, "v": keys * 5 * 8}
    assert steps[-1].stores == {"o": 37 * 5 * 8}


def test_the_bar_of_standard_attention_is_the_laws():
    x = torch.zeros(40, 8)
    assert standard_moves(x, x, x) == 4 * (4 * 40**2 + 4 * 40 * 8)
    moved = walk_tiles(x, x, x, 10, row=0)[-1].moved
    assert sum(moved.values()) == 4 * (2 * 40 * 8 * 4 + 2 * 40 * 8)


def test_a_tape_counts_what_is_not_at_hand():
    tape = Tape(torch.zeros(6, 5).split(2))
    for i in (0, 0, 1, 1, 0):
        assert tape.take(i).shape == (2, 5)
    assert tape.moved == 30


@pytest.fixture(scope="module")
def walk():
    return TileWalk(*(x[1] for x in alice_qkv()), 128, row=369, word="“well”", window=128)


def test_its_controls_choose_the_step(walk):
    for mask in walk.choice.options:
        walk.choice.value, walk.slider.value = mask, 10
        assert walk.now is walk.walks[mask].steps[10]
    assert walk.slider.max == 15


def test_every_frame_says_its_step_and_none_borrows_anothers_hatching(walk):
    stacks = [stack.children for stack in walk.children[-1].children]
    for (name, shown), frames in zip(walk.walks.items(), stacks, strict=True):
        for n, frame in enumerate(frames):
            assert f'aria-label="{shown.describe(n)}"' in frame.value, name
    ids = re.findall('pattern id="(.*?)"', "".join(f.value for frames in stacks for f in frames))
    assert len(ids) == len(set(ids)) >= 48


def test_it_is_light_and_has_a_picture_for_whom_nothing_moves(walk):
    state = json.dumps(
        [frame.value for stack in walk.children[-1].children for frame in stack.children]
    )
    assert len(state) < 1.5e6
    bundle = walk._repr_mimebundle_()
    assert bundle["text/plain"].startswith("Tile walk: tile 12 of 16") and bundle["image/png"]
