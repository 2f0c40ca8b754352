"""Memory contracts, to the byte, on a machine that need not have a GPU."""

import functools
import warnings

import pytest
import torch
from cases import random_qkv

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.memory import (
    CUBLAS_WORKSPACE,
    bytes_needed,
    forward,
    forward_backward,
    live_bytes,
    measured_peak,
    predicted_peak,
    predicted_timeline,
)

N, D, BLOCK, HEADS = 8192, 64, 512, 8
SCORE_BLOCK = HEADS * BLOCK * BLOCK * 4
ROW = HEADS * BLOCK * 4  # one float32 a query of a block


def overhead(core, *qkv, **options) -> int:
    """Bytes at the peak beyond what is returned."""
    timeline = predicted_timeline(forward(core, **options), *qkv)
    return timeline.peak - timeline.kept


def meta(*shape, n=3, dtype=torch.float32):
    return make_qkv(*shape, n=n, dtype=dtype, device="meta")


@pytest.mark.parametrize("heads", [1, 8])
def test_standard_takes_exactly_two_matrices(heads):
    qkv = meta(1, heads, N, D)
    assert predicted_peak(forward(StdAttentionCord(D)), *qkv) == 2 * heads * N * N * 4


def test_standard_with_a_mask_takes_two_matrices_and_at_most_one_boolean_one():
    padding = torch.ones(1, 1, N, dtype=torch.bool, device="meta")
    for options in ({"causal": True}, {"key_mask": padding}):
        peak = predicted_peak(forward(StdAttentionCord(D), **options), *meta(1, 8, N, D))
        assert 2 * 8 * N * N * 4 <= peak <= 2 * 8 * N * N * 4 + N * N


def test_flash_takes_one_score_block_and_a_few_rows():
    assert overhead(FlashAttentionCore(D, BLOCK), *meta(1, HEADS, N, D)) <= 1.015 * SCORE_BLOCK


def test_a_mask_adds_two_boolean_blocks_or_one_block_of_v():
    core, qkv = FlashAttentionCore(D, BLOCK), meta(1, HEADS, N, D)
    padding = torch.ones(1, 1, N, dtype=torch.bool, device="meta")
    booleans, v_block = 2 * BLOCK * BLOCK, HEADS * BLOCK * D * 4
    for options in ({"causal": True}, {"window": 700}, {"causal": True, "key_mask": padding}):
        extra = overhead(core, *qkv, **options) - overhead(core, *qkv)
        # Padding takes a block of v whose padded rows are 0, when the booleans have gone.
        assert extra <= (max(booleans, v_block) if "key_mask" in options else booleans) + ROW


def test_lse_costs_one_float_a_query():
    core, qkv = FlashAttentionCore(D, BLOCK), meta(1, HEADS, N, D)
    plain = predicted_peak(forward(core), *qkv)
    assert predicted_peak(forward(core, return_lse=True), *qkv) == plain + HEADS * N * 4


def test_grouped_heads_take_the_block_of_their_key_heads():
    q, *_ = meta(1, HEADS, N, D)
    k, v = meta(1, 2, N, D, n=2)
    assert overhead(FlashAttentionCore(D, BLOCK), q, k, v) <= 0.4 * SCORE_BLOCK


@pytest.mark.parametrize("block", [128, 512])
def test_sixteen_bits_cost_half_a_block_and_the_accumulator(block):
    qkv = meta(1, HEADS, 1024, D, dtype=torch.bfloat16)
    allowed = (1.55 + D / block) * HEADS * block * block * 4
    assert overhead(FlashAttentionCore(D, block), *qkv) <= allowed


def test_transposed_heads_are_never_copied_whole():
    views = [x.transpose(1, 2) for x in meta(2, N, HEADS, D)]  # (B, N, H, d) memory
    timeline = predicted_timeline(forward(FlashAttentionCore(D, BLOCK)), *views)
    copies = [e for e in timeline.events if e.size > 0 and not e.name.startswith("new_")]
    query_block = 2 * HEADS * BLOCK * D * 4
    assert copies and max(e.size for e in copies) <= query_block
    # At once: the score block, a block of q, one of k or v, and the rows.
    assert timeline.peak - timeline.kept <= 1.015 * 2 * SCORE_BLOCK + 2 * query_block


def test_the_specification_example_takes_four_kib():
    assert overhead(FlashAttentionCore(1024, 8), *meta(16, 1024)) <= 4 * 1024


def test_training_memory_is_linear():
    peaks = [
        predicted_peak(forward_backward(FlashAttentionCore(D, BLOCK)), *meta(1, HEADS, n, D, n=4))
        for n in (N // 2, N)
    ]
    assert peaks[1] < 2.0 * peaks[0]


@pytest.mark.parametrize("core", [StdAttentionCord(16), FlashAttentionCore(16, 32)])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 9, "return_lse": True}])
def test_the_prediction_is_what_a_real_run_on_this_cpu_takes(core, options):
    qkv = make_qkv(2, 3, 100, 16)
    fn = forward(core, **options)
    assert predicted_peak(fn, *qkv) == live_bytes(fn, *qkv).peak > 0


def test_prediction_is_also_exact_in_training_and_differs_only_where_cuda_does():
    inputs = make_qkv(2, 3, 100, 16, n=4)
    flash, std = (forward_backward(c) for c in (FlashAttentionCore(16, 32), StdAttentionCord(16)))
    assert predicted_peak(flash, *inputs) == live_bytes(flash, *inputs).peak
    # CUDA's softmax backward makes grad * output first: one more matrix.
    matrix = 2 * 3 * 100 * 100 * 4
    scratch = -(-matrix // 512) * 512
    assert predicted_peak(std, *inputs) == live_bytes(std, *inputs).peak + scratch


@pytest.mark.parametrize("core", [StdAttentionCord(16), FlashAttentionCore(16, 32)])
def test_a_prediction_follows_autocast(core):
    def run(q, k, v):
        with torch.autocast("cpu", torch.bfloat16):
            return core(q, k, v)

    qkv = make_qkv(2, 3, 128, 16)
    predicted, counted = predicted_timeline(run, *qkv), live_bytes(run, *qkv)
    assert predicted.kept == counted.kept == 2 * 3 * 128 * 16 * 2
    if isinstance(core, StdAttentionCord):  # flash's 16-bit products differ by device
        assert predicted.peak == counted.peak


def test_the_books_balance_and_name_what_was_alive():
    timeline = live_bytes(forward(StdAttentionCord(8)), *make_qkv(1, 2, 64, 8))
    alive = timeline.alive_at_peak()
    assert sum(size for _, size in alive) == timeline.peak
    assert [name.split()[0] for name, _ in alive] == ["bmm", "_softmax"]
    assert timeline.kept == 2 * 64 * 8 * 4 == timeline.events[-1].live


def test_what_the_call_did_not_make_is_free():
    x, closed_over = torch.ones(1024), torch.ones(1024)
    timeline = live_bytes(lambda x: (x.view(32, 32), closed_over[:512], x.add_(1)), x)
    assert timeline.peak == 0 and timeline.events == []


def test_a_result_is_counted_once_however_many_views_it_has():
    assert live_bytes(lambda x: (x + 1).view(2, -1).mT.mT, torch.ones(256)).peak == 1024


def test_small_tensors_take_the_allocators_512_bytes():
    assert live_bytes(lambda: torch.ones(1)).peak == 512


def test_needed_bytes_count_inputs_workspace_and_context():
    q, k, v = meta(1, 1, 64, 8)
    fn = forward(StdAttentionCord(8))
    needed = bytes_needed(fn, q, k, v, context=1000)
    assert needed == 3 * 64 * 8 * 4 + predicted_peak(fn, q, k, v) + 32 * 2**20 + 1000


def test_an_expanded_argument_needs_what_it_stores():
    x = torch.zeros(1, device="meta").expand(10**9)
    assert bytes_needed(lambda x: None, x, context=0) == 512 + 32 * 2**20


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_measuring_without_a_gpu_is_an_error_and_not_zero():
    with pytest.raises(RuntimeError, match="no GPU to measure"):
        measured_peak(forward(StdAttentionCord(4)), *random_qkv(Nk=5))


def test_an_allocator_that_counts_more_than_was_asked_for_is_warned_of(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setattr("attnlib.memory._warm_up", lambda *_: 1 / 0)  # nothing is measured
    with pytest.warns(UserWarning, match="1 MiB a tensor"), pytest.raises(ZeroDivisionError):
        measured_peak(len, ())
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with warnings.catch_warnings(action="error"), pytest.raises(ZeroDivisionError):
        measured_peak(len, ())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("core", [StdAttentionCord(D), FlashAttentionCore(D, BLOCK)])
@pytest.mark.parametrize("n", [1500, 2048])  # 1500 shows blocks that are not split
def test_measured_is_predicted_on_this_gpu(core, n):
    inputs = make_qkv(1, 8, n, D, n=4, device="cuda")
    for fn, args in ((forward(core), inputs[:3]), (forward_backward(core), inputs)):
        assert measured_peak(fn, *args) == predicted_peak(fn, *args)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("core", [StdAttentionCord(D), FlashAttentionCore(D, BLOCK)])
def test_measured_under_autocast_is_predicted_on_this_gpu(core):
    def run(q, k, v):
        with torch.autocast("cuda", torch.bfloat16):
            return forward(core)(q, k, v)

    qkv = make_qkv(1, 8, 2048, D, device="cuda")
    assert measured_peak(run, *qkv) == predicted_peak(run, *qkv)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with torch.autocast("cuda", torch.bfloat16):
        assert core(*qkv).dtype == sdpa(*qkv).dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("core", [StdAttentionCord(D), FlashAttentionCore(D, BLOCK)])
def test_measured_with_padding_is_predicted_on_this_gpu(core):
    inputs = make_qkv(1, 8, 2048, D, n=4, device="cuda")
    key_mask = torch.arange(2048, device="cuda").expand(1, 1, -1) < 1900

    def run(q, k, v, do, key_mask):
        return forward_backward(core, key_mask=key_mask)(q, k, v, do)

    assert measured_peak(run, *inputs, key_mask) == predicted_peak(run, *inputs, key_mask)


def test_a_prediction_counts_what_a_gpu_would_hold():
    def fn(x):
        counter = torch.zeros(1)  # on the CPU, wherever x is
        return x + 1, counter

    x = torch.ones(1024)
    assert predicted_peak(fn, x) == 4096 and live_bytes(fn, x).peak == 4096 + 512


# What else may run under the books ---------------------------------------------


def test_out_into_an_empty_tensor_is_counted():
    def fn(device):
        a, out = torch.ones(1024, device=device), torch.empty(0, device=device)
        return torch.add(a, a, out=out)

    for device in ("cpu", "meta"):
        timeline = live_bytes(fn, device)
        assert timeline.peak == 2 * 4096 and timeline.kept == 4096
    # A larger one is made before the old one goes.
    timeline = live_bytes(lambda: torch.ones(1024).resize_(2048))
    assert timeline.peak == 3 * 4096 and timeline.kept == 2 * 4096


def test_the_books_balance_after_a_resize():
    def fn(x):
        x.resize_(1024)  # what it had was free, what it got is not
        (torch.ones(256).resize_(512) + 1).sum()

    x = torch.empty(0)
    timeline = live_bytes(fn, x)
    assert timeline.kept == 4096 and sum(n for _, n in timeline.alive_at_peak()) == timeline.peak


def test_branches_are_counted_by_their_result():
    x = torch.ones(1024)
    fn = functools.partial(torch.cond, torch.tensor(True), lambda x: x + 1, lambda x: x * 2)
    result = fn((x,))
    timeline = live_bytes(lambda: fn((x,)))
    assert timeline.kept == 4096 and torch.equal(fn((x,)), result)


@pytest.mark.filterwarnings("ignore")  # that it runs uncompiled
def test_flex_attention_runs_under_the_books_and_after():
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = make_qkv(1, 2, 64, 16)
    assert live_bytes(flex_attention, q, k, v).kept == 2 * 64 * 16 * 4
    torch.testing.assert_close(flex_attention(q, k, v), StdAttentionCord(16)(q, k, v))


def test_a_modules_parameters_are_predicted_as_arguments():
    layer, x = torch.nn.Linear(256, 1024), torch.ones(2, 256)
    layer.register_buffer("table", torch.ones(1024))
    fn = torch.nn.Sequential(layer, torch.nn.ReLU())

    def step(module, x):
        return torch.autograd.grad(module(x).sum(), module.parameters())

    for call, args in ((fn, (x,)), (step, (fn, x))):
        assert predicted_peak(call, *args) == live_bytes(call, *args).peak > 2 * 1024 * 4
    assert layer.weight.device.type == "cpu" and layer.weight.grad is None
    held = 256 * 1024 * 4 + 2 * 1024 * 4 + 2 * 256 * 4  # weight, bias, buffer; x
    assert bytes_needed(fn, x, context=0) == held + predicted_peak(fn, x) + CUBLAS_WORKSPACE


def test_a_tensor_that_the_function_holds_is_named():
    layer = torch.nn.Linear(256, 8)
    with pytest.raises(ValueError, match=r"holds a tensor of shape .* on cpu; .* as arguments"):
        predicted_peak(lambda x: layer(x), torch.ones(2, 256))
    assert predicted_peak(lambda x: x * torch.tensor(2.0), torch.ones(128)) == 512
