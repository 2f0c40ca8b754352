"""What only the fold over blocks promises: rungs 3 and 4, forwards and backwards."""

import math

import pytest
import torch
from cases import FULL, HURTING, random_qkv, relative_error

from attnlib import (
    FlashAttentionCore,
    StdAttentionCord,
    attention_oracle,
    flash_attention,
    online_attention,
    online_attention_backward,
    standard_attention,
)

UNMASKED = [name for name, (*_, options) in HURTING.items() if not options]


def gradients(core, q, k, v, do, **options):
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    return torch.autograd.grad(core(q, k, v, **options), (q, k, v), do)


def like(x, seed=1):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.dtype)


# One answer ------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 3, 7, 64, 10**9])
def test_block_size_does_not_matter(block_size):
    q, k, v = random_qkv(2, Nq=9, Nk=13)
    o = flash_attention(q, k, v, block_size)
    assert relative_error(o, flash_attention(q, k, v, 13)) < 1e-15


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_the_readable_loop_is_the_core(block_size):
    q, k, v = random_qkv(2, 3, Nq=9, Nk=13)
    *_, state = online_attention(q, k, v, block_size)
    o, lse = state.finalise()
    got, got_lse = flash_attention(q, k, v, block_size, return_lse=True)
    assert relative_error(got, o) < 1e-15 and relative_error(got_lse, lse) < 1e-15


def test_every_state_of_the_readable_loop_is_the_answer_so_far():
    q, k, v = random_qkv(2, Nq=4, Nk=10)
    for n, state in enumerate(online_attention(q, k, v, 3), start=1):
        o, lse = attention_oracle(q, k[:, : 3 * n], v[:, : 3 * n])
        got, got_lse = state.finalise()
        assert relative_error(got, o) < 1e-15 and relative_error(got_lse, lse) < 1e-15


@pytest.mark.parametrize("name", UNMASKED)
@pytest.mark.parametrize("block_size", [17, 1000])
def test_the_readable_backward_is_autograd(name, block_size):
    q, k, v, _ = HURTING[name]
    o, lse = attention_oracle(q, k, v)
    do = like(o)
    got = online_attention_backward(q, k, v, o, lse, do, block_size)
    expected = gradients(lambda *qkv: attention_oracle(*qkv)[0], q, k, v, do)
    for g, e in zip(got, expected):
        # With one key, dq and dk are 0: so the scale is do's where it is the larger one.
        assert g.shape == e.shape and (g - e).norm() <= 1e-12 * max(e.norm(), do.norm())


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_the_readable_backward_is_the_cores(block_size):
    q, k, v = random_qkv(2, 3, Nq=9, Nk=13)
    o, lse = flash_attention(q, k, v, block_size, return_lse=True)
    expected = online_attention_backward(q, k, v, o, lse, like(o), block_size)
    got = gradients(FlashAttentionCore(4, block_size), q, k, v, like(o))
    assert all(relative_error(g, e) < 1e-14 for g, e in zip(got, expected))


def test_grouped_heads_keep_a_mask_each():
    q, k, v = random_qkv(2, 6, kv_heads=2)
    key_mask = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.5
    o, _ = attention_oracle(q, k, v, key_mask=key_mask)
    assert relative_error(flash_attention(q, k, v, 4, key_mask=key_mask), o) < 1e-15


# The ends of the range -------------------------------------------------------


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("dtype", [*FULL, torch.bfloat16])
def test_scores_are_numbers_if_q_kT_is(dtype, heads, signs):
    # q kT is +- 0.81 of the maximum of the dtype of scores, which it must not exceed.
    large = 0.9 * (torch.finfo(dtype).max / 64) ** 0.5
    q = torch.full((heads, 2, 64), large, dtype=dtype)
    k = large * torch.tensor(signs, dtype=dtype)[:, None].expand(heads, 3, 64)
    p = [1 / signs.count(max(signs)) if sign == max(signs) else 0 for sign in signs]
    for core in (StdAttentionCord(64), FlashAttentionCore(64, 2)):
        o, lse = core(q, k, torch.eye(3, dtype=dtype).expand(heads, 3, 3), return_lse=True)
        assert torch.allclose(o, torch.tensor(p, dtype=dtype).expand_as(o), rtol=0.01)
        assert lse.isfinite().all()


def test_a_row_without_a_key_is_zero_whatever_v_holds():
    q, k, v = random_qkv(2, Nq=6, Nk=4)
    v[:, 0], v[:, 1] = math.nan, math.inf
    key_mask = torch.tensor([[True] * 4, [False] * 4])
    for core in (StdAttentionCord(4), FlashAttentionCore(4, 4)):
        o, lse = core(q, k, v, causal=True, key_mask=key_mask, return_lse=True)
        empty = lse == -math.inf
        assert empty.sum() == 2 + 6 and (o[empty] == 0).all()


# Sixteen bits ----------------------------------------------------------------


def test_sixteen_bit_sums_do_not_stop_growing():
    # 4096 equal weights: a bfloat16 sum of ones stops at 256, an accumulator of o drifts.
    q, k = (torch.zeros(1, n, 4, dtype=torch.bfloat16) for n in (2, 4096))
    v = torch.ones(1, 4096, 3, dtype=torch.bfloat16)
    o, lse = flash_attention(q, k, v, 1, return_lse=True)
    assert (o == 1).all() and lse.dtype == torch.float32
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(4096)))


# Autograd --------------------------------------------------------------------


def test_gradients_of_heads_that_lie_apart_in_memory():
    q, k, v = random_qkv(2, 5, Nq=3, Nk=3, d=4, dv=4)  # (B, N, H, d) memory
    views = [x.transpose(1, 2) for x in (q, k, v)]
    std, flash = (
        gradients(core, *views, like(q).transpose(1, 2), causal=True)
        for core in (StdAttentionCord(4), FlashAttentionCore(4, 2))
    )
    assert all(relative_error(f, s) < 1e-14 for f, s in zip(flash, std))


def test_a_mask_changed_after_the_forward_is_an_error_and_not_a_wrong_gradient():
    q, k, v = (x.requires_grad_() for x in random_qkv(Nk=6))
    key_mask = torch.tensor([True] * 4 + [False] * 2)
    o = flash_attention(q, k, v, 2, key_mask=key_mask)
    key_mask.fill_(True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()


def test_a_second_backward_is_a_clear_error():
    q, k, v = (x.requires_grad_() for x in random_qkv())
    (dq,) = torch.autograd.grad(flash_attention(q, k, v, 4).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        (dq * q).sum().backward()


# Other transforms ------------------------------------------------------------


def fold(q, k, v, **options):
    return flash_attention(q, k, v, 3, **options)


def same(got, expected):
    return all(relative_error(g, e) < 1e-13 for g, e in zip(got, expected, strict=True))


MASK = torch.rand(5, 2, 7, generator=torch.Generator().manual_seed(1)) > 0.4


@pytest.mark.parametrize(
    "key_mask, dim", [(None, None), (MASK, 0), (MASK[:, 0], 0), (MASK[0], None)]
)
def test_vmap_is_a_batch(key_mask, dim):
    def over_the_batch(core):
        def call(q, k, v, key_mask):
            return core(q, k, v, key_mask=key_mask, causal=True, return_lse=True)

        # The batch of q lies last, k and v are shared.
        return torch.vmap(call, (3, None, None, dim))(q.movedim(0, 3), k[0], v[0], key_mask)

    q, k, v = random_qkv(5, 2)
    (o, lse), (std_o, std_lse) = over_the_batch(fold), over_the_batch(standard_attention)
    assert same([o], [std_o]) and torch.allclose(lse, std_lse, rtol=1e-13)


@pytest.mark.parametrize(
    "transform",
    [
        lambda loss: torch.func.grad(loss, (0, 1, 2)),
        lambda loss: torch.vmap(torch.func.grad(loss, (0, 1, 2))),  # one sample's gradients
        lambda loss: torch.func.grad(lambda *x: torch.vmap(loss)(*x).sum(), (0, 1, 2)),
        lambda loss: lambda *x: torch.func.vjp(loss, *x)[1](torch.ones(()).double()),
    ],
    ids=["grad", "vmap grad", "grad vmap", "vjp"],
)
def test_transforms_of_functions_agree_with_standard(transform):
    def loss(core):
        return lambda q, k, v: core(q, k, v, causal=True).square().sum()

    qkv = random_qkv(5, 2)
    assert same(transform(loss(fold))(*qkv), transform(loss(standard_attention))(*qkv))


def test_forward_and_second_derivatives_say_what_to_use_instead():
    qkv = random_qkv(2)
    with pytest.raises(RuntimeError, match="forward-mode derivatives use standard_attention"):
        torch.func.jvp(fold, qkv, qkv)
    grad = torch.func.grad
    with pytest.raises(RuntimeError, match="second derivatives use standard_attention"):
        grad(lambda q: grad(lambda q: fold(q, *qkv[1:]).sum())(q).sum())(qkv[0])
    assert torch.func.jvp(standard_attention, qkv, qkv)[1].isfinite().all()


def test_a_mask_made_in_inference_mode_masks():
    q, k, v = (x.requires_grad_() for x in random_qkv(2))
    with torch.inference_mode():
        key_mask = torch.arange(7) < 4
    for core in (StdAttentionCord(4), FlashAttentionCore(4, 3)):
        o = core(q, k, v, key_mask=key_mask)
        assert relative_error(o, core(q, k[:, :4], v[:, :4])) < 1e-15
        assert (torch.autograd.grad(o.sum(), v)[0][:, 4:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{"causal": True}, {"window": 4, "key_mask": MASK}], ids=str)
def test_compiled_as_one_graph_the_core_is_itself(dtype, options):
    core, qkv = FlashAttentionCore(4, 3), random_qkv(5, 2, dtype=dtype)
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    do = like(core(*qkv))
    assert all(map(torch.equal, compiled(*qkv, return_lse=True), core(*qkv, return_lse=True)))
    got, expected = (gradients(f, *qkv, do, **options) for f in (compiled, core))
    assert all(map(torch.equal, got, expected))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_on_this_gpu_the_core_is_itself(dtype):
    qkv = [x.to("cuda", dtype) for x in random_qkv(2, 4, Nq=100, Nk=100, d=16, dv=16)]
    core, do = FlashAttentionCore(16, 32), torch.ones(2, 4, 100, 16, device="cuda", dtype=dtype)
    compiled = torch.compile(core, fullgraph=True)
    got, expected = (gradients(f, *qkv, do, causal=True) for f in (compiled, core))
    assert all(relative_error(g, e) < 1e-6 for g, e in zip(got, expected))


def test_the_compilers_operators_keep_their_rules():
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 2, kv_heads=1))
    args = (q, k, v, MASK[:2], True, None, 3)
    assert set(torch.library.opcheck(torch.ops.attnlib.flash_forward, args).values()) == {"SUCCESS"}


def test_the_readable_loop_says_that_shared_heads_are_not_for_it():
    q, k, v = random_qkv(2, 6, kv_heads=2)
    with pytest.raises(ValueError, match=r"v has leading dimensions \(2, 2\), but q has \(2, 6\)"):
        next(online_attention(q, k, v, 4))
    *_, state = online_attention(q, *(x.repeat_interleave(3, 1) for x in (k, v)), 4)
    assert relative_error(state.finalise()[0], flash_attention(q, k, v, 4)) < 1e-15
