"""Laws of the softmax ladder and of the state's merge."""

import pytest
import torch
from cases import need

from attnlib import (
    SoftmaxState,
    blocked_softmax,
    calculate_local_fx,
    decomposed_softmax,
    naive_softmax,
    online_softmax,
    safe_softmax,
)

hypothesis = need("hypothesis")
st = hypothesis.strategies
INF = torch.inf
LADDER = (naive_softmax, safe_softmax, online_softmax, lambda x: blocked_softmax(x, 3))


def logits(*shape, scale=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return scale * torch.randn(shape, generator=g, dtype=dtype)


@pytest.mark.parametrize("softmax", LADDER)
def test_every_rung_is_torch_softmax(softmax):
    x = logits(5, 11)
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1), rtol=1e-14, atol=0)


def test_naive_overflows_where_safe_does_not():
    x = torch.tensor([0.0, 100.0])  # exp(100) is beyond float32
    assert naive_softmax(x).isnan().any()
    assert torch.equal(safe_softmax(x), torch.softmax(x, -1))


@pytest.mark.parametrize("softmax", LADDER[1:])
def test_a_row_that_sees_nothing_is_zero(softmax):
    x = torch.tensor([[-INF, -INF, -INF, -INF], [0.0, -INF, -INF, -INF]])
    assert softmax(x).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]


def test_local_results_are_what_they_say():
    x = logits(2, 3, 7)
    m, l, fx = calculate_local_fx(x)
    assert m.shape == l.shape == (2, 3, 1) and fx.shape == x.shape
    assert torch.equal(m, x.amax(-1, keepdim=True))
    torch.testing.assert_close(fx, torch.exp(x - m), rtol=0, atol=0)
    torch.testing.assert_close(l, fx.sum(-1, keepdim=True), rtol=0, atol=0)


def test_no_logits_are_the_identity():
    m, l, fx = calculate_local_fx(torch.empty(2, 0))
    assert m.tolist() == [[-INF]] * 2 and l.tolist() == [[0]] * 2 and fx.shape == (2, 0)


@pytest.mark.parametrize("scale1, scale2", [(1, 20), (20, 1)])
def test_decomposed_is_the_concatenation_with_its_exact_shape(scale1, scale2):
    x1, x2 = logits(16, 1024, scale=scale1), logits(16, 1000, scale=scale2)
    m1, l1, fx1 = calculate_local_fx(x1)
    m2, l2, fx2 = calculate_local_fx(x2)
    y = decomposed_softmax(fx1, l1, m1, fx2, l2, m2)
    expected = torch.softmax(torch.cat((x1, x2), -1), -1)
    assert y.shape == expected.shape == (16, 2024)
    # exp(s) moves by |s| eps for an eps in s: 80 units at these logits.
    torch.testing.assert_close(y, expected, rtol=2e-14, atol=0)


@pytest.mark.parametrize("x1, x2", [([-INF, -INF], [1.0, 2.0]), ([-INF], [-INF, -INF])])
def test_decomposed_with_an_empty_block(x1, x2):
    (m1, l1, fx1), (m2, l2, fx2) = (calculate_local_fx(torch.tensor([x])) for x in (x1, x2))
    y = decomposed_softmax(fx1, l1, m1, fx2, l2, m2)
    assert torch.equal(y, safe_softmax(torch.tensor([x1 + x2])))


def test_gradients_pass_through_every_rung():
    x = logits(3, 6).requires_grad_()
    for softmax in LADDER:
        assert torch.autograd.gradcheck(softmax, x)


def test_gradients_of_rows_with_nothing_to_see_are_zero():
    x = torch.full((2, 4), -INF, dtype=torch.float64, requires_grad=True)
    safe_softmax(x).sum().backward()
    assert x.grad.tolist() == [[0] * 4] * 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: calculate_local_fx([1.0]), "x must be a torch.Tensor, got list"),
        (lambda: calculate_local_fx(torch.tensor([1, 2])), "x must be one of"),
        (lambda: calculate_local_fx(torch.tensor(1.0)), "x needs at least one dimension"),
        (lambda: blocked_softmax(torch.ones(3), 0), "block_size must be at least 1, got 0"),
        (lambda: blocked_softmax(torch.ones(3), 1.5), "block_size must be an int"),
        (lambda: blocked_softmax(torch.ones(3), True), "block_size must be an int"),
        (lambda: two_blocks(l1=torch.ones(2)), r"l1 has shape \(2,\), expected \(2, 1\)"),
        (lambda: two_blocks(fx2=torch.ones(3, 4)), "fx2 has shape"),
        (lambda: two_blocks(m2=torch.ones(2, 1).double()), "m2 is torch.float64"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def two_blocks(**changed):
    one = torch.ones(2, 1)
    given = {
        "fx1": torch.ones(2, 4),
        "l1": one,
        "m1": one,
        "fx2": torch.ones(2, 3),
        "l2": one,
        "m2": one,
    }
    return decomposed_softmax(**(given | changed))


# The monoid ----------------------------------------------------------------

ROWS, D = 3, 2
# A few blocks of up to 4 keys: widths, a seed for their numbers, how far the
# scores reach (to where exp underflows) and how many of them are -inf.
blocks = st.tuples(
    st.lists(st.integers(0, 4), min_size=3, max_size=8),
    st.integers(0, 2**32),
    st.sampled_from([1.0, 30.0, 700.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)


def states(blocks):
    """One state a block, and the state of all keys at once."""
    widths, seed, reach, hidden = blocks
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=g, dtype=torch.float64)

    s = [reach * (2 * rand(ROWS, n) - 1) for n in widths]
    s = [x.masked_fill(rand(*x.shape) < hidden, -INF) for x in s]
    v = [2 * rand(n, D) - 1 for n in widths]
    parts = [SoftmaxState.of(x, y) for x, y in zip(s, v)]
    return parts, SoftmaxState.of(torch.cat(s, -1), torch.cat(v, -2))


def assert_same(a: SoftmaxState, b: SoftmaxState):
    """Equal to rounding: m exactly, sums of at most 32 terms to 32 eps of their size."""
    assert torch.equal(a.m, b.m)
    # |o| <= l max|v|, and terms may cancel: compare o on the scale of l.
    torch.testing.assert_close(a.l, b.l, rtol=1e-14, atol=0)
    assert ((a.o - b.o).abs() <= 1e-13 * b.l.clamp(min=1e-300)).all()


@hypothesis.given(blocks, st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None)
def test_any_tree_over_any_order_gives_the_state_of_all_keys(blocks, random):
    parts, whole = states(blocks)
    random.shuffle(parts)
    while len(parts) > 1:
        i = random.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    assert_same(parts[0], whole)


@hypothesis.given(blocks)
@hypothesis.settings(deadline=None)
def test_merge_is_associative_and_commutative(blocks):
    (a, b, c, *_), _ = states(blocks)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))


@hypothesis.given(blocks)
@hypothesis.settings(deadline=None)
def test_identity_changes_nothing(blocks):
    (a, *_), _ = states(blocks)
    e = SoftmaxState.identity(torch.empty(ROWS, 1, dtype=torch.float64), torch.empty(0, D))
    for merged in (a.merge(e), e.merge(a)):
        assert all(torch.equal(x, y) for x, y in zip(merged, a))


def test_finalise_gives_output_and_lse():
    s, v = logits(4, 9, scale=20), logits(9, 3)
    s[1] = -INF
    o, lse = SoftmaxState.of(s, v).finalise()
    torch.testing.assert_close(lse, torch.logsumexp(s, -1), rtol=1e-14, atol=0)
    expected = torch.softmax(s, -1) @ v
    expected[1] = 0
    torch.testing.assert_close(o, expected, rtol=1e-13, atol=1e-14)


def test_gradients_through_finalise_of_an_empty_row_are_zero():
    s = torch.tensor([[-INF, -INF], [1.0, 2.0]], requires_grad=True)
    o, lse = SoftmaxState.of(s, torch.ones(2, 3)).finalise()
    (ds,) = torch.autograd.grad(o.sum() + lse[1], s)
    assert ds[0].tolist() == [0, 0] and ds.isfinite().all()


def test_lazy_merge_is_the_same_state_at_any_threshold():
    s, v = logits(3, 12, scale=3), logits(12, 2)
    expected = SoftmaxState.of(s, v).finalise()
    for threshold in (0.0, 2.0, 8.0, 300.0):
        state = SoftmaxState.identity(s, v)
        for s_j, v_j in zip(s.split(5, -1), v.split(5)):
            state = state.lazy_merge(SoftmaxState.of(s_j, v_j), threshold)
        torch.testing.assert_close(state.finalise(), expected, rtol=1e-13, atol=1e-14)


def test_a_lazy_state_moves_its_m_only_beyond_the_threshold():
    v = torch.ones(1, 1)
    a, near, far = (SoftmaxState.of(torch.tensor([[s]]), v) for s in (1.0, 8.5, 9.5))
    assert a.lazy_merge(near, 8).m == a.m and a.lazy_merge(far, 8).m == far.m


def test_two_identities_finalise_to_zero_and_minus_infinity():
    e = SoftmaxState.identity(torch.empty(2, 1), torch.empty(0, 3))
    o, lse = e.merge(e).finalise()
    assert o.tolist() == [[0] * 3] * 2 and lse.tolist() == [-INF] * 2
