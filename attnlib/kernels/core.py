"""`TritonAttentionCore`: the same call and answers as the other cores, by a GPU kernel.

What the kernels of `triton.py` do not know is refused: key masks and windows. On a
machine without CUDA they run in Triton's interpreter, slowly. Lesson 12.
"""

import torch
from torch import nn

from attnlib.preconditions import (
    follows_autocast,
    require_attention_inputs,
    require_head_size,
    require_positive,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class TritonAttentionCore(nn.Module):
    """softmax(q kT / sqrt(d)) v by Triton, forward and backward, in linear memory.

    No parameters. float16, bfloat16 and float32 (products in full float32); head sizes
    up to 256. Source: Dao (2023), arXiv 2307.08691; Tillet, Triton's attention tutorial.
    """

    def __init__(self, attention_head_size: int):
        super().__init__()
        self.attention_head_size = require_positive("attention_head_size", attention_head_size)
        if attention_head_size > 256:
            raise ValueError(f"attention_head_size must be at most 256, got {attention_head_size}")

    def forward(self, q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
        """Shapes, options and errors as in `attention.py`; key_mask and window must be None."""
        require_head_size(q, self.attention_head_size)
        options = {"causal": causal, "key_mask": key_mask, "window": window}
        return triton_attention(q, k, v, **options, return_lse=return_lse)

    def extra_repr(self) -> str:
        return f"attention_head_size={self.attention_head_size}"


@follows_autocast
def triton_attention(q, k, v, *, causal=False, key_mask=None, window=None, return_lse=False):
    """The functional form of `TritonAttentionCore`."""
    require_attention_inputs(q, k, v, causal, key_mask, window)
    for name, option in (("key_mask", key_mask), ("window", window)):
        if option is not None:
            raise ValueError(f"{name} must be None: the kernel has none; use FlashAttentionCore")
    if q.is_cuda != torch.cuda.is_available():
        raise ValueError(f"q must be on this machine's GPU, if it has one, got {q.device}")
    if q.dtype not in DTYPES:
        raise TypeError(f"q must be float16, bfloat16 or float32 for the kernel, got {q.dtype}")
    if v.shape[-1] > 256:
        raise ValueError(f"v must have head size 256 at most for the kernel, got {v.shape[-1]}")
    shape = q.shape[:-1]
    o, lse = _Kernel.apply(*(_four(x) for x in (q, k, v)), causal)
    o, lse = o.view(*shape, v.shape[-1]), lse.view(shape)
    return (o, lse) if return_lse else o


def _four(x):
    """x as (B, H, N, d), its last dimension dense."""
    x = x.flatten(0, -4) if x.dim() > 4 else x[(None,) * (4 - x.dim())]
    return x if x.stride(-1) == 1 else x.contiguous()


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal):
        forward, _ = _kernels()
        o, lse = forward(q, k, v, causal)
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlse):
        q, k, v, o, lse = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else do
        _, backward = _kernels()
        return *backward(q, k, v, o, lse, do, dlse, ctx.causal), None


def _kernels():
    try:
        from attnlib.kernels.triton import forward
        from attnlib.kernels.triton_backward import backward
    except ImportError as error:
        raise ImportError("the kernel needs Triton: pip install 'attnlib[kernels]'") from error
    return forward, backward
