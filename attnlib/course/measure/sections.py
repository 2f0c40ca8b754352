"""What `measure` measures, a section each; a row is one call, with its fields."""

import torch

from attnlib import attention_oracle
from attnlib.course.inputs import alice_qkv, make_qkv
from attnlib.course.measure import ceilings, counters, training
from attnlib.course.measure.clock import attempt, contest, peak_here, result
from attnlib.course.measure.frontier import CARDS
from attnlib.course.measure.jobs import MODES, SLACK, Job, course_jobs, rivals, sizes
from attnlib.course.measure.machine import capacity, context_bytes, device_type, imitate_card
from attnlib.memory import GIB, measured_timeline
from attnlib.softmax import relative_error


def measure_errors() -> list[dict]:
    """Relative error of each core against float64 on the same 16 or 32 bits."""
    gaussian = make_qkv(1, 8, 1024, 64)
    inputs = {
        "Gaussian": gaussian,
        "Gaussian, logits x 20": (20 * gaussian[0], *gaussian[1:]),
        "Alice, layer 0": tuple(x[None] for x in alice_qkv(0)),
        "Alice, layer 5": tuple(x[None] for x in alice_qkv(5)),
    }
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, qkv in inputs.items():
            q, k, v = (x.to(device_type(), dtype) for x in qkv)
            o, _ = attention_oracle(q, k, v)
            _, heads, N, d = q.shape
            for job in rivals(Job("flash", dtype=dtype, heads=heads, d=d), blocks=(256,)):
                got, problem = attempt(job.run, q, k, v)
                error = None if problem else relative_error(got, o)
                rows.append(job.row(N) | {"input": name} | result(problem, error=error))
    return rows


def measure_memory() -> list[dict]:
    """Predicted and measured peak of each core, forward and training."""
    return [
        memory_row(rival, N)
        for job in course_jobs()
        for N in sizes(job)
        for mode in ("forward", "training")
        for rival in rivals(job._replace(mode=mode), N)
    ]


def memory_row(job: Job, N: int) -> dict:
    """One peak: predicted for the eager cores, and measured or counted here."""
    predicted = job.peak(N)
    if torch.cuda.is_available() or (predicted and N <= 2048):
        # The inputs are made inside the attempt: they may not fit either.
        measured, problem = attempt(lambda: peak_here(job.run, *job.tensors(N)))
    else:
        measured, problem = None, "counted to N = 2048" if predicted else "unseen"
    return job.row(N) | {"predicted": predicted} | result(problem, measured=measured)


def measure_time() -> list[dict]:
    """Time of each core over N, to 32k: forward, causal and training."""
    on_gpu = torch.cuda.is_available()
    return [
        row
        for job in (course_jobs() if on_gpu else course_jobs()[:1])
        for N in sizes(job)
        for mode in (MODES if on_gpu else ("forward", "causal"))
        for row in (time_rows(rivals(job._replace(mode=mode), N), N) if N <= 32768 else ())
    ]


def time_rows(jobs: list[Job], N: int) -> list[dict]:
    """One contest: the jobs in turns on the first one's tensors, medians of 5."""
    results = contest({job: job.run for job in jobs}, *jobs[0].tensors(N))
    return [job.row(N) | result for job, result in results.items()]


def _with_peaks(rows: list[dict]) -> list[dict]:
    """Rows of time, with predicted and measured peak."""
    peaks = (memory_row(Job.of(row), row["N"]) for row in rows)
    keys = ("predicted", "measured")
    return [row | {key: peak.get(key) for key in keys} for row, peak in zip(rows, peaks)]


def measure_blocks() -> list[dict]:
    """What the block size trades: forward time and peak at one N."""
    rows, N = [], 8192 if torch.cuda.is_available() else 4096
    blocks = tuple(2**i for i in range(7, N.bit_length()))
    for job in course_jobs() if torch.cuda.is_available() else course_jobs()[:1]:
        rows += _with_peaks(time_rows(rivals(job, N, blocks), N))
    return rows


def measure_step() -> list[dict]:
    """Time and peak at 8k and 16k tokens of 16 heads of 128, full and causal. Needs a GPU."""
    rows = []
    for dtype in (course_jobs()[-1].dtype, torch.float32) if torch.cuda.is_available() else ():
        for N in (8192, 16384):
            for mode in ("forward", "causal"):
                job = Job("flash", mode, dtype, heads=16, d=128)
                rows += _with_peaks(time_rows(rivals(job, N), N))
    return rows


def measure_grouped() -> list[dict]:
    """Time and peak of the flash loop where query heads share keys, and where each has
    its own. Needs a GPU."""
    rows = []
    for job in course_jobs() if torch.cuda.is_available() else ():
        for N in (4096, 8192, 16384):
            for heads, kv_heads in ((8, 2), (32, 8)):
                for kv in (kv_heads, None):
                    call = job._replace(heads=heads, d=64, kv_heads=kv)
                    rows += _with_peaks(time_rows([call], N))
    return rows


def measure_exp() -> list[dict]:
    """Time of e^x and 2^x on a million numbers that are ordinary, underflow, or -inf."""
    rows, x = [], make_qkv(2**20, n=1, device=device_type())[0]
    inputs = {"ordinary": x, "-95 and around": x - 95, "-1000": x - 1000, "-inf": x - torch.inf}
    for name, x in inputs.items():
        out = torch.empty_like(x)
        fns = {"exp": lambda x, out: torch.exp(x, out=out)}
        fns["exp2"] = lambda x, out: torch.exp2(x, out=out)
        for fn, timed in contest(fns, x, out, rounds=20).items():
            rows.append({"function": fn, "input": name, "dtype": "float32", "n": x.numel()} | timed)
    return rows


def measure_timelines() -> list[dict]:
    """Sizes of what CUDA's allocator gave (> 0) and took back (< 0), in order."""
    jobs = (Job("standard", block=None), Job("flash", block=1024))
    return [_timeline_row(job, 4096) for job in jobs] if torch.cuda.is_available() else []


def _timeline_row(job: Job, N: int) -> dict:
    row = job.row(N) | {"predicted": job.peak(N)}
    timeline, problem = attempt(measured_timeline, job.run, *job.tensors(N))
    return row | result(problem, sizes=timeline and [event.size for event in timeline.events])


def measure_fits() -> list[dict]:
    """Both sides of the limit on imitated cards: the largest N that should fit, and
    the first that should not. Needs a GPU. Flash runs with a window, which bounds its
    time and not its memory: without, filling a card would take minutes."""
    if not torch.cuda.is_available():
        return []
    own, rows = capacity(), []
    jobs = (Job("standard", block=None), Job("flash", block=1024, window=1024))
    for gib in [gib for gib in CARDS if gib * GIB <= own] or [own // GIB]:
        card, context = imitate_card(gib * GIB), context_bytes()
        for job in jobs:
            for mode in ("forward", "training"):
                rows += _both_sides(job._replace(mode=mode), card, context)
    capacity()  # the card it was before
    return rows


def _both_sides(job: Job, card: int, context: int) -> list[dict]:
    def tries(N):
        job.run(*job.tensors(N))  # its result is let go

    rows, fits = [], job.largest(card, context)
    for N in (fits, job.largest(card + SLACK, context) + job.step):
        _, problem = attempt(tries, N)
        row = job.row(N) | {"card": card, "context": context, "needed": job.needed(N, context)}
        rows.append(row | {"fits": fits == N, "ran": problem is None} | result(problem))
    return rows


SECTIONS = {
    "errors": measure_errors,
    "memory": measure_memory,
    "time": measure_time,
    "blocks": measure_blocks,
    "step": measure_step,
    "grouped": measure_grouped,
    "exp": measure_exp,
    "timelines": measure_timelines,
    "fits": measure_fits,
    "training": training.measure_training,
    "roofline": ceilings.measure_roofline,
    "counters": counters.measure_counters,
}
# What `measure` does unasked: training takes minutes more, counters need ncu, and the
# committed recordings are older than the roofline.
USUAL = tuple(name for name in SECTIONS if name not in ("training", "roofline", "counters"))
