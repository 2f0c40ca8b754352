"""A call of a core: its fields, its tensors, its exact peak."""

import pytest
import torch

from attnlib.course.measure import jobs
from attnlib.course.measure.jobs import MODES, Job
from attnlib.memory import bytes_needed, predicted_peak, stretched_peak

JOBS = [
    Job("flash", mode, dtype, heads, d=16, block=64, window=window, kv_heads=kv)
    for mode in MODES
    for dtype, heads, kv in ((torch.float32, 8, None), (torch.bfloat16, 3, None))
    for window in (None, 64)
] + [Job("flash", mode, heads=6, d=16, block=64, kv_heads=2) for mode in MODES]
EVERY = [
    Job("standard", block=None),
    Job("flash", "training", torch.bfloat16, 16, 128, 1024, window=1024),
    Job("flash", "causal", heads=8, kv_heads=2),
    Job("compiled", block=4096),
    Job("SDPA", "causal", torch.float16, 4, batch=2, block=None),
]


@pytest.mark.parametrize("job", EVERY, ids=lambda job: f"{job.core}-{job.mode}")
def test_a_row_says_its_job_and_a_job_its_row(job):
    row = job.row(1024)
    assert Job.of(row) == job and Job.of(row).row(1024) == row
    assert row["shape"] == list(job.tensors(1024, "meta")[0].shape)
    assert ("backend" in row) == (job.core == "SDPA")


@pytest.mark.parametrize("job", JOBS, ids=lambda j: f"{j.mode}-{j.heads}-{j.kv_heads}-{j.window}")
@pytest.mark.parametrize("N", [40, 270])
def test_a_short_walk_has_the_peak_of_the_whole(job, N):
    whole = predicted_peak(job.run, *job.tensors(N, "meta"))
    assert job.peak(N) == whole > 0


def test_a_peak_at_a_prime_tells_that_at_any_n():
    def both(q):
        return q @ q.mT, q.sum(-1), torch.ones(64)

    q, longer = torch.empty(101, 8, device="meta"), torch.empty(1000, 8, device="meta")
    assert stretched_peak(both, q, n=101, N=1000) == predicted_peak(both, longer) > 4_000_000


def test_the_peak_of_a_million_tokens_takes_no_long_walk(monkeypatch):
    walked = []
    monkeypatch.setattr(jobs, "predicted_peak", lambda *_: walked.append("whole"))
    assert Job("flash", "training", block=512).peak(2**20 + 1) > 2**33 and not walked


@pytest.mark.parametrize("core", ["compiled", "SDPA"])
def test_what_allocates_unseen_is_not_predicted(core):
    assert Job(core).peak(4096) is None


@pytest.mark.parametrize("job", [*EVERY[:3], Job("SDPA", heads=4, kv_heads=2, block=None)])
def test_a_job_runs_on_its_tensors(job):
    results = job._replace(dtype=torch.float32).run(*job._replace(dtype=torch.float32).tensors(8))
    o, *grads = results if job.mode == "training" else (results,)
    assert o.shape == (job.batch, job.heads, 8, job.d) and o.isfinite().all()
    assert len(grads) == (3 if job.mode == "training" else 0)


def test_an_unknown_core_is_named():
    with pytest.raises(ValueError, match=r"core must be standard, flash, .* got 'flesh'"):
        Job("flesh").run  # noqa: B018


def test_what_is_needed_counts_inputs_peak_workspace_and_context():
    job = Job("flash", "training", block=64, heads=3)
    for N in (256, 300):
        whole = bytes_needed(job.run, *job.tensors(N, "meta"), context=1000)
        assert job.needed(N, 1000) == whole == job.inputs(N) + job.peak(N) + 2**25 + 1000


def test_largest_finds_the_limit():
    assert jobs.largest(lambda n: n <= 1000, 64) == 960
    assert jobs.largest(lambda n: False, 64) == 0


def test_rivals_are_the_same_call_by_every_core(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = Job("flash", "causal", heads=2, d=8)
    names = [(r.core, r.block) for r in jobs.rivals(job, blocks=(16, 32))]
    assert names == [("standard", None), ("flash", 16), ("flash", 32), ("SDPA", None)]
