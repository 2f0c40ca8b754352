"""Measure on this machine, or replay a dated recording made on another.

`section(name)` is what lessons call: on a GPU it measures, elsewhere, or with
ATTNLIB_REPLAY=1, it replays `figures/runs/`. `record()` measures every section
into one recording. ATTNLIB_CARD_GIB=8 makes a large card behave as a small one.

A row that could not be measured has a `problem`, and is a row all the same.
Bytes are exact, times are medians in milliseconds, errors are relative, norm
over norm, against float64.
"""

import datetime
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlib import FlashAttentionCore, StdAttentionCord, attention_oracle
from attnlib.course.compiled import compiled_attention
from attnlib.course.frontier import CARDS, GIB, SLACK, Job
from attnlib.course.inputs import alice_qkv, make_qkv
from attnlib.memory import (
    Event,
    Timeline,
    forward,
    forward_backward,
    live_bytes,
    measured_peak,
    measured_timeline,
    predicted_peak,
    predicted_timeline,
)

# Without it, a small tensor may sit down in a large freed block, and what fits in
# bytes does not fit in pieces. Read when the first CUDA tensor is made.
if sys.platform == "linux":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

RUNS = Path(__file__).parents[2] / "figures" / "runs"
COMPILED = 4096  # the compiled step's block
# mode: how a core is called, with how many tensors, and with which options
MODES = {
    "forward": (forward, 3, {}),
    "causal": (forward, 3, {"causal": True}),
    "training": (forward_backward, 4, {}),
}


class Setup(NamedTuple):
    """One shape (batch, heads, N, d) in one dtype, and the block sizes to use."""

    dtype: torch.dtype
    heads: int
    d: int
    blocks: tuple[int, ...]

    def qkv(self, N: int, n: int = 3, device=None):
        device = device or device_type()
        return make_qkv(1, self.heads, N, self.d, n=n, dtype=self.dtype, device=device)

    def cores(self, N: int = COMPILED, mode: str = "forward") -> dict[str, Callable]:
        """By name; the compiled step where it can run and a tile of its is full."""
        cores = {"standard": StdAttentionCord(self.d)}
        for block in self.blocks:
            cores[f"flash {block}"] = FlashAttentionCore(self.d, block)
        if _cuda() and N >= COMPILED and mode != "training":
            cores[f"compiled {COMPILED}"] = compiled_attention
        return cores | {sdpa_name(self.dtype): sdpa}


# The machine ---------------------------------------------------------------


def device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def measuring() -> bool:
    """Whether lessons measure here: there is a GPU and ATTNLIB_REPLAY is not 1."""
    return torch.cuda.is_available() and os.environ.get("ATTNLIB_REPLAY") != "1"


def machine_card() -> str:
    """This machine in a few lines: processor, GPU or none, versions."""
    here = machine()
    lines = [f"processor  {_cpu_name()}, {torch.get_num_threads()} threads used"]
    if torch.cuda.is_available():
        gib = here["memory"] / GIB
        lines.append(f"GPU        {here['device']}, {gib:.0f} GiB: lessons measure on it")
    else:
        lines.append("GPU        none: lessons replay a recording, and say so")
    lines.append(f"versions   Python {here['python']}, torch {here['torch']}")
    return "\n".join(lines)


def machine() -> dict:
    """What a reader needs to know of where a number came from."""
    card = {"device": _cpu_name(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        card = {
            "device": torch.cuda.get_device_name(),
            "memory": torch.cuda.get_device_properties(0).total_memory,
            "context": context_bytes(),
        }
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return card | versions


def context_bytes() -> int:
    """Bytes that CUDA took on this card before the first tensor."""
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def capacity() -> int:
    """Bytes that this machine, or the card it imitates, has for everything."""
    if not torch.cuda.is_available():
        return _available_ram()
    gib = os.environ.get("ATTNLIB_CARD_GIB")
    return imitate_card(int(float(gib) * GIB) if gib else None)


def imitate_card(memory: int | None) -> int:
    """Let PyTorch use no more than a card of this many bytes has; None: all."""
    total = torch.cuda.get_device_properties(0).total_memory
    usable = total if memory is None else memory - context_bytes()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, usable / total))
    return memory or total


def setups() -> list[Setup]:
    """The course's two shapes; 16-bit is float16 where the card has no bfloat16."""
    if not torch.cuda.is_available():
        blocks = (256, 512, 1024)
        return [Setup(torch.float32, 4, 64, blocks), Setup(torch.bfloat16, 4, 64, blocks)]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    half = torch.bfloat16 if has_bf16 else torch.float16
    return [Setup(torch.float32, 8, 64, (2048,)), Setup(half, 16, 128, (2048,))]


def sizes(setup: Setup) -> list[int]:
    """N doubling from 1024 to the first where standard attention does not fit.

    On a CPU to 8192, where it takes seconds.
    """
    Ns, room = [1024], capacity()
    while (_cuda() or Ns[-1] < 8192) and _needs(setup, Ns[-1]) <= room:
        Ns.append(2 * Ns[-1])
    return Ns


def _needs(setup, N) -> int:
    job = Job("standard", dtype=setup.dtype, heads=setup.heads, d=setup.d)
    return job.needed(N, context_bytes() if _cuda() else 0)


# The peer ------------------------------------------------------------------


def sdpa(q, k, v, *, causal=False):
    """torch's scaled_dot_product_attention with its backend named, not chosen."""
    with sdpa_kernel(_backend(q.dtype)):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def sdpa_name(dtype) -> str:
    return f"SDPA {_backend(dtype).name.split('_')[0].lower()}"


def _backend(dtype) -> SDPBackend:
    if _cuda() and dtype == torch.float32:  # the flash kernel is 16-bit only there
        return SDPBackend.EFFICIENT_ATTENTION
    return SDPBackend.FLASH_ATTENTION


# Sections ------------------------------------------------------------------


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
                rows.append(row | _result(problem, error=error))
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
    if _cuda() or (predicted and N <= 2048):
        # The inputs are made inside the attempt: they may not fit either.
        measured, problem = attempt(lambda: _peak(fn, *setup.qkv(N, n)))
    else:
        measured, problem = None, "counted to N = 2048" if predicted else "unseen"
    row = _case(setup, N) | {"core": core, "mode": mode, "predicted": predicted}
    return row | _result(problem, measured=measured)


def measure_time() -> list[dict]:
    """Time of each core over N, to 32k: forward, causal and training."""
    rows = []
    for setup in setups() if _cuda() else setups()[:1]:
        for N in sizes(setup):
            for mode in MODES if _cuda() else ("forward", "causal"):
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
    rows, N = [], 8192 if _cuda() else 4096
    for setup in setups() if _cuda() else setups()[:1]:
        blocks = tuple(2**i for i in range(7, N.bit_length()))
        setup = setup._replace(blocks=blocks)
        for row in time_rows(setup, N, "forward"):
            peak = memory_row(setup, row["core"], "forward", N)
            rows.append(row | {key: peak[key] for key in ("predicted", "measured")})
    return rows


def measure_step() -> list[dict]:
    """Time and peak at 8k and 16k tokens of 16 heads of 128, full and causal. Needs a GPU."""
    rows = []
    for dtype in (setups()[1].dtype, torch.float32) if _cuda() else ():
        setup = Setup(dtype, 16, 128, (2048,))
        for N in (8192, 16384):
            for mode in ("forward", "causal"):
                for row in time_rows(setup, N, mode):
                    peak = memory_row(setup, row["core"], mode, N)
                    rows.append(row | {key: peak.get(key) for key in ("predicted", "measured")})
    return rows


def measure_timelines() -> list[dict]:
    """Sizes of what CUDA's allocator gave (> 0) and took back (< 0), in order."""
    if not _cuda():
        return []
    jobs = {"standard": Job("standard"), "flash 1024": Job("flash", block=1024)}
    return [_timeline_row(name, job, 4096) for name, job in jobs.items()]


def _timeline_row(name: str, job: Job, N: int) -> dict:
    row = {"core": name, "N": N, "predicted": job.peak(N)}
    timeline, problem = attempt(measured_timeline, job.run, *job.tensors(N, "cuda"))
    return row | _result(problem, sizes=timeline and [event.size for event in timeline.events])


def history(row: dict) -> Timeline:
    """The timeline in a row of `measure_timelines`. An allocator knows sizes, not
    tensors: the names are those that the same call is predicted to have."""
    job = Job(row["core"].split()[0], block=1024)
    expected = predicted_timeline(job.run, *job.tensors(row["N"], "meta")).events
    live = itertools.accumulate(row["sizes"])
    return Timeline([Event(n, now, e.name) for n, now, e in zip(row["sizes"], live, expected)])


def measure_fits() -> list[dict]:
    """Both sides of the limit on imitated cards: the largest N that should fit, and
    the first that should not. Needs a GPU. Flash runs with a window, which bounds its
    time and not its memory: without, filling a card would take minutes."""
    if not _cuda():
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
                    rows.append(row | {"ran": problem is None} | _result(problem))
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


# Somebody's own kernel -----------------------------------------------------


def measure_kernel(target: str, timeout: float = 300) -> list[dict]:
    """Rows for "package.module:function", an f(q, k, v, causal=...) of a reader's.

    It runs in a process of its own, so that whatever it does, wrong answers,
    exceptions, a crash, no answer in `timeout` seconds, ends as a row.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context)
    try:
        return pool.submit(_measure_kernel, target).result(timeout)
    except FutureTimeoutError:
        problem = f"no answer in {timeout:g} s"
    except BrokenProcessPool:
        problem = "the process died"
    finally:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
    return [{"core": target, "problem": problem}]


def load_kernel(target: str) -> Callable:
    """The function that "package.module:function" names; ValueError if it names none."""
    module, _, function = target.partition(":")
    if not module or not function:
        raise ValueError(f"{target!r} is not of the form package.module:function")
    sys.path.insert(0, os.getcwd())
    try:
        kernel = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever its module does on import
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    if not callable(kernel):
        raise ValueError(f"{target!r} is not a function")
    return kernel


def _measure_kernel(target: str) -> list[dict]:
    kernel, rows = load_kernel(target), []
    for setup in setups():
        N = 4096 if _cuda() else 512
        for causal in (False, True):
            q, k, v = setup.qkv(N)  # afresh: the kernel may have written into the last
            o, _ = attention_oracle(q, k, v, causal=causal)
            standard = forward(StdAttentionCord(setup.d), causal=causal)
            run = forward(kernel, causal=causal)
            row = _case(setup, N) | {"core": target, "causal": causal}
            given = q.clone(), k.clone(), v.clone()
            judged, problem = attempt(lambda: judge(run(*given), o, standard(q, k, v)))  # noqa: B023
            if problem is None:
                verdict, row["error"] = judged
                if any(not torch.equal(x, y) for x, y in zip(given, (q, k, v))):
                    verdict = "changes its inputs"
                row["verdict"] = verdict
                times = contest({"standard": standard, target: run}, q, k, v)
                row |= times[target] | {"standard_ms": times["standard"]["ms"]}
                row["measured"], _ = attempt(_peak, run, q, k, v)
            rows.append(row | _result(problem))
    return rows


def judge(got, o, standard) -> tuple[str, float | None]:
    """A verdict on an output, and its relative error, against float64's o.

    It agrees if its error is at most twice standard attention's on the same
    input, the rule that FlashAttention's own tests use.
    """
    if not isinstance(got, torch.Tensor):
        return f"not a tensor but {type(got).__name__}", None
    if got.shape != o.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(o.shape)}", None
    if (got.dtype, got.device) != (standard.dtype, standard.device):
        expected = f"{standard.dtype} on {standard.device}"
        return f"{got.dtype} on {got.device}, expected {expected}", None
    if not got.isfinite().all():
        return "not finite", None
    error, allowed = relative_error(got, o), 2 * relative_error(standard, o)
    return ("agrees" if error <= allowed else f"differs: above {allowed:.1e}"), error


# Recordings ----------------------------------------------------------------


def record(with_kernel: str | None = None, sections=()) -> dict:
    """Measure every section here; says on stderr which one is under way.

    Of `sections` only these, into the recording that there is of this machine.
    """
    recording = {"command": "python -m attnlib.course measure"}
    if sections:
        recording = load(_slug(machine()))
        recording["command"] += f", then measure {' '.join(sections)}"
    recording |= {"date": datetime.date.today().isoformat(), "machine": machine()}
    for name in sections or SECTIONS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        recording[name] = SECTIONS[name]()
    if with_kernel:
        recording["command"] += f" --with {with_kernel}"
        recording["kernel"] = measure_kernel(with_kernel)
    return recording


def section(name: str) -> list[dict]:
    """Rows of one section: measured now on a GPU, elsewhere replayed."""
    return SECTIONS[name]() if measuring() else load()[name]


def source() -> str:
    """Where the rows of `section` come from, in a sentence for the reader."""
    if measuring():
        return f"Measured now, on {torch.cuda.get_device_name()}."
    recording = load()
    where = recording["machine"]
    return (
        f"Replayed: {where['device']}, torch {where['torch']}, "
        f"recorded {recording['date']} by `{recording['command']}`"
        f"{'; ' * ('note' in recording)}{recording.get('note', '')}."
    )


def context() -> int:
    """Bytes of a card that CUDA takes for itself: here, or where the recording was made."""
    return context_bytes() if measuring() else load()["machine"]["context"]


def load(device: str = "h100") -> dict:
    """The recording whose file name contains `device`."""
    found = sorted(path for path in RUNS.glob("*.json") if device in path.stem)
    if not found:
        names = sorted(path.stem for path in RUNS.glob("*.json"))
        raise FileNotFoundError(f"no recording of {device!r} in {RUNS}; there are {names}")
    return json.loads(found[0].read_text())


def save(recording: dict, folder: Path = RUNS) -> Path:
    """Write a recording as <device>.json and return its path."""
    path = Path(folder) / f"{_slug(recording['machine'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = (f'"{key}": {_rows(value)}' for key, value in recording.items())
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n")
    return path


def _slug(machine: dict) -> str:
    name = machine["device"].lower()
    return "_".join("".join(c if c.isalnum() else " " for c in name).split())


def _rows(value) -> str:
    # One row a line, so that a diff of two recordings can be read.
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"


# Measuring -----------------------------------------------------------------


def contest(fns: dict[str, Callable], *args, rounds: int = 5) -> dict[str, dict]:
    """Median ms of each fn(*args), run in turns so that all meet the same weather.

    A function that fails once drops out with its problem.
    """
    times = {name: [] for name in fns}
    problems = {}
    for turn in range(rounds + 1):  # the first is the warm-up
        for name, fn in fns.items():
            if name in problems:
                continue
            ms, problem = attempt(clock, fn, *args)
            if problem:
                problems[name] = problem
            elif turn:
                times[name].append(ms)
    return {
        name: _result(problems[name], ms=None)
        if name in problems
        else {"ms": statistics.median(times[name])}
        for name in fns
    }


def clock(fn: Callable, *args) -> float:
    """Milliseconds of fn(*args), the device's work included."""
    if not _cuda():
        start = time.perf_counter()
        fn(*args)
        return 1e3 * (time.perf_counter() - start)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    fn(*args)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def cpu_ms(cores: dict[str, Callable], masks: dict[str, dict], *qkv, rounds: int = 3) -> dict:
    """Least CPU time in ms of each core(*qkv, **mask), by (core, mask).

    On one thread and in turns, so that what else the machine does hardly counts.
    """
    threads, times = torch.get_num_threads(), defaultdict(list)
    torch.set_num_threads(1)
    for _ in range(rounds):
        for core, mask in itertools.product(cores, masks):
            start = time.process_time()
            cores[core](*qkv, **masks[mask])
            times[core, mask].append(1e3 * (time.process_time() - start))
    torch.set_num_threads(threads)
    return {name: min(ms) for name, ms in times.items()}


def _peak(fn: Callable, *args) -> int:
    """Measured on a GPU; on a CPU counted while it really runs."""
    return measured_peak(fn, *args) if _cuda() else live_bytes(fn, *args).peak


def attempt(fn: Callable, *args):
    """(fn(*args), None), or (None, problem) where it raised, its memory freed."""
    try:
        return fn(*args), None
    except (Exception, SystemExit) as error:
        problem = _describe(error)
        del error
    gc.collect()
    if _cuda():
        torch.cuda.empty_cache()
    return None, problem


def _describe(error: Exception) -> str:
    memory = (torch.cuda.OutOfMemoryError, MemoryError)
    if isinstance(error, memory) or "can't allocate memory" in str(error):
        return "out of memory"
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}"


def relative_error(got, o) -> float:
    """Norm of the difference over the norm of o, in float64."""
    return ((got.double() - o).norm() / o.norm()).item()


def _case(setup: Setup, N: int) -> dict:
    shape = [1, setup.heads, N, setup.d]
    return {"dtype": _name(setup.dtype), "shape": shape, "N": N}


def _result(problem, **values) -> dict:
    return values if problem is None else values | {"problem": problem}


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cuda() -> bool:
    return torch.cuda.is_available()


def _cpu_name() -> str:
    model = _proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"CPU {model}"


def _available_ram() -> int:
    available = _proc("meminfo", "MemAvailable")
    # Where there is no such file, take it for a modest laptop.
    return int(available.split()[0]) * 1024 if available else 8 * GIB


def _proc(file: str, field: str) -> str:
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return ""
    found = [line.partition(":")[2] for line in lines if line.startswith(field)]
    return found[0].strip() if found else ""
