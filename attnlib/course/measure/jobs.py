"""A call of a core: shapes, cores, peers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.course.measure.frontier import Job
from attnlib.course.measure.machine import capacity, context_bytes, device_type
from attnlib.kernels.compiled import compiled_attention
from attnlib.memory import forward, forward_backward

COMPILED = 4096  # the compiled step's block
# mode: how a core is called, with how many tensors, and with which options
MODES = {
    "forward": (forward, 3, {}),
    "causal": (forward, 3, {"causal": True}),
    "training": (forward_backward, 4, {}),
}


class Setup(NamedTuple):
    """One shape (batch, heads, N, d) in one dtype, and the block sizes to use."""

    dtype: torch.dtype
    heads: int
    d: int
    blocks: tuple[int, ...]

    def qkv(self, N: int, n: int = 3, device=None):
        device = device or device_type()
        return make_qkv(1, self.heads, N, self.d, n=n, dtype=self.dtype, device=device)

    def cores(self, N: int = COMPILED, mode: str = "forward") -> dict[str, Callable]:
        """By name; the compiled step where it can run and a tile of its is full."""
        cores = {"standard": StdAttentionCord(self.d)}
        for block in self.blocks:
            cores[f"flash {block}"] = FlashAttentionCore(self.d, block)
        if torch.cuda.is_available() and N >= COMPILED and mode != "training":
            cores[f"compiled {COMPILED}"] = compiled_attention
        return cores | {sdpa_name(self.dtype): sdpa}


def setups() -> list[Setup]:
    """The course's two shapes; 16-bit is float16 where the card has no bfloat16."""
    if not torch.cuda.is_available():
        blocks = (256, 512, 1024)
        return [Setup(torch.float32, 4, 64, blocks), Setup(torch.bfloat16, 4, 64, blocks)]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    half = torch.bfloat16 if has_bf16 else torch.float16
    return [Setup(torch.float32, 8, 64, (2048,)), Setup(half, 16, 128, (2048,))]


def sizes(setup: Setup) -> list[int]:
    """N doubling from 1024 to the first where standard attention does not fit.

    On a CPU to 8192, where it takes seconds.
    """
    Ns, room = [1024], capacity()
    while (torch.cuda.is_available() or Ns[-1] < 8192) and _needs(setup, Ns[-1]) <= room:
        Ns.append(2 * Ns[-1])
    return Ns


def _needs(setup, N) -> int:
    job = Job("standard", dtype=setup.dtype, heads=setup.heads, d=setup.d)
    return job.needed(N, context_bytes() if torch.cuda.is_available() else 0)


def sdpa(q, k, v, *, causal=False):
    """torch's scaled_dot_product_attention with its backend named, not chosen."""
    with sdpa_kernel(_backend(q.dtype)):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def sdpa_name(dtype) -> str:
    return f"SDPA {_backend(dtype).name.split('_')[0].lower()}"


def _backend(dtype) -> SDPBackend:
    # On CUDA the flash kernel is for 16 bits only.
    if torch.cuda.is_available() and dtype == torch.float32:
        return SDPBackend.EFFICIENT_ATTENTION
    return SDPBackend.FLASH_ATTENTION
