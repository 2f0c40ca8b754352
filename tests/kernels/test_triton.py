"""The kernel answers as the other cores do: on a card, else in Triton's interpreter."""

import pytest
import torch
from cases import need

from attnlib import FlashAttentionCore, attention_oracle
from attnlib.kernels.core import TritonAttentionCore, triton_attention
from attnlib.softmax import relative_error

pytestmark = pytest.mark.slow
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# bf16 products are wrong in the interpreter.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()

CASES = {  # q, k, v shapes, causal
    "grouped and ragged": ((1, 4, 37, 16), (1, 2, 53, 16), (1, 2, 53, 16), True),
    "more queries": ((2, 40, 24), (2, 33, 24), (2, 33, 8), True),
    "one tile full": ((64, 32), (64, 32), (64, 32), False),
    "one key": ((3, 16), (1, 16), (1, 16), False),
    "no key": ((3, 16), (0, 16), (0, 16), False),
}


@pytest.fixture(autouse=True, scope="module")
def triton():
    return need("triton", "kernels")


def random_case(name, dtype, times=1.0):
    *shapes, causal = CASES[name]
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(*s, generator=generator).to(DEVICE, dtype) for s in shapes)
    return times * q, k, v, causal


@pytest.mark.parametrize("times", [1.0, 20.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_agrees_with_float64(name, dtype, times):
    q, k, v, causal = random_case(name, dtype, times)
    core = TritonAttentionCore(q.shape[-1])
    o, lse = core(q, k, v, causal=causal, return_lse=True)
    right, right_lse = attention_oracle(q, k, v, causal=causal)
    eps = torch.finfo(dtype).eps
    assert o.dtype == dtype and lse.dtype == torch.float32 and not o.isnan().any()
    assert relative_error(o, right) <= 4 * eps * times
    torch.testing.assert_close(lse.double(), right_lse, rtol=1e-5, atol=1e-5 * times)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", ["grouped and ragged", "more queries", "one key"])
def test_its_gradients_are_autograds(name, dtype):
    q, k, v, causal = (
        x.requires_grad_() if torch.is_tensor(x) else x for x in random_case(name, dtype)
    )
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    o, lse = triton_attention(q, k, v, causal=causal, return_lse=True)
    right, right_lse = FlashAttentionCore(q.shape[-1], 16)(*exact, causal=causal, return_lse=True)
    do, dlse = torch.randn_like(o), torch.randn_like(lse)
    seen = right_lse > -torch.inf
    got = torch.autograd.grad((o, lse[seen]), (q, k, v), (do, dlse[seen]))
    want = torch.autograd.grad((right, right_lse[seen]), exact, (do.double(), dlse[seen].double()))
    for x, y in zip(got, want):
        assert x.dtype == dtype
        assert (x.double() - y).norm() <= 8 * torch.finfo(dtype).eps * (y.norm() + 1)


def test_heads_that_are_views_are_read_as_they_are():
    q, k, v = torch.randn(3, 1, 20, 2, 16, device=DEVICE).transpose(2, 3)
    core = TritonAttentionCore(16)
    torch.testing.assert_close(core(q, k, v), core(*(x.contiguous() for x in (q, k, v))))


@pytest.mark.parametrize(
    "options, word",
    [({"window": 3}, "window"), ({"key_mask": torch.ones(5, dtype=bool)}, "key_mask")],
)
def test_what_the_kernel_has_not_is_refused(options, word):
    q = torch.randn(5, 16, device=DEVICE)
    with pytest.raises(ValueError, match=f"{word} must be None"):
        TritonAttentionCore(16)(
            q, q, q, **{n: x if n == "window" else x.to(DEVICE) for n, x in options.items()}
        )


def test_float64_is_refused():
    q = torch.randn(5, 16, dtype=torch.float64, device=DEVICE)
    with pytest.raises(TypeError, match="q must be float16"):
        TritonAttentionCore(16)(q, q, q)


def test_a_head_too_large_is_refused():
    with pytest.raises(ValueError, match="attention_head_size must be at most 256"):
        TritonAttentionCore(300)
