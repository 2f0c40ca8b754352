"""What fits: bytes at any N, the frontier, a paper's table; and the compiled step."""

import pytest
import torch

from attnlib import attention_oracle
from attnlib.course.explore import WillItFit
from attnlib.course.inputs import make_qkv
from attnlib.course.measure import frontier
from attnlib.course.measure.frontier import SLACK, Job
from attnlib.kernels.compiled import compiled_attention
from attnlib.memory import GIB, bytes_needed, predicted_peak
from attnlib.softmax import relative_error

JOBS = [
    Job(core, mode, dtype, heads, d=16, block=64, window=window)
    for core in ("standard", "flash")
    for mode in ("forward", "training")
    for dtype, heads in ((torch.float32, 8), (torch.bfloat16, 3))
    for window in (None, 64)
]


@pytest.mark.parametrize("job", JOBS, ids=lambda j: f"{j.core}-{j.mode}-{j.heads}-{j.window}")
@pytest.mark.parametrize("N", [40, 128, 1000])
def test_a_short_walk_has_the_peak_of_the_whole(job, N):
    whole = predicted_peak(job.run, *job.tensors(N, "meta"))
    assert job.peak(N) == whole > 0


def test_what_is_needed_counts_inputs_peak_workspace_and_context():
    job = Job("flash", "training", block=64)
    whole = bytes_needed(job.run, *job.tensors(256, "meta"), context=1000)
    assert job.needed(256, 1000) == whole == job.inputs(256) + job.peak(256) + 2**25 + 1000


def test_largest_finds_the_limit():
    assert frontier.largest(lambda n: n <= 1000, 64) == 960
    assert frontier.largest(lambda n: False, 64) == 0


def test_the_frontier_is_the_last_that_fits():
    job, context = Job("standard"), GIB // 2
    (row,) = frontier.frontier(job, context, cards=(8,))
    N = row["standard"]
    assert job.needed(N, context) <= 8 * GIB - SLACK < job.needed(N + 1024, context)
    assert row["flash"] > 50 * N


def test_every_printed_cell_is_explained_by_its_closed_form():
    rows = frontier.table_21()
    assert len(rows) == 16
    assert all(r["verdict"].startswith("explained") for r in rows)
    assert [r["ours"] for r in rows if (r["core"], r["N"]) == ("standard", 4096)] == [16832]


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("N", [1024, 65536, 2**22])
def test_the_explorer_says_the_bytes_that_the_frontier_counts(mode, N):
    explorer = WillItFit(context=GIB // 2)
    explorer.mode.value, explorer.N.value, explorer.card.value = mode, N, 80
    for core, need in explorer.needs.items():
        assert need == Job(core, mode).needed(N, GIB // 2)
        assert explorer.fits[core] == (need <= 80 * GIB)
        assert f"{core} needs {need:,} bytes" in explorer.picture.value


def test_at_the_end_of_a_card_the_explorer_does_not_guess():
    explorer = WillItFit(context=0)
    explorer.context = 8 * GIB - explorer.needs["flash"] - SLACK // 2
    explorer.N.value, explorer.N.value = 1024, 16384
    assert explorer.fits == {"standard": False, "flash": None}


@pytest.mark.parametrize("Nq", [1, 50, 70])
@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_loop_is_attention(Nq, causal):
    q, k, v = make_qkv(2, 3, 70, 8, dtype=torch.float64)
    q = q[..., :Nq, :]
    o, _ = attention_oracle(q, k, v, causal=causal)
    for block in (16, 64, 4096):
        assert relative_error(compiled_attention(q, k, v, block, causal=causal), o) < 1e-14


def test_the_compiled_loop_names_heads_it_cannot_share():
    q, k = make_qkv(4, 8, 16, n=1)[0], make_qkv(2, 8, 16, n=1)[0]
    with pytest.raises(ValueError, match="k must have q's leading dimensions"):
        compiled_attention(q, k, k)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiling needs a GPU")
@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_step_is_the_step(causal):
    q, k, v = make_qkv(1, 2, 300, 64, device="cuda")
    o, _ = attention_oracle(q, k, v, causal=causal)
    assert relative_error(compiled_attention(q, k, v, 128, causal=causal), o) < 1e-6
