"""What the functions of this library may be given, and errors that teach.

Each raises TypeError or ValueError naming the argument, what came, and what was
expected. The algorithms call them first and stay free of checks themselves.
"""

from collections.abc import Callable
from functools import wraps
from operator import index

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_float(name: str, x: Tensor) -> None:
    """x must be a dense floating-point tensor of at least one dimension."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.is_nested or x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got a nested or sparse one")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be one of {FLOATS}, got {x.dtype}")
    if x.dim() == 0:
        raise ValueError(f"{name} needs at least one dimension, got shape ()")


def require_positive(name: str, n: int) -> int:
    """n as an int, at least 1."""
    try:
        i = index(n)
    except TypeError:
        i = None
    if i is None or isinstance(n, bool):
        raise TypeError(f"{name} must be an int, got {n!r}")
    if i < 1:
        raise ValueError(f"{name} must be at least 1, got {i}")
    return i


def require_same_kind(name: str, x: Tensor, like_name: str, like: Tensor) -> None:
    """x must have the dtype and device of `like`."""
    if x.dtype != like.dtype or x.device != like.device:
        raise TypeError(
            f"{name} is {x.dtype} on {x.device}, but {like_name} is {like.dtype} on {like.device}"
        )


def require_local_results(fx1, l1, m1, fx2, l2, m2) -> None:
    """Two blocks as `calculate_local_fx` returns them: the same rows in each."""
    for name, x in {"fx1": fx1, "fx2": fx2, "l1": l1, "m1": m1, "l2": l2, "m2": m2}.items():
        require_float(name, x)
        require_same_kind(name, x, "fx1", fx1)
        expected = (*fx1.shape[:-1], x.shape[-1] if name in ("fx1", "fx2") else 1)
        if tuple(x.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected {expected}, "
                f"to go with fx1 {tuple(fx1.shape)}"
            )


def require_same_lead(q: Tensor, v: Tensor) -> None:
    """v (..., M, D) must have the leading dimensions of q (..., N, d), or 1 for them."""
    lead, expected = tuple(v.shape[:-2]), tuple(q.shape[:-2])
    if any(n not in (1, m) for n, m in zip(lead[::-1], expected[::-1])):
        raise ValueError(
            f"v has leading dimensions {lead}, but q has {expected}; shared heads of k and v "
            "must be repeated here (repeat_interleave), or go to flash_attention as they are"
        )


def follows_autocast(attention: Callable) -> Callable:
    """attention(q, k, v, ...) under autocast, as PyTorch's scaled_dot_product_attention:
    q, k and v come in its dtype, float64 excepted, and nothing inside is cast.

    Tensors on the meta device, which stand for a GPU's, follow CUDA's or else the CPU's.
    """

    @wraps(attention)
    def run(q, k, v, *args, **options):
        device = q.device.type if isinstance(q, Tensor) else "cpu"
        if device == "meta":
            device = "cuda" if torch.is_autocast_enabled("cuda") else "cpu"
        if not torch.is_autocast_enabled(device):
            return attention(q, k, v, *args, **options)
        dtype = torch.get_autocast_dtype(device)
        low = [isinstance(x, Tensor) and x.dtype in FLOATS[:3] for x in (q, k, v)]
        q, k, v = (x.to(dtype) if cast else x for x, cast in zip((q, k, v), low))
        with torch.autocast(device, enabled=False):
            return attention(q, k, v, *args, **options)

    return run


def head_group(q: Tensor, k: Tensor) -> int:
    """How many query heads share a key head; 1 without a head dimension."""
    return q.shape[-3] // max(k.shape[-3], 1) if q.dim() > 2 else 1


def require_head_size(q, attention_head_size: int) -> None:
    """q's last dimension must be the one that the core was made for."""
    require_float("q", q)
    if q.shape[-1] != attention_head_size:
        raise ValueError(
            f"q has head size {q.shape[-1]} (shape {tuple(q.shape)}), but this core "
            f"was made with attention_head_size={attention_head_size}"
        )


def require_attention_inputs(q, k, v, causal, key_mask, window) -> int | None:
    """q (..., Nq, d), k (..., Nk, d), v (..., Nk, dv) and masks that fit them.

    Returns the window as an int.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        require_float(name, x)
        require_same_kind(name, x, "q", q)
        if x.dim() < 2 or x.dim() != q.dim():
            raise ValueError(
                f"{name} must be (..., N, d), with as many dimensions as q; "
                f"got shape {tuple(x.shape)}, q is {tuple(q.shape)}"
            )
    _require_shapes(q, k, v)
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool, got {causal!r}")
    if key_mask is not None:
        _require_key_mask(key_mask, q, k)
    # A window over everything is as good as a longer one, and fits any counter.
    everything = q.shape[-2] + k.shape[-2] + 1
    return None if window is None else min(require_positive("window", window), everything)


def _require_shapes(q, k, v) -> None:
    Q, K, V = (tuple(x.shape) for x in (q, k, v))
    if Q[-1] < 1:
        raise ValueError(f"q has head size 0, shape {Q}; it must be at least 1")
    if K[-1] != Q[-1]:
        raise ValueError(f"k has head size {K[-1]}, but q has {Q[-1]}: {K} and {Q}")
    if V[-2] != K[-2]:
        raise ValueError(f"v has {V[-2]} rows, but k has {K[-2]} keys: {V} and {K}")
    for name, X in (("k", K), ("v", V)):
        if X[:-3] != Q[:-3]:
            raise ValueError(
                f"{name} has leading dimensions {X[:-3]}, but q has {Q[:-3]}; "
                "use expand, which copies nothing"
            )
    if V[:-2] != K[:-2]:
        raise ValueError(f"v has {V[-3]} heads, but k has {K[-3]}: {V} and {K}")
    if len(Q) > 2 and Q[-3] != head_group(q, k) * K[-3]:
        raise ValueError(f"k has {K[-3]} heads, no divisor of q's {Q[-3]}: {K} and {Q}")


def _require_key_mask(key_mask, q, k) -> None:
    dense = isinstance(key_mask, Tensor) and key_mask.layout == torch.strided
    if not dense or key_mask.dtype != torch.bool:
        got = f"{type(key_mask)} of {getattr(key_mask, 'dtype', 'no dtype')}"
        raise TypeError(f"key_mask must be a dense bool tensor, True = may be seen; got {got}")
    if key_mask.device != q.device:
        raise TypeError(f"key_mask is on {key_mask.device}, but q is on {q.device}")
    full, got = (*q.shape[:-2], k.shape[-2]), tuple(key_mask.shape)
    fits = len(got) == len(full) and all(g in (1, f) for g, f in zip(got, full))
    if got[-1:] != full[-1:] or not (fits or len(got) == 1):
        raise ValueError(
            f"key_mask has shape {got}, expected {full}, with 1 where it is shared, "
            f"or ({full[-1]},); one of shape (batch, Nk) goes in as key_mask[:, None]"
        )
