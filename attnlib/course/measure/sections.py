"""What `measure` measures, a section each."""

import torch

from attnlib import attention_oracle
from attnlib.course.inputs import alice_qkv, make_qkv
from attnlib.course.measure.clock import attempt, contest, peak_here, result
from attnlib.course.measure.frontier import CARDS, SLACK, Job
from attnlib.course.measure.jobs import MODES, Setup, setups, sizes
from attnlib.course.measure.machine import capacity, context_bytes, device_type, imitate_card
from attnlib.memory import GIB, forward, measured_timeline, predicted_peak
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
            for core, fn in Setup(dtype, 8, q.shape[-1], (256,)).cores().items():
                got, problem = attempt(forward(fn), q, k, v)
                error = None if problem else relative_error(got, o)
                row = {"dtype": _name(dtype), "input": name, "core": core}
                rows.append(row | result(problem, error=error))
    return rows


def measure_memory() -> list[dict]:
    """Predicted and measured peak of each core, forward and training."""
    return [
        memory_row(setup, core, mode, N)
        for setup in setups()
        for N in sizes(setup)
        for mode in ("forward", "training")
        for core in setup.cores(N, mode)
    ]


def memory_row(setup: Setup, core: str, mode: str, N: int) -> dict:
    """One peak: predicted for the eager cores, and measured or counted here."""
    wrap, n, options = MODES[mode]
    fn = wrap(setup.cores(N, mode)[core], **options)
    predicted = None
    if core.startswith(("standard", "flash")):
        predicted = predicted_peak(fn, *setup.qkv(N, n, "meta"))
    if torch.cuda.is_available() or (predicted and N <= 2048):
        # The inputs are made inside the attempt: they may not fit either.
        measured, problem = attempt(lambda: peak_here(fn, *setup.qkv(N, n)))
    else:
        measured, problem = None, "counted to N = 2048" if predicted else "unseen"
    row = _case(setup, N) | {"core": core, "mode": mode, "predicted": predicted}
    return row | result(problem, measured=measured)


def measure_time() -> list[dict]:
    """Time of each core over N, to 32k: forward, causal and training."""
    rows = []
    for setup in setups() if torch.cuda.is_available() else setups()[:1]:
        for N in sizes(setup):
            for mode in MODES if torch.cuda.is_available() else ("forward", "causal"):
                rows += time_rows(setup, N, mode) if N <= 32768 else []
    return rows


def time_rows(setup: Setup, N: int, mode: str) -> list[dict]:
    """One contest: all cores in turns on the same inputs, medians of 5."""
    wrap, n, options = MODES[mode]
    fns = {core: wrap(fn, **options) for core, fn in setup.cores(N, mode).items()}
    return [
        _case(setup, N) | {"core": core, "mode": mode} | result
        for core, result in contest(fns, *setup.qkv(N, n)).items()
    ]


def measure_blocks() -> list[dict]:
    """What the block size trades: forward time and peak at one N."""
    rows, N = [], 8192 if torch.cuda.is_available() else 4096
    for setup in setups() if torch.cuda.is_available() else setups()[:1]:
        blocks = tuple(2**i for i in range(7, N.bit_length()))
        setup = setup._replace(blocks=blocks)
        for row in time_rows(setup, N, "forward"):
            peak = memory_row(setup, row["core"], "forward", N)
            rows.append(row | {key: peak[key] for key in ("predicted", "measured")})
    return rows


def measure_step() -> list[dict]:
    """Time and peak at 8k and 16k tokens of 16 heads of 128, full and causal. Needs a GPU."""
    rows = []
    for dtype in (setups()[1].dtype, torch.float32) if torch.cuda.is_available() else ():
        setup = Setup(dtype, 16, 128, (2048,))
        for N in (8192, 16384):
            for mode in ("forward", "causal"):
                for row in time_rows(setup, N, mode):
                    peak = memory_row(setup, row["core"], mode, N)
                    rows.append(row | {key: peak.get(key) for key in ("predicted", "measured")})
    return rows


def measure_timelines() -> list[dict]:
    """Sizes of what CUDA's allocator gave (> 0) and took back (< 0), in order."""
    if not torch.cuda.is_available():
        return []
    jobs = {"standard": Job("standard"), "flash 1024": Job("flash", block=1024)}
    return [_timeline_row(name, job, 4096) for name, job in jobs.items()]


def _timeline_row(name: str, job: Job, N: int) -> dict:
    row = {"core": name, "N": N, "predicted": job.peak(N)}
    timeline, problem = attempt(measured_timeline, job.run, *job.tensors(N, "cuda"))
    return row | result(problem, sizes=timeline and [event.size for event in timeline.events])


def measure_fits() -> list[dict]:
    """Both sides of the limit on imitated cards: the largest N that should fit, and
    the first that should not. Needs a GPU. Flash runs with a window, which bounds its
    time and not its memory: without, filling a card would take minutes."""
    if not torch.cuda.is_available():
        return []
    own, rows = capacity(), []
    for gib in [gib for gib in CARDS if gib * GIB <= own] or [own // GIB]:
        card, context = imitate_card(gib * GIB), context_bytes()
        for core, options in (
            ("standard", {}),
            ("flash 1024, window 1024", {"block": 1024, "window": 1024}),
        ):
            for mode in ("forward", "training"):
                job = Job(core.split()[0], mode, **options)

                def tries(N, job=job):
                    job.run(*job.tensors(N, "cuda"))  # its result is let go

                fits = job.largest(card, context)
                for N in (fits, job.largest(card + SLACK, context) + job.step):
                    _, problem = attempt(tries, N)
                    row = {"core": core, "mode": mode, "card": card, "N": N}
                    row |= {"needed": job.needed(N, context), "fits": fits == N}
                    rows.append(row | {"ran": problem is None} | result(problem))
    capacity()  # the card it was before
    return rows


SECTIONS = {
    "errors": measure_errors,
    "memory": measure_memory,
    "time": measure_time,
    "blocks": measure_blocks,
    "step": measure_step,
    "timelines": measure_timelines,
    "fits": measure_fits,
}


def _case(setup: Setup, N: int) -> dict:
    shape = [1, setup.heads, N, setup.d]
    return {"dtype": _name(setup.dtype), "shape": shape, "N": N}


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")
