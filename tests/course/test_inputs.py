"""The tensors of lessons, tests and measurements."""

import pytest
import torch

from attnlib.course.inputs import alice_qkv, alice_tokens, make_qkv


def test_alice_is_as_harsh_as_her_readme_says():
    q, k, _ = alice_qkv(0, torch.float64)
    s = q @ k.mT / 32**0.5
    assert q.shape == (12, 471, 32) and len(alice_tokens()) == 471
    assert 78 < s.max() < 80 and -68 < s.min() < -66
    assert s.half().exp().isinf().any()


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"layer must be one of \[0, 5\], got 3"):
        alice_qkv(3)


def test_inputs_repeat_by_seed():
    a, b, c = (make_qkv(2, 3, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and not torch.equal(a[0], c[0])
