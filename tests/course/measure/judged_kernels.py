"""Twenty kernels: ten that are right in different ways, ten that are wrong; and rude ones."""

import math
import os
import threading

import torch
from torch.nn import functional as F

from attnlib import flash_attention, standard_attention
from attnlib.kernels.compiled import compiled_attention


def see(q, k, causal, shift=None):
    """True where query i may see key j."""
    i, j = (torch.arange(x.shape[2])[:, None] for x in (q, k))
    shift = k.shape[2] - q.shape[2] if shift is None else shift
    return (j.mT <= i + shift) if causal else (j.mT >= 0).expand(len(i), -1)


def many(k, q):
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1)


# Right ---------------------------------------------------------------------


def textbook(q, k, v, causal=False, key_mask=None, window=None):
    return standard_attention(q, k, v, causal=causal, key_mask=key_mask, window=window)


def flash(q, k, v, causal=False, key_mask=None, window=None):
    return flash_attention(q, k, v, 29, causal=causal, key_mask=key_mask, window=window)


def steps(q, k, v, causal=False):  # has no groups of heads, and says so
    return compiled_attention(q, k, v, 64, causal=causal)


def torchs(q, k, v, causal=False):
    mask, grouped = see(q, k, causal), q.shape[1] != k.shape[1]
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return o.masked_fill(~mask.any(-1)[:, None], 0)


def flex(q, k, v, causal=False):
    from torch.nn.attention.flex_attention import flex_attention

    def bottom_right(s, b, h, i, j):
        return torch.where(j <= i + k.shape[2] - q.shape[2], s, -math.inf)

    mod, grouped = bottom_right if causal else None, q.shape[1] != k.shape[1]
    return flex_attention(q, k, v, score_mod=mod, enable_gqa=grouped)


graph = torch.compile(standard_attention, backend="aot_eager")


def aot_eager(q, k, v, causal=False):
    return graph(q, k, v, causal=causal)


def in_float64(q, k, v, causal=False):
    return standard_attention(q.double(), k.double(), v.double(), causal=causal).to(q.dtype)


def base_two(q, k, v, causal=False):
    s = torch.einsum("bhid,bhjd->bhij", q.float(), many(k, q).float()) * q.shape[-1] ** -0.5
    s = s.masked_fill(~see(q, k, causal), -1e30)
    p = torch.exp2((s - s.amax(-1, keepdim=True)) * math.log2(math.e))
    p = p.masked_fill(~see(q, k, causal), 0)
    return (p @ many(v, q).float() / p.sum(-1, keepdim=True).clamp(min=1e-30)).to(q.dtype)


def two_halves(q, k, v, causal=False):
    n, parts, mask = (k.shape[2] + 1) // 2, [], see(q, k, causal)
    for cols in (slice(0, n), slice(n, None)):
        s = q.float() @ many(k, q)[:, :, cols].float().mT * q.shape[-1] ** -0.5
        s = s.masked_fill(~mask[:, cols], -math.inf)
        lse = torch.logsumexp(s, -1, keepdim=True)
        p = torch.exp(s - lse.clamp(min=-1e30))
        parts.append((lse, p @ many(v, q)[:, :, cols].float()))
    total = torch.logaddexp(parts[0][0], parts[1][0]).clamp(min=-1e30)
    return sum(o * torch.exp(lse - total) for lse, o in parts).to(q.dtype)


def loop(q, k, v, causal=False, *, o_too=True, m=None, carry=None, scale=None, shift=None, to=None):
    """The textbook's online loop in blocks of 64, with what can go wrong in it."""
    s = q.float() @ many(k, q).float().mT * (scale or q.shape[-1] ** -0.5)
    s, v = s.masked_fill(~see(q, k, causal, shift), -math.inf), many(v, q).float()
    m = s.new_full((*s.shape[:-1], 1), -1e30 if m is None else m)
    l, o = torch.zeros_like(m), torch.zeros_like(v[..., :1, :] * m)
    for s_j, v_j in zip(s[..., :to].split(64, -1), v[..., :to, :].split(64, -2)):
        m_new = torch.maximum(m, s_j.amax(-1, keepdim=True))
        p, a, m = torch.exp(s_j - m_new), torch.exp(m - m_new), m_new
        l, o = l * a + p.sum(-1, keepdim=True), (o * a if o_too else o) + p @ v_j
        if carry:
            l, o = l.to(carry).float(), o.to(carry).float()
    return (o / l.clamp(min=1e-30)).to(q.dtype)


def online(q, k, v, causal=False):
    return loop(q, k, v, causal)


RIGHT = [textbook, flash, steps, torchs, flex, aot_eager, in_float64, base_two, two_halves, online]

# Wrong ---------------------------------------------------------------------


def multiples_of_64(q, k, v, causal=False):
    return loop(q, k, v, causal, to=k.shape[2] // 64 * 64)


def fixed_scale(q, k, v, causal=False):
    return loop(q, k, v, causal, scale=1 / 8)


def ignores_strides(q, k, v, causal=False):
    return loop(*(_as_stored(x) for x in (q, k, v)), causal)


def _as_stored(x):
    stored = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
    stored = torch.cat((stored[x.storage_offset() :], x.new_zeros(x.numel())))
    return stored[: x.numel()].view(x.shape)


def maximum_from_zero(q, k, v, causal=False):
    return loop(q, k, v, causal, m=0.0)


def no_gradient(q, k, v, causal=False):
    return loop(q.detach(), k.detach(), v.detach(), causal)


def top_left(q, k, v, causal=False):
    return loop(q, k, v, causal, shift=0)


def no_rescale(q, k, v, causal=False):
    return loop(q, k, v, causal, o_too=False)


def mixed_base(q, k, v, causal=False):
    return loop(q, k, v, causal, scale=math.log(2) * q.shape[-1] ** -0.5)


def carries(q, k, v, causal=False):
    return loop(q, k, v, causal, carry=q.dtype)


def heads_in_turns(q, k, v, causal=False):
    return loop(q, *(x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v)), causal)


WRONG = {
    multiples_of_64: "a last block that is not full is left out (blocks of 64)",
    fixed_scale: "the scale is 1/8 whatever d is",
    ignores_strides: "strides are ignored",
    maximum_from_zero: "the running maximum starts at 0",
    no_gradient: "dq has no gradient",
    top_left: "causal is aligned top-left, not bottom-right (M8)",
    no_rescale: "o is not rescaled (M16, blocks of 64)",
    mixed_base: "2^s stands for e^s",
    carries: "as large an error as by sums l and o kept in 16 bits (M14)",
    heads_in_turns: "heads of a group take key heads in turns",
}

# Rude ----------------------------------------------------------------------


def crashes(q, k, v):
    os.abort()


def exits(q, k, v):
    raise SystemExit(0)


def interrupts(q, k, v):
    raise KeyboardInterrupt


def spoils(q, k, v):
    o = textbook(q, k, v)
    v.fill_(1)
    return o


def widens(q, k, v):
    return textbook(q, k, v).double()


def answers_nothing(q, k, v):
    return None


def forgets_heads(q, k, v):
    return textbook(q, k, v)[:, 0]


RUDE = {
    exits: "SystemExit: 0",
    interrupts: "KeyboardInterrupt",
    spoils: "changes its inputs",
    widens: "o has dtype torch.float64",
    answers_nothing: "o is no tensor but NoneType",
    forgets_heads: "o has shape torch.Size([2, 70, 32]), expected torch.Size([2, 2, 70, 32])",
}


def in_a_thread(q, k, v):
    got = []
    thread = threading.Thread(target=lambda: got.append(textbook(q, k, v)))
    thread.start()
    thread.join()
    return got[0]
