"""Time, peaks and problems of a call on this machine."""

import gc
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from attnlib.memory import live_bytes, measured_peak


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
        name: result(problems[name], ms=None)
        if name in problems
        else {"ms": statistics.median(times[name])}
        for name in fns
    }


def clock(fn: Callable, *args) -> float:
    """Milliseconds of fn(*args), the device's work included."""
    if not torch.cuda.is_available():
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


def peak_here(fn: Callable, *args) -> int:
    """Measured on a GPU; on a CPU counted while it really runs."""
    return measured_peak(fn, *args) if torch.cuda.is_available() else live_bytes(fn, *args).peak


def attempt(fn: Callable, *args):
    """(fn(*args), None), or (None, problem) where it raised, its memory freed."""
    try:
        return fn(*args), None
    except (Exception, SystemExit) as error:
        problem = describe(error)
        del error
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, problem


def describe(error: Exception) -> str:
    memory = (torch.cuda.OutOfMemoryError, MemoryError)
    if isinstance(error, memory) or "can't allocate memory" in str(error):
        return "out of memory"
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def result(problem, **values) -> dict:
    return values if problem is None else values | {"problem": problem}
