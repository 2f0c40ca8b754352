"""Inputs that hurt, and the one table of tolerances."""

import importlib
import math
import os

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord, attention_oracle
from attnlib.course.inputs import alice_qkv
from attnlib.softmax import relative_error  # noqa: F401

FULL = (torch.float32, torch.float64)
HALF = (torch.bfloat16, torch.float16)


def tolerance(q, k, causal=False, key_mask=None, window=None) -> float:
    """Largest relative error, norm over norm, that a core may have.

    Full precision: rounding a score s moves its weight by a factor e^(eps |s|);
    8 leaves room for the sums. 16 bits: half a unit in the last place, what
    rounding the output alone may cost.
    """
    eps = torch.finfo(q.dtype).eps
    if q.dtype in HALF:
        return 0.5 * eps
    options = {"causal": causal, "key_mask": key_mask, "window": window}
    return 8 * eps * (1 + max_visible_score(q, k, **options))


def max_visible_score(q, k, causal=False, key_mask=None, window=None) -> float:
    from attnlib.masks import visible

    if q.dim() > 2:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    s = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    see = visible(q.shape[-2], k.shape[-2], causal=causal, window=window)
    if key_mask is not None:
        see = see & key_mask[..., None, :]
    s = s.masked_fill(~see, 0).abs()
    return s.max().item() if s.numel() else 0.0


def random_qkv(*lead, Nq=5, Nk=7, d=4, dv=3, kv_heads=None, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    kv_lead = (*lead[:-1], kv_heads) if kv_heads else lead
    shapes = (*lead, Nq, d), (*kv_lead, Nk, d), (*kv_lead, Nk, dv)
    return tuple(torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes)


def cores(d, block_size=4):
    return StdAttentionCord(d), FlashAttentionCore(d, block_size)


def hurting_inputs() -> dict[str, tuple]:
    """name -> (q, k, v, options) in float64; block sizes 64 and 5 are ragged."""
    q, k, v = random_qkv(2, 4, Nq=131, Nk=131, d=16, dv=16)
    mask = torch.rand(2, 1, 131, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0] = False  # a sequence that is padding throughout
    gq, gk, gv = random_qkv(2, 4, Nq=50, Nk=77, d=16, dv=8, kv_heads=2)
    first = torch.ones(131, dtype=torch.bool)
    first[:64] = False  # the whole first block is hidden
    alice = {f"alice {n}": (*alice_qkv(n, torch.float64), {}) for n in (0, 5)}
    harshest = tuple(x[2] for x in alice_qkv(0, torch.float64))
    return alice | {
        "alice's harshest head": (*harshest, {}),
        "random": (q, k, v, {}),
        "logits x 20": (20 * q, k, v, {}),
        "causal": (q, k, v, {"causal": True}),
        "padding": (q, k, v, {"key_mask": mask}),
        "first block hidden": (q, k, v, {"key_mask": first}),
        "window": (q, k, v, {"window": 17}),
        "all masks": (20 * q, k, v, {"causal": True, "key_mask": mask, "window": 40}),
        "fewer queries": (q[..., :50, :], k, v, {"causal": True}),
        "more queries": (q, k[..., :50, :], v[..., :50, :], {"causal": True}),
        "grouped": (gq, gk, gv, {"causal": True}),
        "one key": (q, k[..., :1, :], v[..., :1, :], {}),
        "no key": (q, k[..., :0, :], v[..., :0, :], {}),
        "one row, no heads": (q[0, 0, :1], k[0, 0], v[0, 0], {}),
    }


HURTING = hurting_inputs()
# Tiles of 5 are slow: of Alice's heads one does.
BLOCKS = [
    (name, block_size)
    for name in HURTING
    for block_size in (5, 64, 1000)
    if block_size > 5 or name not in ("alice 0", "alice 5")
]


def oracle(q, k, v, options):
    return attention_oracle(q, k, v, **options)


def need(module: str, extra: str = "test"):
    """Import a test-only package: missing, it skips here and fails in CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module}: pip install -e '.[{extra}]'")
