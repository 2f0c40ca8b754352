"""Right answers by other ways than the solutions; no check may reject one."""

import math
import random
from collections import deque
from fractions import Fraction

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from attnlib import SoftmaxState, attention_oracle, calculate_local_fx, standard_attention
from attnlib.course import gpt
from attnlib.masks import visible
from attnlib.softmax import divide, finite, rescale_factor

INF = math.inf
LN_2 = math.log(2)
RIGHT = []


def right(task):
    def add(f):
        RIGHT.append((task, f))
        return f

    return add


# 01 --------------------------------------------------------------------------


@right("largest_exponents")
def exponents_of_numpy():
    return {"float16": np.int64(11), "bfloat16": np.int32(88), "float32": 88, "float64": 709}


@right("largest_exponents")
def exponents_in_order():
    return 11, 88, 88, 709


@right("largest_exponents")
def exponents_as_floats():
    return {"float32": 88.0, "float64": 709.0, "float16": 11.0, "bfloat16": 88.0}


@right("largest_exponents")
def exponents_by_math():
    formats = "float16", "bfloat16", "float32", "float64"
    return {n: int(np.log(torch.finfo(getattr(torch, n)).max)) for n in formats}


@right("log_sum_exp")
def lse_of_torch(x):
    return torch.logsumexp(x, -1)


@right("log_sum_exp")
def lse_in_base_two(x):
    y = x.double() / LN_2
    m = y.amax(-1, keepdim=True) if x.shape[-1] else y.new_full((*x.shape[:-1], 1), -INF)
    m = finite(m)
    return (LN_2 * (m + (y - m).exp2().sum(-1, keepdim=True).log2())).squeeze(-1).to(x.dtype)


@right("log_sum_exp")
def lse_of_numpy(x):
    return torch.as_tensor(np.logaddexp.reduce(x.double().numpy(), axis=-1)).to(x.dtype)


@right("log_sum_exp")
def lse_by_halves(x):
    if x.shape[-1] <= 1:
        return x.sum(-1) if x.shape[-1] else x.new_full(x.shape[:-1], -INF)
    a, b = x.tensor_split(2, -1)
    return torch.logaddexp(lse_by_halves(a.float()), lse_by_halves(b.float())).to(x.dtype)


@right("masked_softmax")
def masked_row_by_row(x, see):
    p = torch.zeros_like(x)
    for p_i, x_i, see_i in zip(
        p.view(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]), see.reshape(-1, x.shape[-1])
    ):
        if see_i.any():
            p_i[see_i] = torch.softmax(x_i[see_i], -1)
    return p


@right("masked_softmax")
def masked_nan_to_zero(x, see):
    return torch.softmax(x.masked_fill(~see, -INF), -1).nan_to_num(0.0)


@right("masked_softmax")
def masked_by_logarithm(x, see):
    x = x.masked_fill(~see, -INF)
    lse = torch.logsumexp(x, -1, keepdim=True)
    return torch.where(see, torch.exp(x - lse), 0.0)


@right("masked_softmax")
def masked_sentinel_and_sweep(x, see):
    p = torch.softmax(x.masked_fill(~see, torch.finfo(x.dtype).min), -1)
    return p * see


@right("test_softmax")
def test_by_python_floats(softmax):
    rows = [[1.0, 2.0, 300.0], [-500.0, -501.0, -500.5], [7.0, 7.0, 7.0]]
    p = softmax(torch.tensor([*rows, [-INF] * 3]))
    for got, row in zip(p.tolist(), rows):
        e = [math.exp(x - max(row)) for x in row]
        assert all(math.isclose(a, b / sum(e), rel_tol=1e-3, abs_tol=1e-30) for a, b in zip(got, e))
    assert p[3].tolist() == [0.0] * 3


@right("test_softmax")
def test_by_shift_and_ratio(softmax):
    x = torch.tensor([[0.0, 1.0, 2.0], [200.0, 201.0, 202.0], [-INF, -INF, -INF]])
    p = softmax(x)
    torch.testing.assert_close(p[0], p[1], rtol=1e-4, atol=0.0)
    torch.testing.assert_close(p[:2].sum(-1), torch.ones(2))
    torch.testing.assert_close(p[0, 1:] / p[0, :-1], torch.full((2,), math.e), rtol=1e-4, atol=0.0)
    if p[2].abs().max() != 0:
        raise AssertionError("a row that sees nothing")


# 02 --------------------------------------------------------------------------


@right("joined_by_pencil")
def joined_in_fractions():
    return {"a1": Fraction(1), "a2": Fraction(1, 2), "l": Fraction(19, 8)}


@right("joined_by_pencil")
def joined_as_a_tuple():
    return 1, 1 / 2, 9 / 8 + 1 / 2 * (1 / 2 + 1 + 1)


@right("joined_by_pencil")
def joined_as_tensors():
    x1, x2 = torch.tensor([1.0, 8.0]).log(), torch.tensor([2.0, 4.0, 4.0]).log()
    m = torch.cat((x1, x2)).max()
    l = torch.exp(torch.cat((x1, x2)) - m).sum()
    return {"a1": torch.exp(x1.max() - m), "a2": torch.exp(x2.max() - m), "l": l}


@right("joined_by_pencil")
def joined_in_numpy():
    return [np.float32(1), np.exp2(-1.0), np.float64(2.375)]


@right("softmax_of_pieces")
def pieces_by_logaddexp(pieces):
    lse = torch.logsumexp(pieces[0], -1, keepdim=True)
    for x in pieces[1:]:
        lse = torch.logaddexp(lse, torch.logsumexp(x, -1, keepdim=True))
    return [torch.exp(x - finite(lse)) for x in pieces]


@right("softmax_of_pieces")
def pieces_in_two_passes(pieces):
    m = pieces[0].amax(-1, keepdim=True)
    for x in pieces[1:]:
        m = torch.maximum(m, x.amax(-1, keepdim=True))
    m = m.nan_to_num(neginf=0.0)
    total = sum(torch.exp(x - m).sum(-1, keepdim=True) for x in pieces)
    return [torch.exp(x - m) / torch.where(total > 0, total, 1.0) for x in pieces]


@right("softmax_of_pieces")
def pieces_cut_from_the_row(pieces):
    p, out = torch.softmax(torch.cat(pieces, -1).double(), -1).nan_to_num(0.0), []
    for x in pieces:
        out.append(p[..., : x.shape[-1]].to(x.dtype))
        p = p[..., x.shape[-1] :]
    return out


@right("stream_softmax")
def stream_by_log_weights(pieces):
    lse = torch.full_like(pieces[0][..., :1], -INF)
    for x in pieces:
        lse = torch.logaddexp(lse, x.logsumexp(-1, keepdim=True))
    return torch.exp(torch.cat(pieces, -1) - finite(lse))


@right("stream_softmax")
def stream_rescaling_at_the_end(pieces):
    local = [calculate_local_fx(x) for x in pieces]
    m = torch.cat([m for m, _, _ in local], -1).amax(-1, keepdim=True)
    fx = torch.cat([rescale_factor(m_j, m) * fx for m_j, _, fx in local], -1)
    return divide(fx, fx.sum(-1, keepdim=True))


@right("stream_softmax")
def stream_normalised_in_each_step(pieces):
    p, lse = pieces[0][..., :0], torch.full_like(pieces[0][..., :1], -INF)
    for x in pieces:
        new = torch.logaddexp(lse, x.logsumexp(-1, keepdim=True))
        p = torch.cat((p * torch.exp(lse - finite(new)), torch.exp(x - finite(new))), -1)
        lse = new
    return p


@right("test_decomposed")
def test_against_cat(f):
    x1, x2 = 8 * torch.randn(40, 90), 8 * torch.randn(40, 70)
    x1[5], x2[5], x1[6], x2[7] = -INF, -INF, -INF, -INF
    (m1, l1, fx1), (m2, l2, fx2) = calculate_local_fx(x1), calculate_local_fx(x2)
    p = f(fx1, l1, m1, fx2, l2, m2)
    exact = torch.softmax(torch.cat((x1, x2), -1).double(), -1).nan_to_num(0.0)
    assert p.shape == exact.shape
    assert ((p - exact).abs() <= 1e-4 * exact + 1e-12).all()


@right("favourite")
def favourite_last_of_equals(pieces):
    best, lse, index, start = None, None, None, 0
    for x in pieces:
        top, i = x.max(-1)
        part = torch.logsumexp(x, -1)
        if best is None:
            best, index, lse = top, i, part
        else:
            index = torch.where(top >= best, i + start, index)
            best, lse = torch.maximum(best, top), torch.logaddexp(lse, part)
        start += x.shape[-1]
    return index, torch.exp(best - lse)


@right("favourite")
def favourite_as_a_dict(pieces):
    x = torch.cat(pieces, -1)
    return {"p": torch.softmax(x, -1).amax(-1), "index": x.argmax(-1)}


@right("favourite")
def favourite_as_a_list(pieces):
    x = torch.cat(pieces, -1)
    m = x.amax(-1, keepdim=True)
    return [x.argmax(-1), 1 / torch.exp(x - m).sum(-1)]


# 03 --------------------------------------------------------------------------


@right("merge")
def merge_as_a_tuple(a, b):
    m = torch.where(a.m > b.m, a.m, b.m)
    fa, fb = rescale_factor(a.m, m), rescale_factor(b.m, m)
    return m, fa * a.l + fb * b.l, fa * a.o + fb * b.o


@right("merge")
def merge_with_finite_identity(a, b):
    m = torch.maximum(a.m, b.m)
    m = torch.where(m == -INF, torch.zeros_like(m), m)
    fa, fb = torch.exp(a.m - m), torch.exp(b.m - m)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@right("merge")
def merge_at_the_lowest_number(a, b):
    m = torch.maximum(a.m, b.m).clamp(min=torch.finfo(a.m.dtype).min)
    fa, fb = torch.exp(a.m - m), torch.exp(b.m - m)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@right("merge")
def merge_normalised(a, b):
    lse = torch.logaddexp(a.m + a.l.log(), b.m + b.l.log())
    o = a.o * torch.exp(a.m - finite(lse)) + b.o * torch.exp(b.m - finite(lse))
    return SoftmaxState(lse, (lse > -INF).to(lse.dtype), o)


@right("merge")
def merge_the_larger_first(a, b):
    swap = b.m > a.m
    m, d = torch.where(swap, b.m, a.m), -(a.m - b.m).abs().nan_to_num(0.0, posinf=INF)
    small = torch.exp(d)
    fa, fb = torch.where(swap, small, 1.0), torch.where(swap, 1.0, small)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@right("fold_tree")
def fold_by_deque(states, merge):
    queue = deque(states)
    while len(queue) > 1:
        queue.append(merge(queue.popleft(), queue.popleft()))
    return queue[0]


@right("fold_tree")
def fold_first_with_last(states, merge):
    while len(states) > 1:
        half = len(states) // 2
        middle = states[half : len(states) - half]
        states = [merge(a, b) for a, b in zip(states[:half], reversed(states[-half:]))] + middle
    return states[0]


@right("fold_tree")
def fold_by_halves(states, merge):
    if len(states) == 1:
        return states[0]
    half = (len(states) + 1) // 2
    return merge(fold_by_halves(states[:half], merge), fold_by_halves(states[half:], merge))


@right("fold_tree")
def fold_by_stride(states, merge):
    states, step = list(states), 1
    while step < len(states):
        for i in range(0, len(states) - step, 2 * step):
            states[i] = merge(states[i], states[i + step])
        step *= 2
    return states[0]


@right("merge_parts")
def parts_by_nan_to_one(o1, lse1, o2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    a1, a2 = torch.exp(lse1 - lse).nan_to_num(1.0), torch.exp(lse2 - lse).nan_to_num(1.0)
    return a1[:, None] * o1 + a2[:, None] * o2, lse


@right("merge_parts")
def parts_by_sigmoid(o1, lse1, o2, lse2):
    a2 = torch.sigmoid(lse2 - lse1).nan_to_num(0.0)[:, None]
    return (1 - a2) * o1 + a2 * o2, torch.logaddexp(lse1, lse2)


@right("merge_parts")
def parts_by_hand(o1, lse1, o2, lse2):
    m = torch.maximum(lse1, lse2).clamp(min=-1e30)
    l1, l2 = torch.exp(lse1 - m), torch.exp(lse2 - m)
    l = l1 + l2
    o = (l1[:, None] * o1 + l2[:, None] * o2) / l.clamp(min=1e-30)[:, None]
    return o, torch.where(l > 0, m + l.clamp(min=1e-30).log(), -INF)


@right("merge_kernel_parts")
def kernel_by_powers(o1, lse1, o2, lse2):
    m = finite(torch.maximum(lse1, lse2))
    l1, l2 = 2 ** (lse1 - m), 2 ** (lse2 - m)
    l = l1 + l2
    o = divide(l1[:, None] * o1 + l2[:, None] * o2, l[:, None])
    return o, (m + torch.log2(l)) * np.log(2)


@right("merge_kernel_parts")
def kernel_as_a_dict(o1, lse1, o2, lse2):
    w = torch.stack((lse1, lse2)) * math.log(2.0)
    a = torch.softmax(w, 0).nan_to_num(0.0)[..., None]
    return {"o": a[0] * o1 + a[1] * o2, "lse": torch.logsumexp(w, 0)}


@right("unmerge")
def unmerge_by_a_negative_merge(whole, part):
    return whole.merge(SoftmaxState(part.m, -part.l, -part.o))


@right("unmerge")
def unmerge_by_differences(whole, part):
    o, lse = whole.finalise()
    o_part, lse_part = part.finalise()
    p = torch.exp(lse_part - lse)[..., None]
    left = lse[..., None] + torch.log1p(-p)
    return left, torch.ones_like(left), (o - p * o_part) / (1 - p)


# 04 --------------------------------------------------------------------------


@right("count_rescales")
def count_in_numpy(s, block_size):
    m = np.array([float(x.max()) for x in s.split(block_size)])
    return (np.diff(np.maximum.accumulate(m)) > 0).sum()


@right("count_rescales")
def count_as_a_float(s, block_size):
    m, count = s[:block_size].max(), 0.0
    for i in range(block_size, len(s), block_size):
        new = torch.maximum(m, s[i : i + block_size].max())
        count += float(new != m)
        m = new
    return count


@right("attend_row")
def row_normalised(s, v, block_size):
    lse, o = s.new_tensor(-INF), v.new_zeros(v.shape[-1])
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        new = torch.logaddexp(lse, s_j.logsumexp(-1))
        o = o * torch.exp(lse - finite(new)) + torch.exp(s_j - finite(new)) @ v_j
        lse = new
    return o


@right("attend_row")
def row_by_states(s, v, block_size):
    state = SoftmaxState.identity(s[None], v)
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        state = state.merge(SoftmaxState.of(s_j[None], v_j))
    return state.finalise()[0][0]


@right("attend_row")
def row_score_by_score(s, v, block_size):
    m, l, o = s.new_tensor(torch.finfo(s.dtype).min), 0.0, torch.zeros(v.shape[-1])
    for i in range(len(s)):
        m_new = torch.maximum(m, s[i])
        a, p = torch.exp(m - m_new), torch.exp(s[i] - m_new)
        m, l, o = m_new, a * l + p, a * o + p * v[i]
    return o / l if l > 0 else o


@right("test_attend")
def test_attend_in_numpy(attend):
    for shift in (0, -300):
        s = np.linspace(-4, 4, 22) + shift
        for hidden in (0, 4):
            s[:hidden] = -np.inf
            v = np.stack((np.arange(22.0), np.cos(np.arange(22.0))), -1)
            p = np.exp(s - s.max())
            exact = p @ v / p.sum()
            got = attend(torch.tensor(s).float(), torch.tensor(v).float(), 4)
            np.testing.assert_allclose(got.numpy(), exact, rtol=1e-3)


@right("attend_lazily")
def lazy_by_states(s, v, block_size, threshold):
    state = SoftmaxState.identity(s[None], v)
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        new = SoftmaxState.of(s_j[None], v_j)
        if (new.m > state.m + threshold).item():
            state = state.rebase(new.m)
        new = new.rebase(state.m)
        state = SoftmaxState(state.m, state.l + new.l, state.o + new.o)
    return state.finalise()[0][0]


@right("largest_threshold")
def threshold_of_numpy(keys, dtype):
    return np.floor(np.log(torch.finfo(dtype).max) - np.log(keys))


@right("largest_threshold")
def threshold_counted_up(keys, dtype):
    t = 0
    while math.log(keys) + t + 1 <= math.log(torch.finfo(dtype).max):
        t += 1
    return t


# 05 --------------------------------------------------------------------------


@right("standard_peak")
def peak_as_a_float(batch, heads, N, d, size):
    return 2.0 * size * batch * heads * N**2


@right("standard_peak")
def peak_of_numpy(batch, heads, N, d, size):
    return np.prod([2, batch, heads, N, N, size], dtype=np.int64)


@right("attention_with_bias")
def bias_as_mask(q, k, v, bias):
    return scaled_dot_product_attention(q, k, v, attn_mask=bias)


@right("attention_with_bias")
def bias_by_einsum(q, k, v, bias):
    s = torch.einsum("...nd,...md->...nm", q, k) * q.size(-1) ** -0.5
    return torch.einsum("...nm,...me->...ne", torch.softmax(s + bias, -1), v)


@right("attention_with_bias")
def bias_with_the_keys(q, k, v, bias):
    d, eye = q.shape[-1], torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2])
    bias = bias.clamp(min=-1e6).expand(*q.shape[:-1], k.shape[-2])
    return torch.softmax(torch.cat((q / d**0.5, bias), -1) @ torch.cat((k, eye), -1).mT, -1) @ v


@right("attention_by_rows")
def rows_one_by_one(q, k, v, rows):
    o = torch.empty(*q.shape[:-1], v.shape[-1])
    for i in range(q.shape[-2]):
        s = (k @ q[..., i, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])
        o[..., i, :] = (torch.softmax(s, -1)[..., None, :] @ v).squeeze(-2)
    return o


@right("attention_by_rows")
def rows_in_place(q, k, v, rows):
    outs = []
    for q_i in q.split(rows, dim=-2):
        s = q_i @ k.transpose(-1, -2)
        s.div_(q.shape[-1] ** 0.5).sub_(s.amax(-1, keepdim=True)).exp_()
        outs.append(s @ v / s.sum(-1, keepdim=True))
    return torch.cat(outs, dim=-2)


def exact(q, k, v):
    q, k, v = q.double(), k.double(), v.double()
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


@right("test_gradients")
def test_gradients_by_backward(attention):
    qkv, w = torch.randn(3, 12, 9), torch.randn(12, 9)
    a = [x.clone().requires_grad_() for x in qkv]
    b = [x.clone().requires_grad_() for x in qkv]
    (attention(*a) * w).sum().backward()
    (exact(*b) * w).sum().backward()
    for x, y in zip(a, b):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-5)


# 06 --------------------------------------------------------------------------


@right("rows_of_k_read")
def reads_by_a_loop(Nq, Nk, block_size):
    return sum(Nk for _ in range(0, Nq, block_size))


@right("rows_of_k_read")
def reads_of_numpy(Nq, Nk, block_size):
    return np.ceil(Nq / block_size) * Nk


@right("flash2_rows")
def flash2_by_lse(q, k, v, block_size):
    o, lse = 0.0, torch.full((len(q),), -INF)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        s = q @ k_j.mT * q.shape[-1] ** -0.5
        new = torch.logaddexp(lse, s.logsumexp(-1))
        o = torch.exp(lse - new)[:, None] * o + torch.exp(s - new[:, None]) @ v_j
        lse = new
    return o, lse


@right("flash2_rows")
def flash2_as_a_dict(q, k, v, block_size):
    state = SoftmaxState.identity(q, v)
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        state = state.merge(SoftmaxState.of(q @ k_j.mT / q.shape[-1] ** 0.5, v_j))
    return dict(zip(("o", "lse"), state.finalise()))


@right("flash_16bit")
def half_in_float64(q, k, v, block_size):
    state = SoftmaxState.identity(q.double(), v)
    for k_j, v_j in zip(k.double().split(block_size), v.double().split(block_size)):
        s = q.double() @ k_j.mT / q.shape[-1] ** 0.5
        state = state.merge(SoftmaxState.of(s, v_j))
    return state.finalise()[0].to(q.dtype)


@right("trainable_attention")
def train_own_function(q, k, v, block_size):
    class Rows(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q_i, k, v):
            ctx.save_for_backward(q_i, k, v)
            return torch.softmax(q_i @ k.mT / q.shape[-1] ** 0.5, -1) @ v

        @staticmethod
        def backward(ctx, do):
            q_i, k, v = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            with torch.enable_grad():
                o = torch.softmax(q_i @ k.mT / q.shape[-1] ** 0.5, -1) @ v
            return torch.autograd.grad(o, (q_i, k, v), do)

    return torch.cat([Rows.apply(q_i, k, v) for q_i in q.split(block_size)])


@right("trainable_attention")
def train_whole_rows(q, k, v, block_size):
    def rows(q_i, k, v):
        return torch.softmax(q_i @ k.mT / q.shape[-1] ** 0.5, -1) @ v

    return torch.cat([checkpoint(rows, x, k, v, use_reentrant=False) for x in q.split(block_size)])


@right("attention_backward")
def backward_by_jacobian(q, k, v, o, lse, do, dlse):
    c = 1 / math.sqrt(q.shape[-1])
    p = torch.softmax(c * q @ k.mT, -1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # (N, M, M)
    ds = ((do @ v.mT)[:, None, :] @ jacobian)[:, 0] + dlse[:, None] * p
    return c * (ds @ k), c * (ds.mT @ q), p.mT @ do


@right("attention_backward")
def backward_as_a_dict(q, k, v, o, lse, do, dlse):
    c = q.shape[-1] ** -0.5
    p = torch.exp(c * q @ k.mT - lse[:, None])
    ds = c * p * (do @ v.mT + (dlse - (do * o).sum(-1))[:, None])
    return {"dv": p.mT @ do, "dq": ds @ k, "dk": ds.mT @ q}


# 07 --------------------------------------------------------------------------


@right("causal_mask")
def mask_of_lists(Nq, Nk):
    return torch.tensor([[j <= i + Nk - Nq for j in range(Nk)] for i in range(Nq)])


@right("causal_mask")
def mask_of_numpy(Nq, Nk):
    return np.tri(Nq, Nk, Nk - Nq, dtype=bool)


@right("causal_mask")
def mask_not_triu(Nq, Nk):
    return ~torch.ones(Nq, Nk, dtype=torch.bool).triu(Nk - Nq + 1)


@right("tiles_needed")
def tiles_one_by_one(Nq, Nk, block_size):
    starts = [(i, j) for i in range(0, Nq, block_size) for j in range(0, Nk, block_size)]
    return sum(j <= min(i + block_size, Nq) - 1 + Nk - Nq for i, j in starts)


@right("window_attention")
def window_query_by_query(q, k, v, window, block_size):
    o = torch.zeros(len(q), v.shape[-1])
    for i in range(len(q)):
        end = i + 1 + len(k) - len(q)
        start = max(end - window, 0)
        if end > start:
            s = k[start:end] @ q[i] / q.shape[-1] ** 0.5
            o[i] = torch.softmax(s, -1) @ v[start:end]
    return o


@right("test_masks")
def test_masks_query_by_query(attention):
    for Nq, Nk, pad in ((3, 7, 0), (7, 7, 3), (9, 5, 0)):
        q, k, v = torch.randn(Nq, 8), torch.randn(Nk, 8), torch.randn(Nk, 8)
        seen = torch.arange(Nk) >= pad
        o = attention(q, k, v, causal=True, key_mask=seen)
        for i in range(Nq):
            keys = [j for j in range(Nk) if pad <= j <= i + Nk - Nq]
            right = torch.zeros(8)
            if keys:
                right = torch.softmax(k[keys] @ q[i] / 8**0.5, -1) @ v[keys]
            assert torch.allclose(o[i], right, atol=1e-5)
    q, k, v = torch.randn(3, 6, 8)
    right = attention_oracle(q, k, v)[0]
    assert torch.allclose(attention(q, k, v).double(), right, atol=1e-5)


@right("sink_attention")
def sinks_by_softmax_of_lse(core, q, k, v, sinks, window):
    n = sinks
    early = core(q[:n], k[:n], v[:n], causal=True)
    o1, lse1 = core(q[n:], k[:n], v[:n], return_lse=True)
    o2, lse2 = core(q[n:], k[n:], v[n:], window=window, return_lse=True)
    p = torch.softmax(torch.stack((lse1, lse2)), 0)[..., None]
    return torch.cat((early, p[0] * o1 + p[1] * o2))


# 08 --------------------------------------------------------------------------


@right("flash_peak")
def flash_peak_of_numpy(heads, N, d, block_size):
    return np.float64(4 * heads * N * d) + 4 * heads * block_size**2


@right("paper_mib")
def paper_by_solving(N, batch, heads, d):
    s = [16 * 8 * n * n * 2 / 2**20 for n in (2048, 4096)]
    x = [16 * 8 * n * 64 * 2 / 2**20 for n in (2048, 4096)]
    a, b = np.linalg.solve(np.array([s, x]).T, [4416, 17024])
    return (a * N * N + b * N * d) * batch * heads / 2**19


@right("paper_mib")
def paper_in_fractions(N, batch, heads, d):
    return Fraction(batch * heads * N * (4 * N + 10 * d), 2**19)


@right("test_bfloat16")
def test_bfloat16_twice_the_standard(attention):
    for keys in (10, 700):
        q, k, v = (torch.randn(keys, 32, dtype=torch.bfloat16) for _ in range(3))
        q, v = 2 * q[:20], v + 1
        exact, _ = attention_oracle(q, k, v)
        once = exact.to(torch.bfloat16).double()
        o = attention(q, k, v)
        assert o.dtype == torch.bfloat16
        assert (o - exact).norm() < 6 * (once - exact).norm()


@right("largest_N")
def largest_by_bisection(gib, heads, d):
    low, high = 1, 2**24
    while high - low > 1:
        N = (low + high) // 2
        bytes_ = 4 * heads * (2 * N * N + 3 * N * d) + 2**29 + 2**25
        low, high = (N, high) if bytes_ <= gib * 2**30 else (low, N)
    return low


@right("window_attention")
def window_whole_rows(q, k, v, window, block_size):
    see = visible(len(q), len(k), window=window)
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~see, -INF)
    return torch.where(see.any(-1, keepdim=True), torch.softmax(s, -1).nan_to_num(0.0) @ v, 0.0)


@right("fold_tree")
def fold_in_any_order(states, merge):
    states = list(states)
    random.shuffle(states)
    return fold_by_halves(states, merge)


@right("own_core")
def core_by_lse(q, tape, block_size, causal):
    n = sum(len(k_j) for k_j, _ in tape.blocks)
    o, lse = 0.0, torch.full((len(q), 1), -INF)
    i = torch.arange(n - len(q), n)[:, None]
    for j in reversed(range(len(tape.blocks))):
        k_j, v_j = tape.take(j)
        s = q @ k_j.mT / math.sqrt(q.shape[-1])
        if causal:
            s = torch.where(j * block_size + torch.arange(len(k_j)) <= i, s, -INF)
        new = torch.logaddexp(lse, s.logsumexp(-1, keepdim=True))
        o = o * torch.exp(lse - finite(new)) + torch.exp(s - finite(new)) @ v_j
        lse = new
    return o


# 09 --------------------------------------------------------------------------


@right("row_gradients")
def row_by_autograd(p, v, do):
    s, v = p.log().requires_grad_(), v.clone().requires_grad_()
    return torch.autograd.grad(torch.softmax(s, -1) @ v, (s, v), do)


@right("row_gradients")
def row_key_by_key(p, v, do):
    ds = torch.zeros_like(p)
    for i in range(len(p)):
        for j in range(len(p)):
            ds[i] += (do @ v[j]) * p[j] * (float(i == j) - p[i])
    return {"ds": ds, "dv": torch.stack([p_j * do for p_j in p])}


@right("numbers_moved")
def moved_turn_by_turn(Nq, Nk, d, size, passes):
    rows = [min(size, Nq - i) for i in range(0, Nq, size)]
    columns = [min(size, Nk - j) for j in range(0, Nk, size)]
    total = 0
    for b in columns:
        total += 4 * b * d + sum(a * (2 * d + 2 + 2 * d * (passes == 1)) for a in rows)
    if passes == 2:
        total += sum(a * (3 * d + 2) + sum(2 * b * d for b in columns) for a in rows)
    return total


@right("numbers_moved")
def moved_by_numpy(Nq, Nk, d, size, passes):
    rows, columns = np.ceil(np.array([Nq, Nk]) / size)
    first = 4 * Nk * d + columns * Nq * (2 * d + 2)
    return first + (2 * columns * Nq * d if passes == 1 else Nq * (3 * d + 2) + rows * 2 * Nk * d)


@right("tiled_backward")
def tiles_in_powers_of_2(q, k, v, o, lse, do, size):
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    c = q.shape[-1] ** -0.5
    minus_delta = -torch.einsum("nd,nd->n", do, o)
    for j in reversed(range(0, len(k), size)):
        for i in range(0, len(q), size):
            a, b = slice(i, i + size), slice(j, j + size)
            p = torch.exp2((c * q[a] @ k[b].mT - lse[a, None]) / LN_2)
            ds = c * p * torch.addmm(minus_delta[a, None], do[a], v[b].mT)
            dq[a].addmm_(ds, k[b]), dk[b].addmm_(ds.mT, q[a]), dv[b].addmm_(p.mT, do[a])
    return dq, dk, dv


@right("tiled_backward")
def tiles_in_two_passes(q, k, v, o, lse, do, size):
    c, delta = q.shape[-1] ** -0.5, (do * o).sum(-1, keepdim=True)

    def tile(i, j):
        a, b = slice(i, i + size), slice(j, j + size)
        p = (c * q[a] @ k[b].mT).sub(lse[a].unsqueeze(-1)).exp()
        return p, c * p * (do[a] @ v[b].mT - delta[a])

    rows, columns = range(0, len(q), size), range(0, len(k), size)
    dq = [sum(tile(i, j)[1] @ k[j : j + size] for j in columns) for i in rows]
    dk = [sum(tile(i, j)[1].mT @ q[i : i + size] for i in rows) for j in columns]
    dv = [sum(tile(i, j)[0].mT @ do[i : i + size] for i in rows) for j in columns]
    return torch.cat(dq), torch.cat(dk), torch.cat(dv)


@right("test_backward")
def test_backward_by_gradcheck(backward):
    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            o, lse = attention_oracle(q, k, v)
            ctx.save_for_backward(q, k, v, o, lse)
            return o

        @staticmethod
        def backward(ctx, do):
            return backward(*ctx.saved_tensors, do, 2)

    qkv = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5)]
    assert torch.autograd.gradcheck(Attention.apply, qkv)


@right("test_backward")
def test_backward_in_float32(backward):
    q, k, v, do = (torch.randn(n, 8) for n in (20, 30, 30, 20))
    qkv = [x.double().requires_grad_() for x in (q, k, v)]
    exact = torch.autograd.grad(standard_attention(*qkv), qkv, do.double())
    o, lse = (x.float() for x in attention_oracle(q, k, v))
    for a, b in zip(backward(q, k, v, o, lse, do, 8), exact):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


@right("shard_backward")
def shard_weights_hidden(q, k, v, see, o, lse, do, dlse):
    c = q.shape[-1] ** -0.5
    p = torch.exp(c * q @ k.mT - lse[:, None]).masked_fill(~see, 0)
    ds = c * p * (do @ v.mT + (dlse - (do * o).sum(-1))[:, None])
    return ds @ k, ds.mT @ q, p.mT @ do


@right("shard_backward")
def shard_row_by_row(q, k, v, see, o, lse, do, dlse):
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for i in range(len(q)):
        j = see[i].nonzero().flatten()
        p = torch.softmax(k[j] @ q[i] / q.shape[-1] ** 0.5, 0)
        dp = v[j] @ do[i]
        ds = p * (dp - p @ dp + dlse[i]) / q.shape[-1] ** 0.5
        dq[i], dk[j], dv[j] = (
            ds @ k[j],
            dk[j] + torch.outer(ds, q[i]),
            dv[j] + torch.outer(p, do[i]),
        )
    return dq, dk, dv


# 10 --------------------------------------------------------------------------


@right("step_parts")
def parts_layer_by_layer(vocabulary, width, layers, N):
    shapes = [(vocabulary, width), (width, vocabulary), (2, width)]
    kept = 0
    for _ in range(layers):
        shapes += [(2, width), (width, 3 * width), (width, width), (2, width)]
        shapes += [(width, 4 * width), (4 * width, width)]
        kept += 4 * N * (width + 4 * width + 4 * width)
    size = 4 * sum(math.prod(shape) for shape in shapes)
    return {"mlps": kept, "moments": 2 * size, "gradients": size, "parameters": size}


@right("step_parts")
def parts_in_a_tuple(vocabulary, width, layers, N):
    numbers = np.int64(2 * (vocabulary + 1) * width + layers * width * (12 * width + 4))
    return 4 * numbers, 4 * numbers, 8 * numbers, np.int64(36) * N * width * layers


@right("next_losses")
def losses_place_by_place(model, tokens):
    columns = []
    for n in range(1, tokens.shape[1]):
        logits = model(tokens[:, :n])[:, -1]
        columns.append(torch.logsumexp(logits, -1) - logits[range(len(tokens)), tokens[:, n]])
    return torch.stack(columns, 1)


@right("next_losses")
def losses_by_nll(model, tokens):
    logs = torch.log_softmax(model(tokens[:, :-1]), -1).flatten(0, 1)
    losses = torch.nn.functional.nll_loss(logs, tokens[:, 1:].flatten(), reduction="none")
    return losses.view(len(tokens), -1)


@right("test_causal")
def test_causal_by_assert_close(model):
    tokens = torch.randint(70, (3, 19))
    for n in range(1, 19):
        other = tokens.clone()
        other[:, n] = (other[:, n] + torch.randint(1, 70, (3,))) % 70
        torch.testing.assert_close(model(other)[:, :n], model(tokens)[:, :n])


@right("test_causal")
def test_causal_in_one_batch(model):
    text = gpt.read_book()[0][500:530]
    futures = text.repeat(30, 1)
    for n in range(30):
        futures[n, n:] = 69 - futures[n, n:]
    logits = model(futures)
    change = (logits - model(text[None])).abs().amax(-1)
    assert change.tril(-1).max() < 1e-3


def small_run(core, steps, dtype):
    torch.manual_seed(0)
    model = gpt.TinyGPT(core, 70, width=16, heads=2, layers=1).to(dtype)
    losses = gpt.train(model, gpt.read_book()[0], steps, N=32, batch=2)
    return torch.tensor(list(losses), dtype=torch.float64)


@right("test_core")
def test_core_with_assert_close(core):
    double = torch.float64

    def exact(q, k, v, causal):
        return standard_attention(q, k, v, causal=causal)

    torch.testing.assert_close(
        small_run(core, 6, double), small_run(exact, 6, double), rtol=1e-9, atol=0
    )


@right("test_core")
def test_core_by_gradients(core):
    q, k, v = (torch.randn(2, 2, 30, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    do = torch.randn_like(v)
    o = core(q, k, v, causal=True)
    exact = standard_attention(q, k, v, causal=True)
    assert torch.allclose(o, exact, rtol=1e-8)
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v), do) for x in (o, exact))):
        assert (a - b).norm() < 1e-8 * b.norm()


@right("largest_context")
def context_by_polyfit(room, steps):
    N = np.array(list(steps), dtype=float)
    c, b, a = np.polyfit(N / N[0], list(steps.values()), 2) / N[0] ** np.array([2, 1, 0])
    roots = np.roots([c, b, a - room] if c * N[-1] > 1e-6 * b else [b, a - room])
    return int(roots.max())


@right("largest_context")
def context_in_fractions(room, steps):
    (x, A), (y, B), (z, C) = sorted(steps.items())
    slope = Fraction(B - A, y - x)
    c = (Fraction(C - B, z - y) - slope) / (z - x)

    def size(N):
        return A + slope * (N - x) + c * (N - x) * (N - y)

    N = 1
    while size(2 * N) <= room:
        N *= 2
    step = N
    while step := step // 2:
        N += step if size(N + step) <= room else 0
    return N


@right("shelves_carried")
def shelves_by_a_row_of_tiles(N, d, b, c):
    counts = {"q": 0, "k": 0, "v": 0, "o": 0}
    while counts["q"] < N * d * 4:
        counts["q"] += min(b * d * 4, N * d * 4 - counts["q"])
        counts["k"] += N * d * 4
    return counts | {"v": counts["k"], "o": counts["q"]}


@right("shelves_carried")
def shelves_with_ceil(N, d, b, c):
    passes = math.ceil(N / b)
    return {name: 4 * N * d * (passes if name in "kv" else 1) for name in "qkvo"}


@right("queries_that_fit")
def queries_by_floats(M, d, c):
    return math.floor((M / 4 - c * d) / (2 * d + c + 4))


@right("queries_that_fit")
def queries_downwards(M, d, c):
    return next(b for b in range(M, 0, -1) if 8 * b * d + 4 * b * (c + 4) + 4 * c * d <= M)


@right("flash_traffic")
def traffic_in_rounds(N, d, M):
    return 8 * N * d * (1 + math.ceil(N / (M // (16 * d))))


@right("flash_traffic")
def traffic_of_a_loop(N, d, M):
    moved, b = 0, M // (16 * d)
    for i in range(0, N, b):
        moved += 2 * 4 * d * min(b, N - i) + 2 * 4 * d * N
    return moved


@right("place_kernel")
def place_with_tensors(N, d, b, speed, bandwidth):
    x = torch.tensor(N / (math.ceil(N / b) + 1), dtype=torch.float64)
    return x, torch.minimum(x * bandwidth, torch.tensor(speed, dtype=torch.float64))


@right("place_kernel")
def place_by_the_ridge(N, d, b, speed, bandwidth):
    x = N / (-(-N // b) + 1)
    return x, speed if x > speed / bandwidth else x * bandwidth
