"""The tiny GPT: one model, whatever core attends for it."""

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course import gpt

TEXT, CHARACTERS = gpt.read_book()
SDPA = torch.nn.functional.scaled_dot_product_attention
CORES = {"standard": StdAttentionCord(8), "flash": FlashAttentionCore(8, 5)}


def model(core, dtype=torch.float64):
    torch.manual_seed(0)
    return gpt.TinyGPT(core, len(CHARACTERS), width=32, heads=4, layers=2).to(dtype)


def test_the_book_is_whole_and_in_plain_letters():
    assert len(TEXT) == 148_274 and len(CHARACTERS) == 70
    start = "".join(CHARACTERS[i] for i in TEXT[:9])
    assert start == "CHAPTER I" and TEXT.max() == 69


def test_no_token_sees_the_next():
    net, tokens = model(CORES["flash"]), TEXT[None, :24].clone()
    before = net(tokens)
    tokens[0, 20] = (tokens[0, 20] + 1) % 70
    assert torch.equal(net(tokens)[0, :20], before[0, :20])
    assert not torch.equal(net(tokens)[0, 20:], before[0, 20:])


def test_rotated_products_know_distances_only():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    a, b = (gpt.rotate(x.expand(1, 50, 1, 8))[0, :, 0] for x in (q, k))  # (50, 8)
    s = a @ b.T
    for distance in (-7, 0, 12):
        diagonal = s.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12 * s.abs().max()
    torch.testing.assert_close(a.norm(dim=-1), q.norm().expand(50))


def test_either_core_trains_the_same_model():
    losses = {
        name: torch.tensor(list(gpt.train(model(core), TEXT, 20, N=24, batch=4)))
        for name, core in CORES.items()
    }
    assert losses["standard"][-1] < losses["standard"][0] - 0.5
    assert (losses["flash"] - losses["standard"]).abs().max() < 1e-10


def test_torchs_attention_fits_in_as_well():
    def sdpa(q, k, v, causal):
        return SDPA(q, k, v, is_causal=causal)

    tokens = TEXT[None, :40]
    exact = model(CORES["standard"])(tokens)
    torch.testing.assert_close(model(sdpa)(tokens), exact, rtol=1e-10, atol=1e-10)


def test_writing_repeats_by_seed_and_begins_with_the_prompt():
    net = model(CORES["standard"])
    a, b, c = (gpt.write(net, TEXT[:5], 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(a[:5], TEXT[:5]) and len(a) == 25


def test_a_width_that_heads_cannot_share_is_named():
    with pytest.raises(ValueError, match="width 30 must be a multiple of 2 heads, and heads is 4"):
        gpt.TinyGPT(CORES["flash"], 70, width=30, heads=4)
