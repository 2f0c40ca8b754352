"""A call of a core: what is called, on what, and what it will take."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.course.measure.machine import capacity, context_bytes, device_type
from attnlib.kernels.compiled import compiled_attention
from attnlib.memory import (
    CUBLAS_WORKSPACE,
    MIB,
    forward,
    forward_backward,
    predicted_peak,
    stretched_peak,
)

COMPILED = 4096  # the compiled step's block
PREDICTED = ("standard", "flash")  # compiled and fused code allocates unseen
MODES = ("forward", "causal", "training")
# PyTorch takes a card's memory in pages of 20 MiB, and some products a workspace of
# their own: so close to its end nobody can say.
SLACK = 128 * MIB


class Job(NamedTuple):
    """One call of a core at any N: "standard", "flash", "compiled" or "SDPA".

    `mode` is "forward", "causal" or "training"; `block` is for cores that have tiles,
    `kv_heads` for grouped heads.
    """

    core: str
    mode: str = "forward"
    dtype: torch.dtype = torch.float32
    heads: int = 8
    d: int = 64
    block: int | None = 2048
    batch: int = 1
    window: int | None = None
    kv_heads: int | None = None

    @classmethod
    def of(cls, row: dict) -> "Job":
        """The job that a row of a recording is about."""
        batch, heads, _, d = row["shape"]
        rest = {key: row.get(key) for key in ("block", "window", "kv_heads")}
        dtype = getattr(torch, row["dtype"])
        return cls(row["core"], row["mode"], dtype, heads, d, batch=batch, **rest)

    def row(self, N: int) -> dict:
        """The fields of this call in a row of a recording; `of` reads them."""
        dtype = str(self.dtype).removeprefix("torch.")
        row = {"dtype": dtype, "shape": [self.batch, self.heads, N, self.d], "N": N}
        row |= {"core": self.core, "block": self.block, "mode": self.mode}
        if self.core == "SDPA":
            row["backend"] = _backend(self.dtype).name.split("_")[0].lower()
        if self.core not in ("flash", "compiled"):
            row["block"] = None
        rest = {key: getattr(self, key) for key in ("window", "kv_heads")}
        return row | {key: value for key, value in rest.items() if value is not None}

    def tensors(self, N: int, device=None) -> tuple[torch.Tensor, ...]:
        """q, k, v and, in training, do: (batch, heads, N, d), k and v of kv_heads."""
        shape, n = (self.batch, self.heads, N, self.d), 4 if self.mode == "training" else 3
        made = make_qkv(*shape, n=n, dtype=self.dtype, device=device or device_type())
        if self.kv_heads is None:
            return made
        q, k, v, *do = made
        return q, *(x[:, : self.kv_heads].clone() for x in (k, v)), *do

    @property
    def run(self) -> Callable:
        """The call, a function of `tensors`."""
        options = {"causal": True} if self.mode == "causal" else {}
        if self.window is not None:
            options["window"] = self.window
        wrap = forward_backward if self.mode == "training" else forward
        return wrap(self._attention(), **options)

    def _attention(self) -> Callable:
        if self.core == "standard":
            return StdAttentionCord(self.d)
        if self.core == "flash":
            return FlashAttentionCore(self.d, self.block)
        if self.core == "compiled":
            return partial(compiled_attention, block_size=self.block)
        if self.core == "SDPA":
            return sdpa
        raise ValueError(f"core must be standard, flash, compiled or SDPA, got {self.core!r}")

    def inputs(self, N: int) -> int:
        """Bytes of q, k, v and, in training, of the gradient that comes back."""
        return sum(-(-x.nbytes // 512) * 512 for x in self.tensors(N, "meta"))

    def results(self, N: int) -> int:
        """Bytes of the output and, in training, of the gradients of q, k and v."""
        q, k, v, *do = (-(-x.nbytes // 512) * 512 for x in self.tensors(N, "meta"))
        return 2 * q + k + v if do else q

    def peak(self, N: int) -> int | None:
        """Bytes at the peak of the call beyond its inputs, exactly; None if unseen."""
        return _peak(self, N) if self.core in PREDICTED else None

    def needed(self, N: int, context: int) -> int:
        """Bytes a card must have: inputs, peak, cuBLAS's workspace, CUDA's context."""
        return self.inputs(N) + self.peak(N) + CUBLAS_WORKSPACE + context

    def largest(self, card: int, context: int) -> int:
        """The largest N, in steps of `step`, that leaves a card of so many bytes a SLACK."""
        return largest(lambda N: self.needed(N, context) + SLACK <= card, self.step)

    @property
    def step(self) -> int:
        """How finely `largest` looks: to 1024 tokens, or to 16384 where N is huge."""
        return 1024 if self.core == "standard" else 16384


@cache
def _peak(job: Job, N: int) -> int:
    """At N = 1M the flash core has 60,000 tiles or more, of which four blocks of rows
    and the window tell all."""
    if job.core == "flash":
        n = _prime(max(3 * job.block + (job.window or 0), job.batch, job.heads, job.d))
        if n < N:
            return stretched_peak(job.run, *job.tensors(n, "meta"), n=n, N=N)
    return predicted_peak(job.run, *job.tensors(N, "meta"))


def _prime(above: int) -> int:
    n = above + 1
    while any(n % i == 0 for i in range(2, math.isqrt(n) + 1)):
        n += 1
    return n


def largest(fits: Callable[[int], bool], step: int) -> int:
    """The largest multiple of step that fits; fits must be monotone."""
    low, high = 0, 1
    while fits(high * step):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def course_jobs() -> list[Job]:
    """The course's two shapes; 16-bit is float16 where the card has no bfloat16."""
    if not torch.cuda.is_available():
        return [Job("flash", dtype=x, heads=4) for x in (torch.float32, torch.bfloat16)]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    half = torch.bfloat16 if has_bf16 else torch.float16
    return [Job("flash"), Job("flash", dtype=half, heads=16, d=128)]


def rivals(job: Job, N: int = COMPILED, blocks: tuple[int, ...] = ()) -> list[Job]:
    """The same call by every core: flash at each block size, the compiled step where
    it can run and one of its tiles is full."""
    blocks = blocks or ((2048,) if torch.cuda.is_available() else (256, 512, 1024))
    calls = [job._replace(core="standard", block=None)]
    calls += [job._replace(core="flash", block=block) for block in blocks]
    if torch.cuda.is_available() and N >= COMPILED and job.mode != "training":
        calls.append(job._replace(core="compiled", block=COMPILED))
    return [*calls, job._replace(core="SDPA", block=None)]


def sizes(job: Job) -> list[int]:
    """N doubling from 1024 to the first where standard attention does not fit.

    On a CPU to 8192, where it takes seconds.
    """
    on_gpu, Ns, room = torch.cuda.is_available(), [1024], capacity()
    standard, context = job._replace(core="standard"), context_bytes() if on_gpu else 0
    while (on_gpu or Ns[-1] < 8192) and standard.needed(Ns[-1], context) <= room:
        Ns.append(2 * Ns[-1])
    return Ns


def sdpa(q, k, v, *, causal=False):
    """torch's scaled_dot_product_attention with its backend named, not chosen."""
    grouped = q.dim() > 3 and q.shape[-3] != k.shape[-3]
    attend = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel(_backend(q.dtype)):
        return attend(q, k, v, is_causal=causal, enable_gqa=grouped)


def _backend(dtype) -> SDPBackend:
    # On CUDA the flash kernel is for 16 bits only.
    if torch.cuda.is_available() and dtype == torch.float32:
        return SDPBackend.EFFICIENT_ATTENTION
    return SDPBackend.FLASH_ATTENTION
