"""The loop whose step is compiled."""

import pytest
import torch

from attnlib import attention_oracle
from attnlib.course.inputs import make_qkv
from attnlib.kernels.compiled import compiled_attention
from attnlib.softmax import relative_error


@pytest.mark.parametrize("Nq", [1, 50, 70])
@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_loop_is_attention(Nq, causal):
    q, k, v = make_qkv(2, 3, 70, 8, dtype=torch.float64)
    q = q[..., :Nq, :]
    o, _ = attention_oracle(q, k, v, causal=causal)
    for block in (16, 64, 4096):
        assert relative_error(compiled_attention(q, k, v, block, causal=causal), o) < 1e-14


def test_the_compiled_loop_names_heads_it_cannot_share():
    q, k = make_qkv(4, 8, 16, n=1)[0], make_qkv(2, 8, 16, n=1)[0]
    with pytest.raises(ValueError, match="k must have q's leading dimensions"):
        compiled_attention(q, k, k)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiling needs a GPU")
@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_step_is_the_step(causal):
    q, k, v = make_qkv(1, 2, 300, 64, device="cuda")
    o, _ = attention_oracle(q, k, v, causal=causal)
    assert relative_error(compiled_attention(q, k, v, 128, causal=causal), o) < 1e-6
