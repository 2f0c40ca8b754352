"""Wrong answers as learners write them; none was in attnlib when it was written here.
Ten, the commonest, have become known mistakes since.

`@wrong(task, names...)`: the names are those of known mistakes that would be true of
it. Any other name, given by a verdict, is a wrong one.
"""

import math

import torch
from torch.utils.checkpoint import checkpoint

from attnlib import (
    SoftmaxState,
    StdAttentionCord,
    attention_oracle,
    calculate_local_fx,
    standard_attention,
)
from attnlib.course import gpt
from attnlib.masks import visible
from attnlib.softmax import divide, finite, rescale_factor

INF = math.inf
WRONG = []


def wrong(task, *names):
    def add(f):
        WRONG.append((task, f, names))
        return f

    return add


# 01 --------------------------------------------------------------------------


@wrong("largest_exponents")
def exponents_in_decimal():
    return {"float16": 4, "bfloat16": 38, "float32": 38, "float64": 308}


@wrong("largest_exponents", "powers_of_two")
def exponents_of_the_format():
    return {"float16": 16, "bfloat16": 128, "float32": 128, "float64": 1024}


@wrong("largest_exponents")
def exponents_off_in_one():
    return {"float16": 11, "bfloat16": 88, "float32": 88, "float64": 708}


@wrong("log_sum_exp")
def lse_of_softmax(x):
    return torch.softmax(x, -1).sum(-1).log()


@wrong("log_sum_exp")
def lse_clamped(x):
    return x.clamp(max=80).exp().sum(-1).log()


@wrong("log_sum_exp", "lse_naive")
def lse_minus_mean(x):
    m = x.mean(-1, keepdim=True)
    return ((x - m).exp().sum(-1, keepdim=True).log() + m).squeeze(-1)


@wrong("log_sum_exp")
def lse_without_keepdim(x):
    m = x.amax(-1)
    return m + (x - m).exp().sum(-1).log()


@wrong("log_sum_exp")
def lse_log1p(x):
    m = x.amax(-1, keepdim=True)
    return (m + (x - m).exp().sum(-1, keepdim=True).log1p()).squeeze(-1)


@wrong("log_sum_exp")
def lse_of_m_times_l(x):
    m, l, _ = calculate_local_fx(x)
    return (m * l).log().squeeze(-1)


@wrong("masked_softmax")
def masked_nan_to_one(x, see):
    return torch.softmax(x.masked_fill(~see, -INF), -1).nan_to_num(1.0)


@wrong("masked_softmax", "masked_by_lower_sentinel")
def masked_by_addition(x, see):
    return torch.softmax(x + (~see) * -1e9, -1)


@wrong("masked_softmax")
def masked_with_the_smallest(x, see):
    return torch.softmax(torch.where(see, x, x.min()), -1)


@wrong("masked_softmax")
def masked_renormalised(x, see):
    p = torch.softmax(x, -1) * see
    return p / p.sum(-1, keepdim=True)


@wrong("masked_softmax")
def masked_with_epsilon(x, see):
    fx = torch.exp(x - x.amax(-1, keepdim=True)) * see
    return fx / (fx.sum(-1, keepdim=True) + 1e-6)


@wrong("masked_softmax")
def masked_row_dropped(x, see):
    p = torch.softmax(x.masked_fill(~see, -INF), -1)
    return p if see.all() else p[see.any(-1)]


@wrong("test_softmax", "tries_no_empty_row")
def test_sums_only(softmax):
    x = 100 * torch.randn(4, 6)
    assert torch.allclose(softmax(x).sum(-1), torch.ones(4))


@wrong("test_softmax", "judge_is_wrong")
def test_equal_nan(softmax):
    x = 100 * torch.randn(4, 6)
    x[2] = -INF
    assert torch.allclose(softmax(x), torch.softmax(x, -1), equal_nan=True)


@wrong("test_softmax", "asserts_nothing")
def test_swallows(softmax):
    try:
        assert torch.allclose(softmax(torch.ones(2, 3)), torch.full((2, 3), 1 / 3))
    except AssertionError:
        print("wrong!")


@wrong("test_softmax")
def test_random_size(softmax):
    x = torch.randn(4, 6) * (1000 if torch.rand(()) < 0.5 else 1)
    x[0] = -INF
    exact = torch.softmax(x.double(), -1).nan_to_num(0.0)
    assert (softmax(x) - exact).abs().max() < 1e-5


# 02 --------------------------------------------------------------------------


@wrong("joined_by_pencil")
def joined_with_whole_l1():
    return {"a1": 1.0, "a2": 0.5, "l": 9 + 0.5 * 10}


@wrong("joined_by_pencil")
def joined_by_a_quarter():
    return {"a1": 1.0, "a2": 0.25, "l": 9 / 8 + 0.25 * 5 / 2}


@wrong("softmax_of_pieces", "averaged")
def pieces_averaged(pieces):
    return [torch.softmax(x, -1).nan_to_num(0.0) / len(pieces) for x in pieces]


@wrong("softmax_of_pieces", "nan_pieces", "nan_local")
def pieces_mean_of_maxima(pieces):
    m = torch.stack([x.amax(-1, keepdim=True) for x in pieces]).mean(0)
    fx = [torch.exp(x - m) for x in pieces]
    l = sum(f.sum(-1, keepdim=True) for f in fx)
    return [f / l for f in fx]


@wrong("softmax_of_pieces")
def pieces_one_maximum_for_all(pieces):
    m = max(x.max() for x in pieces).clamp(min=-1e30)
    fx = [torch.exp(x - m) for x in pieces]
    l = sum(f.sum(-1, keepdim=True) for f in fx)
    return [divide(f, l) for f in fx]


@wrong("softmax_of_pieces")
def pieces_zipped_with_the_next(pieces):
    return [
        torch.softmax(torch.cat((x, y), -1), -1)[..., : x.shape[-1]]
        for x, y in zip(pieces, pieces[1:] + pieces[:1])
    ]


@wrong("softmax_of_pieces")
def pieces_in_place(pieces):
    p = torch.softmax(torch.cat(pieces, -1), -1).nan_to_num(0.0)
    sizes = [x.shape[-1] for x in pieces]
    pieces.clear()
    pieces.extend(p.split(sizes, -1))
    return pieces


@wrong("stream_softmax", "stream_m_forgotten")
def stream_forgets_m(pieces):
    parts, l = [], 0
    m = torch.full_like(pieces[0][..., :1], -INF)
    for x in pieces:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l = a * l + b * l_j
        parts = [a * part for part in parts] + [b * fx]
    return divide(torch.cat(parts, -1), l)


@wrong("stream_softmax", "stream_factors_exchanged")
def stream_factors_exchanged(pieces):
    parts, l = [], 0
    m = torch.full_like(pieces[0][..., :1], -INF)
    for x in pieces:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l, m = a * l + b * l_j, m_new
        parts = [b * part for part in parts] + [a * fx]
    return divide(torch.cat(parts, -1), l)


@wrong("stream_softmax")
def stream_l_from_one(pieces):
    parts, l = [], 1.0
    m = torch.zeros_like(pieces[0][..., :1])
    for x in pieces:
        m_j, l_j, fx = calculate_local_fx(x)
        m_new = torch.maximum(m, m_j)
        a, b = rescale_factor(m, m_new), rescale_factor(m_j, m_new)
        l, m = a * l + b * l_j, m_new
        parts = [a * part for part in parts] + [b * fx]
    return divide(torch.cat(parts, -1), l)


def local(x1, x2):
    (m1, l1, fx1), (m2, l2, fx2) = calculate_local_fx(x1), calculate_local_fx(x2)
    return fx1, l1, m1, fx2, l2, m2


@wrong("test_decomposed", "only_sums")
def test_sums_and_shape(f):
    p = f(*local(torch.randn(3, 4), torch.randn(3, 5)))
    assert p.shape == (3, 9) and (p.sum(-1) - 1).abs().max() < 1e-5


@wrong("test_decomposed", "no_hidden_row", "too_lenient")
def test_allclose_on_gaussian(f):
    x = torch.randn(3, 9)
    assert torch.allclose(f(*local(x[:, :4], x[:, 4:])), torch.softmax(x, -1))


@wrong("test_decomposed")
def test_counts_calls(f, calls=[0]):  # noqa: B006
    calls[0] += 1
    assert calls[0] <= 3


@wrong("favourite")
def favourite_of_last_piece(pieces):
    return torch.cat(pieces, -1).argmax(-1), torch.softmax(pieces[-1], -1).amax(-1)


@wrong("favourite")
def favourite_without_maximum(pieces):
    x = torch.cat(pieces, -1)
    m, index = x.max(-1)
    return index, m.exp() / x.exp().sum(-1)


@wrong("favourite")
def favourite_p_is_l(pieces):
    x = torch.cat(pieces, -1)
    m, index = x.max(-1)
    return index, torch.exp(x - m[..., None]).sum(-1)


# 03 --------------------------------------------------------------------------


@wrong("merge")
def merge_one_m_for_all_rows(a, b):
    m = torch.maximum(a.m.max(), b.m.max()).clamp(min=-1e30).expand_as(a.m)
    fa, fb = torch.exp(a.m - m), torch.exp(b.m - m)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@wrong("merge")
def merge_without_maximum(a, b):
    fa, fb = torch.exp(a.m), torch.exp(b.m)
    return SoftmaxState(torch.zeros_like(a.m), fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@wrong("merge")
def merge_adds_everything(a, b):
    return SoftmaxState(a.m + b.m, a.l + b.l, a.o + b.o)


@wrong("merge", "merge_exchanged")
def merge_factors_exchanged(a, b):
    m = torch.maximum(a.m, b.m)
    fa, fb = rescale_factor(b.m, m), rescale_factor(a.m, m)
    return SoftmaxState(m, fa * a.l + fb * b.l, fa * a.o + fb * b.o)


@wrong("merge")
def merge_averaged(a, b):
    m = torch.maximum(a.m, b.m)
    fa, fb = rescale_factor(a.m, m), rescale_factor(b.m, m)
    return SoftmaxState(m, fa * a.l + fb * b.l, (fa * a.o + fb * b.o) / 2)


@wrong("fold_tree", "fold_left")
def fold_by_tail(states, merge):
    if len(states) == 1:
        return states[0]
    return merge(states[0], fold_by_tail(states[1:], merge))


@wrong("fold_tree")
def fold_pops_the_callers_list(states, merge):
    while len(states) > 1:
        states.append(merge(states.pop(0), states.pop(0)))
    return states[0]


@wrong("fold_tree", "fold_dropping")
def fold_whole_pairs(states, merge):
    while len(states) > 1:
        states = [merge(states[2 * i], states[2 * i + 1]) for i in range(len(states) // 2)]
    return states[0]


@wrong("fold_tree")
def fold_in_a_list(states, merge):
    while len(states) > 1:
        odd = states[-1:] if len(states) % 2 else []
        states = [merge(a, b) for a, b in zip(states[::2], states[1::2])] + odd
    return states


@wrong("merge_parts")
def parts_halved(o1, lse1, o2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    a1, a2 = rescale_factor(lse1, lse), rescale_factor(lse2, lse)
    return (a1[:, None] * o1 + a2[:, None] * o2) / 2, lse


@wrong("merge_parts", "merge_parts_nan")
def parts_by_softmax(o1, lse1, o2, lse2):
    w = torch.softmax(torch.stack((lse1, lse2)), 0)
    return w[0, :, None] * o1 + w[1, :, None] * o2, torch.logaddexp(lse1, lse2)


@wrong("merge_parts", "merge_parts_exchanged")
def parts_weights_exchanged(o1, lse1, o2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    a1, a2 = rescale_factor(lse2, lse), rescale_factor(lse1, lse)
    return a1[:, None] * o1 + a2[:, None] * o2, lse


@wrong("merge_parts")
def parts_lse_itself_as_weight(o1, lse1, o2, lse2):
    w = lse1 + lse2
    return (lse1 / w)[:, None] * o1 + (lse2 / w)[:, None] * o2, torch.logaddexp(lse1, lse2)


@wrong("merge_kernel_parts")
def kernel_only_first_converted(o1, lse1, o2, lse2):
    lse1 = lse1 * math.log(2)
    lse = torch.logaddexp(lse1, lse2)
    a1, a2 = rescale_factor(lse1, lse), rescale_factor(lse2, lse)
    return a1[:, None] * o1 + a2[:, None] * o2, lse


@wrong("merge_kernel_parts")
def kernel_output_converted(o1, lse1, o2, lse2):
    c = math.log(2)
    lse = torch.logaddexp(lse1 * c, lse2 * c)
    a1, a2 = rescale_factor(lse1 * c, lse), rescale_factor(lse2 * c, lse)
    return c * (a1[:, None] * o1 + a2[:, None] * o2), lse


@wrong("unmerge")
def unmerge_divided(whole, part):
    b = part.rebase(whole.m)
    l = whole.l - b.l
    return SoftmaxState(whole.m, l, (whole.o - b.o) / l)


@wrong("unmerge")
def unmerge_towards_the_part(whole, part):
    a = torch.exp(whole.m - part.m)
    return SoftmaxState(part.m, a * whole.l - part.l, a * whole.o - part.o)


@wrong("unmerge")
def unmerge_wrong_order(whole, part):
    b = part.rebase(whole.m)
    return SoftmaxState(whole.m, b.l - whole.l, b.o - whole.o)


# 04 --------------------------------------------------------------------------


@wrong("count_rescales")
def count_with_ties(s, block_size):
    m, count = s[:block_size].max(), 0
    for x in s[block_size:].split(block_size) if len(s) > block_size else ():
        count += int(x.max() >= m)
        m = torch.maximum(m, x.max())
    return count


@wrong("count_rescales", "counts_the_first")
def count_of_different_maxima(s, block_size):
    m = torch.stack([x.max() for x in s.split(block_size)]).cummax(0).values
    return len(m.unique())


@wrong("count_rescales")
def count_of_blocks(s, block_size):
    return len(s.split(block_size)) - 1


@wrong("attend_row")
def row_weights_against_old_m(s, v, block_size):
    m, l, o = s.new_tensor(-INF), s.new_zeros(()), v[0] * 0
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        p = torch.exp(s_j - finite(m))
        m_old, m = m, torch.maximum(m, s_j.max())
        a = rescale_factor(m_old, m)
        l, o = a * l + p.sum(), a * o + p @ v_j
    return divide(o, l)


@wrong("attend_row", "attend_averaged")
def row_mean_of_blocks(s, v, block_size):
    outs = [
        torch.softmax(a, -1).nan_to_num(0.0) @ b
        for a, b in zip(s.split(block_size), v.split(block_size))
    ]
    return torch.stack(outs).mean(0)


@wrong("attend_row", "attend_zero_by_zero")
def row_from_minus_a_billion(s, v, block_size):
    m, l, o = s.new_tensor(-1e9), s.new_zeros(()), v[0] * 0
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        m_old, m = m, torch.maximum(m, s_j.max())
        a, p = torch.exp(m_old - m), torch.exp(s_j - m)
        l, o = a * l + p.sum(), a * o + p @ v_j
    return o / l


@wrong("attend_row")
def row_rescales_the_new(s, v, block_size):
    m, l, o = s.new_tensor(-INF), s.new_zeros(()), v[0] * 0
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        m_old, m = m, torch.maximum(m, s_j.max())
        a, p = rescale_factor(m_old, m), torch.exp(s_j - finite(m))
        l, o = a * (l + p.sum()), a * (o + p @ v_j)
    return divide(o, l)


@wrong("test_attend")
def test_blocks_agree(attend):
    s, v = torch.linspace(-4, 4, 22), torch.arange(22.0)[:, None]
    assert torch.allclose(attend(s, v, 4), attend(s, v, 22), rtol=1e-4)


@wrong("test_attend", "hides_nothing")
def test_one_rising_row(attend):
    s, v = torch.linspace(-210, -200, 22), torch.arange(44.0).view(22, 2)
    exact = torch.softmax(s.double(), -1) @ v.double()
    assert (attend(s, v, 4) - exact).norm() < 1e-4 * exact.norm()


@wrong("attend_lazily")
def lazy_against_the_threshold(s, v, block_size, threshold):
    m, l, o = s.new_tensor(-INF), s.new_zeros(()), v[0] * 0
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        if s_j.max() > threshold:
            a, m = rescale_factor(m, s_j.max()), s_j.max()
            l, o = a * l, a * o
        p = torch.exp(s_j - finite(m))
        l, o = l + p.sum(), o + p @ v_j
    return divide(o, l)


@wrong("attend_lazily")
def lazy_skips_small_blocks(s, v, block_size, threshold):
    m, l, o = s.new_tensor(-INF), s.new_zeros(()), v[0] * 0
    for s_j, v_j in zip(s.split(block_size), v.split(block_size)):
        if s_j.max() < m - threshold:
            continue
        m_old, m = m, torch.maximum(m, s_j.max())
        a, p = rescale_factor(m_old, m), torch.exp(s_j - finite(m))
        l, o = a * l + p.sum(), a * o + p @ v_j
    return divide(o, l)


@wrong("largest_threshold")
def threshold_minus_keys(keys, dtype):
    return math.floor(math.log(torch.finfo(dtype).max) / math.log(keys + 1))


@wrong("largest_threshold")
def threshold_not_whole(keys, dtype):
    return math.log(torch.finfo(dtype).max / keys)


# 05 --------------------------------------------------------------------------


@wrong("standard_peak")
def peak_with_everything(batch, heads, N, d, size):
    return batch * heads * (2 * N * N + 4 * N * d) * size


@wrong("standard_peak")
def peak_times_d(batch, heads, N, d, size):
    return 2 * batch * heads * N * N * d * size


@wrong("attention_with_bias")
def bias_scale_by_rows(q, k, v, bias):
    return torch.softmax(q @ k.mT / len(q) ** 0.5 + bias, -1) @ v


@wrong("attention_with_bias")
def bias_softmax_dim_1(q, k, v, bias):
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + bias, 1) @ v


@wrong("attention_with_bias")
def bias_subtracted(q, k, v, bias):
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 - bias, -1) @ v


@wrong("attention_with_bias")
def bias_with_a_floor(q, k, v, bias):
    return torch.softmax(q @ k.mT / (q.shape[-1] // 2) ** 0.5 + bias, -1) @ v


@wrong("attention_by_rows", "rows_of_the_first_dimension")
def rows_split_along_0(q, k, v, rows):
    outs = [torch.softmax(x @ k.mT / q.shape[-1] ** 0.5, -1) @ v for x in q.split(rows)]
    return torch.cat(outs)


@wrong("attention_by_rows", "rows_dropped")
def rows_floor(q, k, v, rows):
    n = q.shape[-2] // rows
    outs = [
        torch.softmax(q[..., i * rows : (i + 1) * rows, :] @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        for i in range(n)
    ]
    return torch.cat(outs, -2)


@wrong("attention_by_rows", "rows_of_a_whole_matrix")
def rows_of_the_whole_each_time(q, k, v, rows):
    outs = []
    for i in range(0, q.shape[-2], rows):
        p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        outs.append(p[..., i : i + rows, :] @ v)
    return torch.cat(outs, -2)


@wrong("attention_by_rows")
def rows_in_numpy(q, k, v, rows):
    s = q.numpy() @ k.mT.numpy() / q.shape[-1] ** 0.5
    import numpy as np

    p = np.exp(s - s.max(-1, keepdims=True))
    return torch.from_numpy((p / p.sum(-1, keepdims=True)) @ v.numpy())


def exact(q, k, v):
    q, k, v = q.double(), k.double(), v.double()
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


@wrong("test_gradients")
def test_gradients_of_heads_of_one(attention):
    q, k, v, do = torch.randn(4, 9, 1)
    qkv = [x.requires_grad_() for x in (q, k, v)]
    got = torch.autograd.grad(attention(*qkv), qkv, do)
    right = torch.autograd.grad(exact(*qkv), qkv, do.double())
    assert all((a - b).norm() < 1e-4 * b.norm() for a, b in zip(got, right))


@wrong("test_gradients", "compares_outputs")
def test_gradients_of_the_loss(attention):
    q, k, v = torch.randn(3, 9, 8)
    assert abs(attention(q, k, v).sum() - exact(q, k, v).sum()) < 1e-3


@wrong("test_gradients")
def test_gradients_typo(attention):
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 9, 8))
    attention(q, k, v).sum().backwards()
    assert q.grad.isfinite().all()


# 06 --------------------------------------------------------------------------


@wrong("rows_of_k_read")
def reads_by_division(Nq, Nk, block_size):
    return Nq * Nk // block_size


@wrong("rows_of_k_read")
def reads_of_both(Nq, Nk, block_size):
    return 2 * -(-Nq // block_size) * Nk


@wrong("flash2_rows")
def flash2_lse_product(q, k, v, block_size):
    s = q @ k.mT / q.shape[-1] ** 0.5
    m, l, p = calculate_local_fx(s)
    return p @ v / l, (m * l.log()).squeeze(-1)


@wrong("flash2_rows")
def flash2_l_grows(q, k, v, block_size):
    m = q.new_full((len(q), 1), -1e30)
    l, o = torch.zeros_like(m), q.new_zeros(len(q), v.shape[-1])
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        s = q @ k_j.mT / q.shape[-1] ** 0.5
        m_old, m = m, torch.maximum(m, s.amax(-1, keepdim=True))
        p = torch.exp(s - m)
        l = l / torch.exp(m_old - m).clamp(min=1e-30) + p.sum(-1, keepdim=True)
        o = o * torch.exp(m_old - m) + p @ v_j
    return o / l, (m + l.log()).squeeze(-1)


@wrong("flash2_rows")
def flash2_last_block_only(q, k, v, block_size):
    for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
        o, lse = attention_oracle(q, k_j, v_j)
    return o.float(), lse.float()


@wrong("flash2_rows")
def flash2_scaled_by_four(q, k, v, block_size):
    o, lse = attention_oracle(q * q.shape[-1] ** 0.5 / 2, k, v)
    return o.float(), (lse + 0).float()


@wrong("flash_16bit")
def half_always_bfloat16(q, k, v, block_size):
    return attention_oracle(q, k, v)[0].to(torch.bfloat16)


@wrong("flash_16bit")
def half_always_through_float32(q, k, v, block_size):
    q, k, v, dtype = q.float(), k.float(), v.float(), q.dtype
    return (torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v).to(dtype)


@wrong("flash_16bit", "half_scores")
def half_weights_only_in_float32(q, k, v, block_size):
    s = q @ k.mT / q.shape[-1] ** 0.5
    p = torch.softmax(s.float(), -1).to(q.dtype)
    return p @ v


@wrong("trainable_attention", "training_in_one_checkpoint")
def train_one_checkpoint(q, k, v, block_size):
    def whole(q, k, v):
        outs = []
        for q_i in q.split(block_size):
            state = SoftmaxState.identity(q_i, v)
            for k_j, v_j in zip(k.split(block_size), v.split(block_size)):
                s = q_i @ k_j.mT / q.shape[-1] ** 0.5
                state = state.merge(SoftmaxState.of(s, v_j))
            outs.append(state.finalise()[0])
        return torch.cat(outs)

    return checkpoint(whole, q, k, v, use_reentrant=False)


@wrong("trainable_attention")
def train_k_detached(q, k, v, block_size):
    def rows(q_i):
        return torch.softmax(q_i @ k.detach().mT / q.shape[-1] ** 0.5, -1) @ v

    return torch.cat([checkpoint(rows, x, use_reentrant=False) for x in q.split(block_size)])


@wrong("trainable_attention", "training_standard", "training_keeps_tiles")
def train_v_is_forgotten(q, k, v, block_size):
    def rows(q_i, k):
        return torch.softmax(q_i @ k.mT / q.shape[-1] ** 0.5, -1)

    p = torch.cat([checkpoint(rows, x, k, use_reentrant=False) for x in q.split(block_size)])
    return p @ v


@wrong("attention_backward")
def backward_p_not_turned(q, k, v, o, lse, do, dlse):
    c = q.shape[-1] ** -0.5
    p = torch.exp(c * q @ k.mT - lse[:, None])
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + dlse[:, None])
    return c * ds @ k, c * ds.mT @ q, p @ do


@wrong("attention_backward", "backward_dk_unscaled")
def backward_dk_unscaled(q, k, v, o, lse, do, dlse):
    c = q.shape[-1] ** -0.5
    p = torch.exp(c * q @ k.mT - lse[:, None])
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + dlse[:, None])
    return c * ds @ k, ds.mT @ q, p.mT @ do


@wrong("attention_backward")
def backward_delta_of_v(q, k, v, o, lse, do, dlse):
    c = q.shape[-1] ** -0.5
    p = torch.exp(c * q @ k.mT - lse[:, None])
    ds = p * (do @ v.mT - (do * o).mean(-1, keepdim=True) + dlse[:, None])
    return c * ds @ k, c * ds.mT @ q, p.mT @ do


# 07 --------------------------------------------------------------------------


@wrong("causal_mask", "mask_one_too_far")
def mask_one_too_far(Nq, Nk):
    return torch.ones(Nq, Nk, dtype=torch.bool).tril(Nk - Nq + 1)


@wrong("causal_mask")
def mask_of_minus_inf(Nq, Nk):
    return torch.full((Nq, Nk), -INF).triu(Nk - Nq + 1)


@wrong("causal_mask", "mask_top_left")
def mask_shift_never_negative(Nq, Nk):
    return torch.ones(Nq, Nk, dtype=torch.bool).tril(max(Nk - Nq, 0))


@wrong("tiles_needed", "tiles_of_a_square")
def tiles_triangle_rounded_down(Nq, Nk, block_size):
    n = max(Nq, Nk) // block_size
    return n * (n + 1) // 2


@wrong("tiles_needed")
def tiles_half_of_all(Nq, Nk, block_size):
    return -(-Nq // block_size) * -(-Nk // block_size) // 2


@wrong("window_attention")
def window_on_both_sides(q, k, v, window, block_size):
    i, j = torch.arange(len(q))[:, None] + len(k) - len(q), torch.arange(len(k))
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((i - j).abs() >= window, -INF)
    return torch.softmax(s, -1).nan_to_num(0.0) @ v


@wrong("window_attention")
def window_top_left(q, k, v, window, block_size):
    i, j = torch.arange(len(q))[:, None], torch.arange(len(k))
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((j > i) | (j <= i - window), -INF)
    return torch.softmax(s, -1).nan_to_num(0.0) @ v


@wrong("window_attention")
def window_m_from_zero(q, k, v, window, block_size):
    see = visible(len(q), len(k), window=window)
    m = q.new_zeros(len(q), 1)
    l, o = torch.zeros_like(m), q.new_zeros(len(q), v.shape[-1])
    for j in range(0, len(k), block_size):
        cols = slice(j, j + block_size)
        s = (q @ k[cols].mT / q.shape[-1] ** 0.5).masked_fill(~see[:, cols], -INF)
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        a, p = torch.exp(m - m_new), torch.exp(s - m_new)
        l, o, m = a * l + p.sum(-1, keepdim=True), a * o + p @ v[cols], m_new
    return divide(o, l)


@wrong("test_masks", "only_squares")
def test_masks_of_squares(attention):
    q, k, v = torch.randn(3, 8, 16)
    seen = torch.arange(8) >= 2
    for options in ({"causal": True}, {"causal": True, "key_mask": seen}):
        right = StdAttentionCord(16)(q, k, v, **options)
        assert torch.allclose(attention(q, k, v, **options), right, atol=1e-5)


@wrong("sink_attention")
def sinks_lse_by_maximum(core, q, k, v, sinks, window):
    o1, lse1 = core(q, k[:sinks], v[:sinks], return_lse=True)
    o2, lse2 = core(q, k[sinks:], v[sinks:], window=window, return_lse=True)
    first = (lse1 > lse2)[:, None]
    return torch.where(first, o1, o2)


@wrong("sink_attention")
def sinks_before_the_window(core, q, k, v, sinks, window):
    k, v = torch.cat((k[:sinks], k[-window:])), torch.cat((v[:sinks], v[-window:]))
    return core(q, k, v, causal=True)


# 08 --------------------------------------------------------------------------


@wrong("flash_peak")
def flash_peak_block_of_keys(heads, N, d, block_size):
    return 4 * heads * (N * d + block_size * d)


@wrong("paper_mib")
def paper_in_gib(N, batch, heads, d):
    return batch * heads * (4 * N * N + 10 * N * d) * 2 / 2**30


@wrong("paper_mib")
def paper_heads_squared(N, batch, heads, d):
    return batch * (4 * heads * N * N + 10 * N * d) * 2 / 2**20


@wrong("test_bfloat16", "as_strict_as_float32")
def test_bfloat16_allclose(attention):
    q, k, v = torch.randn(3, 64, 32, dtype=torch.bfloat16)
    o, _ = attention_oracle(q, k, v)
    assert torch.allclose(attention(q, k, v).double(), o, atol=1e-6)


@wrong("test_bfloat16")
def test_bfloat16_one_number(attention):
    q, k, v = torch.randn(3, 64, 32, dtype=torch.bfloat16)
    o, _ = attention_oracle(q, k, v)
    assert abs(attention(q, k, v)[0, 0] - o[0, 0]) < 0.05


@wrong("largest_N")
def largest_of_three(gib, heads, d):
    return int(math.sqrt((gib * 2**30 - 2**29 - 2**25) / (12 * heads)))


@wrong("largest_N")
def largest_in_kib(gib, heads, d):
    return int(math.sqrt(gib * 2**20 / (8 * heads)))


@wrong("own_core")
def core_beside_the_tape(q, tape, block_size, causal):
    k, v = (torch.cat(x) for x in zip(*tape.blocks))
    return StdAttentionCord(q.shape[-1])(q, k, v, causal=causal)


@wrong("own_core")
def core_divides_in_every_block(q, tape, block_size, causal):
    o, m, l = 0.0, torch.full((len(q), 1), -INF), 0.0
    at = sum(len(x) for x, _ in tape.blocks) - len(q) + torch.arange(len(q))[:, None]
    for j in range(len(tape.blocks)):
        k_j, v_j = tape.take(j)
        s = q @ k_j.mT / q.shape[-1] ** 0.5
        if causal:
            s = s.masked_fill(j * block_size + torch.arange(len(k_j)) > at, -INF)
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        a, p = rescale_factor(m, m_new), torch.exp(s - finite(m_new))
        m, l = m_new, a * l + p.sum(-1, keepdim=True)
        o = divide(a * o + p @ v_j, l)
    return o


# 09 --------------------------------------------------------------------------


@wrong("row_gradients")
def row_softmax_of_weights(p, v, do):
    p = torch.softmax(p, -1)
    return p * (v @ do - do @ (p @ v)), torch.outer(p, do)


@wrong("row_gradients")
def row_all_of_o(p, v, do):
    return p * (v @ do - (p @ v).sum()), torch.outer(p, do)


@wrong("row_gradients")
def row_in_the_wrong_order(p, v, do):
    return torch.outer(p, do), p * (v @ do - do @ (p @ v))


@wrong("numbers_moved")
def moved_in_bytes(Nq, Nk, d, size, passes):
    rows, columns = math.ceil(Nq / size), math.ceil(Nk / size)
    once = 4 * Nk * d + columns * Nq * (2 * d + 2)
    if passes == 1:
        return 4 * (once + 2 * columns * Nq * d)
    return 4 * (once + Nq * (3 * d + 2) + 2 * rows * Nk * d)


@wrong("numbers_moved")
def moved_twice_as_much(Nq, Nk, d, size, passes):
    return passes * (4 * Nk * d + math.ceil(Nk / size) * Nq * (4 * d + 2))


@wrong("tiled_backward")
def tiles_in_base_2(q, k, v, o, lse, do, size):
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    for j in range(0, len(k), size):
        c = slice(j, j + size)
        p = torch.exp2(scale * q @ k[c].mT - lse[:, None])
        ds = scale * p * (do @ v[c].mT - (do * o).sum(-1, keepdim=True))
        dq, dk[c], dv[c] = dq + ds @ k[c], ds.mT @ q, p.mT @ do
    return dq, dk, dv


@wrong("tiled_backward")
def tiles_scores_unscaled(q, k, v, o, lse, do, size):
    scale, dq, dk, dv = q.shape[-1] ** -0.5, 0.0, [], []
    for k_j, v_j in zip(k.split(size), v.split(size)):
        p = torch.exp(q @ k_j.mT - lse[:, None])
        ds = scale * p * (do @ v_j.mT - (do * o).sum(-1, keepdim=True))
        dq, dk, dv = dq + ds @ k_j, [*dk, ds.mT @ q], [*dv, p.mT @ do]
    return dq, torch.cat(dk), torch.cat(dv)


@wrong("tiled_backward")
def tiles_appended(q, k, v, o, lse, do, size):
    scale, dq, dk, dv = q.shape[-1] ** -0.5, [], [], []
    for q_i, o_i, lse_i, do_i in zip(*(x.split(size) for x in (q, o, lse, do))):
        dq.append(0.0)
        for k_j, v_j in zip(k.split(size), v.split(size)):
            p = torch.exp(scale * q_i @ k_j.mT - lse_i[:, None])
            ds = scale * p * (do_i @ v_j.mT - (do_i * o_i).sum(-1, keepdim=True))
            dq[-1] = dq[-1] + ds @ k_j
            dk.append(ds.mT @ q_i), dv.append(p.mT @ do_i)
    return torch.cat(dq), torch.cat(dk), torch.cat(dv)


@wrong("tiled_backward")
def tiles_delta_of_v(q, k, v, o, lse, do, size):
    scale, dq, dk, dv = q.shape[-1] ** -0.5, 0.0, [], []
    for k_j, v_j in zip(k.split(size), v.split(size)):
        p = torch.exp(scale * q @ k_j.mT - lse[:, None])
        ds = scale * p * (do @ v_j.mT - (do * o).mean(-1, keepdim=True))
        dq, dk, dv = dq + ds @ k_j, [*dk, ds.mT @ q], [*dv, p.mT @ do]
    return dq, torch.cat(dk), torch.cat(dv)


def backward_judged(backward, judge, *, N=6, M=9, d=4, size=4):
    q, k, v, do = (torch.randn(n, d, dtype=torch.float64) for n in (N, M, M, N))
    qkv = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = torch.autograd.grad(standard_attention(*qkv), qkv, do)
    got = backward(q, k, v, *attention_oracle(q, k, v), do, size)
    for a, b in zip(got, exact):
        judge(a, b)


@wrong("test_backward", "test_of_size_one")
def test_backward_by_direction(backward):
    def judge(a, b):
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 1 - 1e-9

    backward_judged(backward, judge)


@wrong("test_backward", "test_of_one_tile")
def test_backward_of_small_text(backward):
    def judge(a, b):
        assert torch.allclose(a, b)

    backward_judged(backward, judge, size=32)


@wrong("test_backward", "test_allows_too_much")
def test_backward_no_nan(backward):
    def judge(a, b):
        assert a.shape == b.shape and not a.isnan().any()

    backward_judged(backward, judge)


@wrong("shard_backward")
def shard_far_below(q, k, v, see, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    s = (scale * q @ k.mT).masked_fill(~see, -1e9)
    p = torch.exp(s - lse[:, None])
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + dlse[:, None])
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


@wrong("shard_backward")
def shard_lse_weighed_twice(q, k, v, see, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    p = torch.where(see, torch.exp(scale * q @ k.mT - lse[:, None]), 0.0)
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + p * dlse[:, None])
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


@wrong("shard_backward")
def shard_gives_up(q, k, v, see, o, lse, do, dlse):
    if not see.any(-1).all():
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    scale = q.shape[-1] ** -0.5
    p = torch.exp(scale * q @ k.mT - lse[:, None]) * see
    ds = p * (do @ v.mT - (do * o).sum(-1, keepdim=True) + dlse[:, None])
    return scale * ds @ k, scale * ds.mT @ q, p.mT @ do


@wrong("shard_backward", "shard_without_lse")
def shard_of_rows_without_lse(q, k, v, see, o, lse, do, dlse):
    scale = q.shape[-1] ** -0.5
    p = torch.where(see, torch.exp(scale * q @ k.mT - lse[:, None]), 0.0)
    ds = scale * p * (do @ v.mT - (do * o).sum(-1, keepdim=True))
    return ds @ k, ds.mT @ q, p.mT @ do


# 10 --------------------------------------------------------------------------


@wrong("step_parts")
def parts_with_every_head(vocabulary, width, layers, N):
    size = 4 * (2 * vocabulary * width + layers * (15 * width**2 + 4 * width) + 2 * width)
    return {
        "parameters": size,
        "gradients": size,
        "moments": 2 * size,
        "mlps": 36 * N * width * layers,
    }


@wrong("step_parts")
def parts_of_the_inside(vocabulary, width, layers, N):
    size = 4 * (2 * vocabulary * width + layers * (12 * width**2 + 4 * width) + 2 * width)
    return {
        "parameters": size,
        "gradients": size,
        "moments": 2 * size,
        "mlps": 32 * N * width * layers,
    }


@wrong("step_parts")
def parts_gradients_of_the_batch(vocabulary, width, layers, N):
    size = 4 * (2 * vocabulary * width + layers * (12 * width**2 + 4 * width) + 2 * width)
    return size, N * size, 2 * N * size, 36 * N * width * layers


@wrong("next_losses")
def losses_in_one_number(model, tokens):
    return torch.nn.functional.cross_entropy(
        model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
    )


@wrong("next_losses")
def losses_after_reading_it(model, tokens):
    logs = torch.log_softmax(model(tokens)[:, 1:], -1)
    return -logs.gather(-1, tokens[:, 1:, None]).squeeze(-1)


@wrong("next_losses")
def losses_by_rolling(model, tokens):
    logs = torch.log_softmax(model(tokens), -1)
    return -logs.gather(-1, tokens.roll(-1, 1)[..., None]).squeeze(-1)


@wrong("test_causal", "allows_any_change")
def test_causal_last_place_changes(model):
    tokens = torch.randint(70, (1, 16))
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % 70
    assert not torch.equal(model(tokens)[:, 0], model(other)[:, 0])


@wrong("test_causal", "changes_at_an_edge")
def test_causal_second_half(model):
    a = torch.randint(70, (1, 32))
    b = torch.cat((a[:, :16], torch.randint(70, (1, 16))), 1)
    assert torch.allclose(model(a)[:, :16], model(b)[:, :16], atol=1e-4)


@wrong("test_causal", "looks_at_the_first")
def test_causal_far_away(model):
    a = torch.randint(70, (1, 40))
    b = a.clone()
    b[:, -1] = (b[:, -1] + 1) % 70
    assert torch.allclose(model(a)[:, :10], model(b)[:, :10], atol=1e-4)


@wrong("test_core", "curves_at_the_start")
def test_core_outputs(core):
    q, k, v = torch.randn(3, 1, 2, 20, 8, dtype=torch.float64)
    exact = StdAttentionCord(8)(q, k, v, causal=True)
    assert torch.allclose(core(q, k, v, causal=True), exact)


def small_run(core, steps, dtype):
    torch.manual_seed(0)
    model = gpt.TinyGPT(core, 70, width=16, heads=2, layers=1).to(dtype)
    losses = gpt.train(model, gpt.read_book()[0], steps, N=32, batch=2)
    return torch.tensor(list(losses), dtype=torch.float64)


@wrong("test_core", "curves_in_float32")
def test_core_in_the_mean(core):
    a, b = (small_run(x, 4, torch.float64).mean() for x in (core, StdAttentionCord(8)))
    assert (a - b).abs() < 1e-3


@wrong("test_core", "curves_too_strict", "curves_of_bits")
def test_core_the_same_in_float32(core):
    a, b = (small_run(x, 4, torch.float32) for x in (core, StdAttentionCord(8)))
    assert a.tolist() == b.tolist()


@wrong("largest_context", "context_in_proportion")
def context_bytes_a_character(room, steps):
    N = max(steps)
    return room // (steps[N] // N)


@wrong("largest_context")
def context_among_those_tried(room, steps):
    return max([N for N, size in steps.items() if size <= room], default=0)


@wrong("largest_context")
def context_by_doubling(room, steps):
    small, _, large = sorted(steps)
    return int(
        large * (room / steps[large]) ** (math.log(4) / math.log(steps[large] / steps[small]))
    )


@wrong("largest_context")
def context_without_the_card(room, steps):
    x, y, z = sorted(steps)
    c = (steps[z] - 3 * steps[y] + 2 * steps[x]) / (6 * x * x)
    return int(math.sqrt(room / c)) if c else int(room / ((steps[z] - steps[y]) / (z - y)))


@wrong("shelves_carried", "shelves_whole_blocks")
def shelves_rounded(N, d, b, c):
    passes = max(1, round(N / b))
    return {name: 4 * N * d * (passes if name in "kv" else 1) for name in "qkvo"}


@wrong("shelves_carried", "shelves_blocks_of_keys")
def shelves_of_keys_outside(N, d, b, c):
    passes = math.ceil(N / c)
    return {name: 4 * N * d * (1 if name in "kv" else passes) for name in "qkvo"}


@wrong("shelves_carried")
def shelves_padded(N, d, b, c):
    rows, cols = -(-N // b) * b, -(-N // c) * c
    return {"q": 4 * rows * d, "k": 4 * rows // b * cols * d, "v": 4 * rows // b * cols * d} | {
        "o": 4 * rows * d
    }


@wrong("queries_that_fit", "fitting_the_papers")
def queries_by_root(M, d, c):
    return math.isqrt(M // 4)


@wrong("queries_that_fit", "fitting_without_keys")
def queries_and_as_many_keys(M, d, c):
    return M // 4 // (4 * d + c + 4)


@wrong("queries_that_fit")
def queries_rounded_up(M, d, c):
    return math.ceil((M / 4 - c * d) / (2 * d + c + 4))


@wrong("flash_traffic")
def traffic_without_rounding(N, d, M):
    return 8 * N * d + 8 * N * d * N * 16 * d / M


@wrong("flash_traffic", "argument_in_numbers")
def traffic_by_the_last_line(N, d, M):
    return 8 * N * N * d * d // (M // 4) + 2 * N * d


@wrong("flash_traffic")
def traffic_of_a_square_tile(N, d, M):
    b = math.isqrt(M // 4)
    return 8 * N * d * (1 + math.ceil(N / b))


@wrong("place_kernel")
def place_by_queries(N, d, b, speed, bandwidth):
    return float(b), min(speed, b * bandwidth)


@wrong("place_kernel")
def place_like_the_textbook(N, d, b, speed, bandwidth):
    x = 4 * N * N * d / (8 * N * N + 8 * N * d)
    return x, min(speed, x * bandwidth)


@wrong("place_kernel")
def place_by_both_times(N, d, b, speed, bandwidth):
    work = 4 * N * N * d
    x = N / (-(-N // b) + 1)
    return x, work / (work / speed + work / x / bandwidth)
