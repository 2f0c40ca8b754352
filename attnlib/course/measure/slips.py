"""What kernels get wrong, as code that runs: the answer that each mistake gives.

Each is a function of (q, k, v, causal, window, key_mask) in float64 unless the mistake
is one of precision. M8 and so on number the mistakes that exercises know, too.
"""

import math
from functools import partial

import torch
from torch import Tensor


def attend(
    q, k, v, causal=False, window=None, key_mask=None, *, scale=1.0, shift=None, turns=False
) -> Tensor:
    """Attention with scores times `scale`, queries moved by `shift` keys, and groups of
    heads served in turns: right where these are left alone."""
    q, k, v = q.double(), _as_many(k, q, turns), _as_many(v, q, turns)
    s = q @ k.mT * (scale / math.sqrt(q.shape[-1]))  # (..., Nq, Nk)
    return torch.softmax(_hide(s, causal, window, key_mask, shift), -1).nan_to_num(0) @ v


def _as_many(k, q, turns=False) -> Tensor:
    group = q.shape[-3] // k.shape[-3]
    shared = k.repeat(1, group, 1, 1) if turns else k.repeat_interleave(group, -3)
    return shared.double()


def _hide(s, causal=False, window=None, key_mask=None, shift=None) -> Tensor:
    """s, -inf where hidden; query i stands at key position i + shift."""
    Nq, Nk = s.shape[-2:]
    p = torch.arange(Nq, device=s.device)[:, None] + (Nk - Nq if shift is None else shift)
    j = torch.arange(Nk, device=s.device)
    if causal or window is not None:
        s = s.masked_fill(j > p, -math.inf)
    if window is not None:
        s = s.masked_fill(j <= p - window, -math.inf)
    return s if key_mask is None else s.masked_fill(~key_mask[..., None, :], -math.inf)


def top_left(q, k, v, **options):
    """Query i at key position i, not i + Nk - Nq."""
    return attend(q, k, v, **options, shift=0)


def unmasked(q, k, v, **_):
    return attend(q, k, v)


def whole_blocks(q, k, v, block, causal=False, window=None, key_mask=None):
    """Keys after the last full block are left out."""
    see = torch.arange(k.shape[-2], device=k.device) < k.shape[-2] // block * block
    return attend(q, k, v, causal, window, see if key_mask is None else see & key_mask)


def padded(q, k, v, block, causal=False, **_):
    """Keys of zeros fill the last block, and take part."""
    extra = -k.shape[-2] % block
    k, v = (torch.nn.functional.pad(x, (0, 0, 0, extra)) for x in (k, v))
    return attend(q, k, v, causal, shift=k.shape[-2] - extra - q.shape[-2])


def contiguous(q, k, v, **options):
    """Memory read as if it were contiguous, whatever the strides say."""
    flat = []
    for x in (q, k, v):
        strides = torch.empty(x.shape, device="meta").stride()
        stored = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
        start = x.storage_offset()
        stored = torch.cat((stored[start:], stored.new_zeros(x.numel())))
        flat.append(stored.as_strided(x.shape, strides))
    return attend(*flat, **options)


def from_zero(q, k, v, least=0.0, **masks):
    """The running maximum starts at `least`; inf: there is none."""
    s = q.double() @ _as_many(k, q).mT / math.sqrt(q.shape[-1])
    s = _hide(s, **masks).float()
    m = s.amax(-1, keepdim=True).clamp(min=0) if least == 0 else torch.zeros_like(s[..., :1])
    p = (s - m).exp()
    return (p / p.sum(-1, keepdim=True)).double() @ _as_many(v, q)


def blockwise(q, k, v, *, block, o_too, l_too, carry=None, **masks):
    """The loop over blocks that forgets to rescale o, or l, or keeps them in 16 bits."""
    s = q.double() @ _as_many(k, q).mT / math.sqrt(q.shape[-1])
    s, v = _hide(s, **masks), _as_many(v, q)
    m = torch.full_like(s[..., :1], torch.finfo(s.dtype).min)
    l, o = torch.zeros_like(m), torch.zeros_like(q[..., :1].double() * v[..., :1, :])
    for s_j, v_j in zip(s.split(block, -1), v.split(block, -2)):
        m_new = torch.maximum(m, s_j.amax(-1, keepdim=True))
        p, a, m = (s_j - m_new).exp(), (m - m_new).exp(), m_new
        l = (l * a if l_too else l) + p.sum(-1, keepdim=True)
        o = (o * a if o_too else o) + p @ v_j
        if carry:
            l, o = (x.to(carry).double() for x in (l, o))
    return o / l


def blocks_alike(q, k, v, block, **masks):
    """The mean of the blocks' own outputs."""
    s = q.double() @ _as_many(k, q).mT / math.sqrt(q.shape[-1])
    s, v = _hide(s, **masks), _as_many(v, q)
    parts = zip(s.split(block, -1), v.split(block, -2))
    return torch.stack([torch.softmax(s_j, -1) @ v_j for s_j, v_j in parts]).mean(0)


def ten_bits(q, k, v, **options):
    """Products of numbers cut to TF32's ten bits."""
    cut = (x.float().view(torch.int32).bitwise_and(-(2**13)).view(torch.float32) for x in (q, k, v))
    return attend(*cut, **options)


def hidden_rows_alike(q, k, v, **masks):
    """A large negative number for -inf: who sees nothing sees all alike."""
    s = q.double() @ _as_many(k, q).mT / math.sqrt(q.shape[-1])
    s = _hide(s, **masks).clamp(min=-1e9)
    return torch.softmax(s, -1) @ _as_many(v, q)


def hidden_rows_nan(q, k, v, **masks):
    """-inf minus -inf where a query sees nothing."""
    s = q.double() @ _as_many(k, q).mT / math.sqrt(q.shape[-1])
    return torch.softmax(_hide(s, **masks), -1) @ _as_many(v, q)


def scaled(factor):
    """The right answer to scores times factor(d)."""
    return lambda q, k, v, **masks: attend(q, k, v, **masks, scale=factor(q.shape[-1]))


# Read from the top; the first that gives the same answer is named.
SLIPS = [
    ("causal is ignored", unmasked),
    ("causal is aligned top-left, not bottom-right (M8)", top_left),
    ("the scale is 1/8 whatever d is", scaled(lambda d: math.sqrt(d) / 8)),
    ("the scale is missing (M10)", scaled(math.sqrt)),
    ("the scale is applied twice (M10)", scaled(lambda d: 1 / math.sqrt(d))),
    ("2^s stands for e^s", scaled(lambda d: math.log(2))),
    ("scores made for 2^s go into e^s", scaled(lambda d: 1 / math.log(2))),
    ("heads of a group take key heads in turns", partial(attend, turns=True)),
    ("strides are ignored", contiguous),
    ("the running maximum starts at 0", from_zero),
    ("the running maximum starts at 0", lambda *a, **o: from_zero(*a, **o).nan_to_num(0)),
    ("no maximum is subtracted", partial(from_zero, least=math.inf)),
    ("a query that sees no key is NaN, not 0 (M2)", hidden_rows_nan),
    ("a finite number stands for -inf (M2)", hidden_rows_alike),
]
for b in (128, 64, 32, 16):
    loop, blocks = partial(blockwise, block=b), f"blocks of {b}"
    SLIPS += [
        (f"a last block that is not full is left out ({blocks})", partial(whole_blocks, block=b)),
        (f"keys of zeros fill the last block and take part ({blocks})", partial(padded, block=b)),
        (f"neither l nor o is rescaled (M16, {blocks})", partial(loop, o_too=False, l_too=False)),
        (f"o is not rescaled (M16, {blocks})", partial(loop, o_too=False, l_too=True)),
        (f"l is not rescaled (M16, {blocks})", partial(loop, o_too=True, l_too=False)),
        (f"blocks count alike (M17, {blocks})", partial(blocks_alike, block=b)),
    ]


def carried(q, k, v, **options):
    """Sums kept in the input's 16 bits."""
    return blockwise(q, k, v, **options, block=64, o_too=True, l_too=True, carry=q.dtype)


# Rounding differs from kernel to kernel, so these are told by the size of the error.
ROUNDINGS = [
    ("sums l and o kept in 16 bits (M14)", carried, (torch.bfloat16, torch.float16)),
    ("products in TF32", ten_bits, (torch.float32,)),
]
