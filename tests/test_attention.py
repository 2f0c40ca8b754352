"""Both cores are one function: against float64, with every mask, and backwards."""

import math

import pytest
import torch
from cases import (
    BLOCKS,
    FULL,
    HALF,
    HURTING,
    cores,
    need,
    oracle,
    random_qkv,
    relative_error,
    tolerance,
)
from torch import nn

from attnlib import (
    FlashAttentionCore,
    StdAttentionCord,
    attention_oracle,
    calculate_local_fx,
    decomposed_softmax,
    flash_attention,
    standard_attention,
)

hypothesis = need("hypothesis")
st = hypothesis.strategies


# The specification ---------------------------------------------------------


def test_the_specification_example_is_true_twice():
    x1, x2 = torch.randn(16, 1024), torch.randn(16, 1024)
    standard = nn.Softmax(dim=-1)(torch.cat((x1, x2), dim=-1))
    m1, l1, fx1 = calculate_local_fx(x1)
    m2, l2, fx2 = calculate_local_fx(x2)
    assert torch.allclose(standard, decomposed_softmax(fx1, l1, m1, fx2, l2, m2), atol=1e-3)
    std_out = StdAttentionCord(x1.shape[-1])(x1, x2, x2)
    flash_out = FlashAttentionCore(x1.shape[-1], 8)(x1, x2, x2)
    assert torch.allclose(std_out, flash_out, atol=1e-3)


def test_its_sibling_is_true():
    q, k, v = torch.rand(3, 8, 512, 768)
    out = FlashAttentionCore(768, 8)(q, k, v)
    assert torch.allclose(StdAttentionCord(768)(q, k, v), out, atol=1e-3)


# Against float64 -----------------------------------------------------------


@pytest.mark.parametrize("name, block_size", BLOCKS)
@pytest.mark.parametrize("dtype", FULL)
def test_both_cores_agree_with_float64(name, block_size, dtype):
    *qkv, options = HURTING[name]
    q, k, v = (x.to(dtype) for x in qkv)
    o, lse = oracle(q, k, v, options)
    for core in cores(q.shape[-1], block_size):
        got, got_lse = core(q, k, v, return_lse=True, **options)
        assert got.dtype == dtype and got.shape == o.shape and got_lse.shape == lse.shape
        assert relative_error(got, o) <= tolerance(q, k, **options)
        close = dict(rtol=tolerance(q, k, **options), atol=tolerance(q, k, **options))
        torch.testing.assert_close(got_lse.double(), lse, **close)


@pytest.mark.parametrize("name", HURTING)
@pytest.mark.parametrize("dtype", HALF)
def test_sixteen_bits_cost_flash_no_more_than_rounding_its_output(name, dtype):
    *qkv, options = HURTING[name]
    q, k, v = (x.to(dtype) for x in qkv)
    o, _ = oracle(q, k, v, options)
    std, flash = (relative_error(f(q, k, v, **options), o) for f in cores(q.shape[-1], 64))
    assert flash <= tolerance(q, k) and flash <= std


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_huge_logits_give_numbers(scale, dtype):
    q = torch.full((3, 4), scale / 2, dtype=dtype)  # scaled logits of +- 1e4
    k, v = torch.ones(6, 4, dtype=dtype), torch.randn(6, 2).to(dtype)
    for core in cores(4):
        o, lse = core(q, k, v, return_lse=True)
        assert o.isfinite().all() and lse.isfinite().all()


def test_no_row_without_a_key_leaks_a_nan():
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 2, Nq=6, Nk=5))
    mask = torch.tensor([[[True] * 5], [[False] * 5]])
    for core in cores(4, 2):
        o, lse = core(q, k, v, key_mask=mask, causal=True, return_lse=True)
        empty = lse == -math.inf
        assert empty[1].all() and empty[0, :, 0].all() and not empty[0, :, 1:].any()
        assert (o[empty] == 0).all()
        # Whatever comes back to an empty row, nothing goes through.
        do, dlse = torch.ones_like(o), torch.ones_like(lse)
        do[empty], dlse[empty] = math.nan, math.inf
        dq, dk, dv = torch.autograd.grad((o, lse), (q, k, v), (do, dlse))
        assert (dq[empty] == 0).all() and (dk[1] == 0).all() and (dv[1] == 0).all()
        assert all(x.isfinite().all() for x in (dq, dk, dv))


# What is hidden --------------------------------------------------------------

GARBAGE = (math.nan, math.inf, -math.inf)


def oracle_o(q, k, v, **options):
    return attention_oracle(q, k, v, **options)[0]


def o_and_gradients(core, q, k, v, **options):
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    o = core(q, k, v, **options)
    return o, *torch.autograd.grad(o.square().sum(), (q, k, v))


@pytest.mark.parametrize("core", [oracle_o, *cores(4, 4)], ids=["oracle", "standard", "flash"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_row_without_a_key_is_zero_whatever_the_rest_holds(core, garbage):
    q, k, v = random_qkv(2, 3, Nq=6, Nk=4)
    key_mask = torch.tensor([[[True] * 4], [[False] * 4]])
    q[1], k[1], v[1] = garbage, garbage, garbage  # an entry that is padding throughout
    q[0, :, :2] = garbage  # two queries before the first key
    v[0, 0, 3] = garbage
    o, dq, dk, dv = o_and_gradients(core, q, k, v, key_mask=key_mask, causal=True)
    assert (o[1] == 0).all() and all((dx[1] == 0).all() for dx in (dq, dk, dv))
    assert (o[0, :, :2] == 0).all() and (dq[0, :, :2] == 0).all()
    # What is garbage in the first head stays there.
    assert not o[0, 0, 5].isfinite().any() and all(x[0, 1:].isfinite().all() for x in (o, dk, dv))


def padding(name):
    """A mask of 7 keys for (2, 6) heads: for all, an entry or a head."""
    shape = {"all": (7,), "entry": (2, 1, 7), "head": (2, 6, 7)}[name]
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5


@pytest.mark.parametrize("core", [oracle_o, *cores(4, 2)], ids=["oracle", "standard", "flash"])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 3}], ids=str)
@pytest.mark.parametrize("shared", ["all", "entry", "head"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_key_mask_hides_may_hold_anything(core, options, shared, garbage):
    q, k, v = random_qkv(2, 6, kv_heads=2)
    key_mask = padding(shared)
    hidden = ~key_mask.expand(2, 6, 7)
    hidden = hidden.unflatten(1, (2, 3)).all(2)[..., None]  # from every head of a group
    clean = o_and_gradients(core, q, k, v, key_mask=key_mask, **options)
    k, v = (x.masked_fill(hidden, garbage) for x in (k, v))
    got = o_and_gradients(core, q, k, v, key_mask=key_mask, **options)
    assert hidden.any() and all(torch.equal(x, y) for x, y in zip(got, clean))


def test_each_head_of_a_group_may_hide_what_another_sees():
    q, k, v = random_qkv(4, kv_heads=2)
    key_mask = torch.ones(4, 7, dtype=torch.bool)
    key_mask[[0, 2], 5] = False
    v[:, 5] = math.nan
    for core in (oracle_o, *cores(4, 2)):
        o = core(q, k, v, key_mask=key_mask)
        assert o[[0, 2]].isfinite().all() and o[[1, 3]].isnan().all()


@pytest.mark.parametrize("block_size", [1, 2, 4, 8])
def test_a_visible_nan_reaches_the_same_rows_in_every_tiling(block_size):
    q, k, v = random_qkv(2, Nq=8, Nk=8)
    v[0, 2, 1] = v[1, 3, 0] = math.nan
    key_mask = torch.arange(8) != 3  # hides the second head's
    expected = torch.zeros(2, 8, 3, dtype=torch.bool)
    expected[0, :, 1] = True  # one column of all rows that see it
    for core in (oracle_o, *cores(4, block_size)):
        assert torch.equal(core(q, k, v, key_mask=key_mask).isnan(), expected)


@pytest.mark.parametrize("options, see", [({"causal": True}, [7]), ({"window": 3}, [5, 6, 7])])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_in_the_oracle_what_a_mask_hides_may_hold_anything(options, see, garbage):
    q, k, v = random_qkv(Nq=8, Nk=8)
    o, dq, *_ = o_and_gradients(oracle_o, q, k, v, **options)
    for bad_k, bad_v in ((k.clone(), v), (k, v.clone())):
        key = see[0]
        (bad_k if bad_v is v else bad_v)[key] = garbage
        got, got_dq, *_ = o_and_gradients(oracle_o, q, bad_k, bad_v, **options)
        rest = [i for i in range(8) if i not in see]
        assert torch.equal(got[rest], o[rest]) and torch.equal(got_dq[rest], dq[rest])
        assert got[see].isnan().all()


def test_in_flash_a_skipped_tile_may_hold_anything_and_a_shared_one_leaks():
    q, k, v = random_qkv(Nq=8, Nk=8)
    v[7] = math.nan
    for block_size in (1, 2, 4, 8):
        reached = flash_attention(q, k, v, block_size, causal=True).isnan().any(-1)
        # The docstring's stated limit: the queries of the last tile, no others.
        assert torch.equal(reached, torch.arange(8) >= 8 - block_size)
    assert standard_attention(q, k, v, causal=True).isnan().all()
    sdpa = nn.functional.scaled_dot_product_attention
    assert sdpa(q, k, v, attn_mask=torch.ones(8, 8).tril().bool()).isnan().any(-1).sum() > 1


# Laws ----------------------------------------------------------------------

problems = st.fixed_dictionaries(
    {
        "lead": st.sampled_from([(), (2,), (2, 4)]),
        "kv_heads": st.sampled_from([None, 1, 2]),
        "Nq": st.integers(0, 20),
        "Nk": st.integers(0, 20),
        "d": st.integers(1, 5),
        "dv": st.integers(0, 5),
        "block_size": st.integers(1, 25),
        "causal": st.booleans(),
        "window": st.one_of(st.none(), st.integers(1, 25)),
        "padding": st.booleans(),
        "dtype": st.sampled_from(FULL),
        "seed": st.integers(0, 2**31),
    }
)


@hypothesis.given(problems)
@hypothesis.settings(deadline=None, max_examples=200)
def test_any_shape_mask_block_and_dtype(p):
    kv_heads = p["kv_heads"] if p["lead"] else None
    shape = {key: p[key] for key in ("Nq", "Nk", "d", "dv", "dtype", "seed")}
    q, k, v = random_qkv(*p["lead"], kv_heads=kv_heads, **shape)
    options = {"causal": p["causal"], "window": p["window"]}
    if p["padding"]:
        g = torch.Generator().manual_seed(p["seed"])
        options["key_mask"] = torch.rand((*p["lead"], p["Nk"]), generator=g) > 0.4
    o, lse = oracle(q, k, v, options)
    for core in cores(p["d"], p["block_size"]):
        got, got_lse = core(q, k, v, return_lse=True, **options)
        assert relative_error(got, o) <= tolerance(q, k, **options)
        assert torch.equal(got_lse == -math.inf, lse == -math.inf)


def test_a_window_beyond_everything_is_causal():
    q, k, v = random_qkv(2)
    for core in cores(4):
        expected = core(q, k, v, causal=True)
        for window in (7, 2**63, 10**30):
            assert torch.equal(core(q, k, v, window=window), expected)


def test_no_heads_are_legal():
    q, k, v = random_qkv(2, 0)
    for core in cores(4):
        assert core(q, k, v, key_mask=torch.ones(2, 0, 7).bool()).shape == (2, 0, 5, 3)


def test_the_oracle_judges_huge_logits():
    q, k = torch.full((2, 4), 1e10), torch.full((3, 4), 1e10)
    assert torch.allclose(attention_oracle(q, k, torch.ones(3, 2))[0], torch.ones(2, 2).double())


def test_inputs_stay_as_they_are():
    q, k, v = random_qkv(2, 4, kv_heads=2)
    before = [x.clone() for x in (q, k, v)]
    for core in cores(4):
        core(q, k, v, causal=True, key_mask=torch.rand(7) > 0.5)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before))


def test_strides_do_not_matter():
    q, k, v = random_qkv(2, 5, Nq=3, Nk=3, d=4, dv=4)  # (B, N, H, d) memory
    views = [x.transpose(1, 2) for x in (q, k, v)]
    expected, _ = attention_oracle(*views)
    for core in cores(4, 2):
        assert relative_error(core(*views), expected) < 1e-15
        assert core(q[:, :1].expand(2, 5, 3, 4), k, v).shape == (2, 5, 3, 4)


def test_grouped_heads_are_repeated_heads():
    q, k, v = random_qkv(2, 6, kv_heads=2)
    for core in cores(4, 2):
        repeated = core(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), causal=True)
        assert relative_error(core(q, k, v, causal=True), repeated) < 1e-15


def test_causal_is_aligned_bottom_right():
    q, k, v = random_qkv(Nq=2, Nk=5)
    for core in cores(4, 2):
        o = core(q, k, v, causal=True)
        torch.testing.assert_close(o[-1], core(q[-1:], k, v)[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(o[0], core(q[:1], k[:4], v[:4])[0], rtol=1e-14, atol=0)


def test_lse_merges_two_halves():
    q, k, v = random_qkv(2, Nq=3, Nk=8)
    whole, _ = attention_oracle(q, k, v)
    for core in cores(4, 3):
        (o1, l1), (o2, l2) = (
            core(q, k[:, half], v[:, half], return_lse=True) for half in (slice(0, 5), slice(5, 8))
        )
        lse = torch.logaddexp(l1, l2)
        o = (l1 - lse).exp()[..., None] * o1 + (l2 - lse).exp()[..., None] * o2
        assert relative_error(o, whole) < 1e-14


# Backwards -----------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": 2},
    "padding": {"key_mask": torch.tensor([[[True, False, True, True, False, True]], [[True] * 6]])},
}
OPTIONS["all"] = {"causal": True, "window": 4, **OPTIONS["padding"]}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("Nq", [6, 4, 9])
@pytest.mark.parametrize("core", [0, 1], ids=["standard", "flash"])
def test_gradcheck(core, Nq, options):
    core = cores(3, 4)[core]
    inputs = random_qkv(2, 4, Nq=Nq, Nk=6, d=3, dv=2, kv_heads=2)

    def seen(q, k, v):
        o, lse = core(q, k, v, return_lse=True, **options)
        return o, lse.masked_fill(lse == -math.inf, 0)

    # fast_mode projects the Jacobian on random directions; the slow one is
    # run once, where nothing is masked and the last block is ragged.
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(seen, inputs, fast_mode=bool(options) or Nq != 6)


@pytest.mark.parametrize("dtype", HALF)
def test_sixteen_bit_gradients_are_no_worse_than_standard(dtype):
    q, k, v = (x.to(dtype).requires_grad_() for x in random_qkv(2, 4, Nq=70, Nk=90, d=16, dv=16))
    do = torch.randn(2, 4, 70, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    o, _ = attention_oracle(q, k, v, causal=True)
    exact = torch.autograd.grad(o, (q, k, v), do.double())
    std, flash = (
        torch.autograd.grad(core(q, k, v, causal=True), (q, k, v), do) for core in cores(16, 32)
    )
    for s, f, e in zip(std, flash, exact):
        assert f.dtype == dtype
        assert relative_error(f, e) <= min(relative_error(s, e), torch.finfo(dtype).eps)


def test_only_one_output_needs_a_gradient():
    q, k, v = (x.requires_grad_() for x in random_qkv(2))
    for take in (0, 1):
        std, flash = (
            torch.autograd.grad(
                core(q, k, v, return_lse=True)[take].sum(), (q, k), retain_graph=False
            )
            for core in cores(4)
        )
        assert all(relative_error(f, s) < 1e-14 for f, s in zip(flash, std))


def test_a_model_trains_the_same_with_either_core():
    def loss_after(core):
        torch.manual_seed(0)
        layer, x = nn.Linear(4, 12), torch.randn(2, 7, 4)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
        for _ in range(5):
            loss = core(*layer(x).chunk(3, -1), causal=True).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss

    std, flash = (loss_after(core) for core in cores(4, 3))
    torch.testing.assert_close(flash, std, rtol=1e-5, atol=0)


# Bad input -----------------------------------------------------------------

Q = torch.zeros(2, 4, 5, 8)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"q": [1]}, "q must be a torch.Tensor, got list"),
        ({"q": torch.zeros(2, 4, 5, 8).int()}, "q must be one of"),
        ({"q": torch.zeros(2, 4, 5, 6)}, "attention_head_size=8"),
        ({"q": torch.zeros(8)}, "q must be"),
        ({"k": Q.double()}, "k is torch.float64 on cpu, but q is torch.float32"),
        ({"k": Q.to("meta")}, "k is torch.float32 on meta"),
        ({"k": Q[0]}, "k must be .* as many dimensions as q"),
        ({"k": torch.zeros(2, 4, 5, 6)}, "k has head size 6, but q has 8"),
        ({"k": torch.zeros(2, 3, 5, 8), "v": torch.zeros(2, 3, 5, 8)}, "no divisor"),
        ({"k": torch.zeros(1, 4, 5, 8)}, "k has leading dimensions"),
        ({"v": torch.zeros(2, 4, 6, 8)}, "v has 6 rows, but k has 5 keys"),
        ({"v": torch.zeros(2, 2, 5, 8)}, "v has 2 heads, but k has 4"),
        ({"k": Q.to_sparse()}, "k must be a dense tensor"),
        ({"causal": 1}, "causal must be a bool, got 1"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"window": 2.0}, "window must be an int, got 2.0"),
        ({"key_mask": torch.zeros(5)}, "key_mask must be a dense bool tensor"),
        (
            {"key_mask": torch.ones(2, 5).bool()},
            r"key_mask has shape \(2, 5\), expected \(2, 4, 5\)",
        ),
        ({"key_mask": torch.ones(2, 1, 6).bool()}, "key_mask has shape"),
        ({"key_mask": torch.ones(5).bool().to("meta")}, "key_mask is on meta"),
    ],
)
def test_bad_input_names_the_argument(changed, message):
    for core in cores(8):
        with pytest.raises((TypeError, ValueError), match=message):
            core(**({"q": Q, "k": Q, "v": Q} | changed))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FlashAttentionCore(8, 0), "block_size must be at least 1, got 0"),
        (lambda: FlashAttentionCore(8, 8.0), "block_size must be an int, got 8.0"),
        (lambda: FlashAttentionCore(0, 8), "attention_head_size must be at least 1"),
        (lambda: StdAttentionCord("8"), "attention_head_size must be an int, got '8'"),
        (lambda: flash_attention(Q, Q, Q, -1), "block_size must be at least 1, got -1"),
    ],
)
def test_bad_sizes_name_the_argument(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_cores_have_no_parameters_and_one_signature():
    for core in cores(8):
        assert not list(core.parameters()) and not list(core.buffers())
    assert standard_attention(Q, Q, Q).shape == flash_attention(Q, Q, Q, 2).shape == Q.shape


# Autocast --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FULL, *HALF])
@pytest.mark.parametrize("core", [0, 1], ids=["standard", "flash"])
def test_autocast_does_to_a_core_what_it_does_to_sdpa(core, dtype):
    core = cores(4)[core]
    q, k, v = (x.to(dtype).requires_grad_() for x in random_qkv(2, 2, dv=4))
    with torch.autocast("cpu", torch.bfloat16):
        o = core(q, k, v)
        expected = nn.functional.scaled_dot_product_attention(q, k, v)
        grads = torch.autograd.grad(o.float().sum(), (q, k, v))  # also inside
    assert o.dtype == expected.dtype == (dtype if dtype == torch.float64 else torch.bfloat16)
    assert all(dx.dtype == dtype for dx in grads)
    low = [x.detach().to(o.dtype).requires_grad_() for x in (q, k, v)]
    assert torch.equal(o, core(*low))
    for dx, want in zip(grads, torch.autograd.grad(core(*low).float().sum(), low)):
        assert torch.equal(dx, want.to(dtype))


def test_autocast_makes_mixed_dtypes_one():
    q, k, v = random_qkv(2, dtype=torch.float32)
    for core in cores(4):
        with torch.autocast("cpu", torch.bfloat16):
            assert core(q.half(), k, v.bfloat16()).dtype == torch.bfloat16
            with pytest.raises(TypeError, match=r"q must be a torch.Tensor, got list"):
                core([1], k, v)


def test_flash_backwards_inside_autocast_is_what_it_is_outside():
    q, k, v = (x.requires_grad_() for x in random_qkv(2, dtype=torch.float32))
    o = flash_attention(q, k, v, 4, causal=True).sum()
    expected = torch.autograd.grad(o, (q, k, v), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, torch.autograd.grad(o, (q, k, v)), expected))
