"""A reader's own kernel, judged by float64."""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool

import torch

from attnlib import StdAttentionCord, attention_oracle
from attnlib.course.measure.clock import attempt, contest, peak_here, result
from attnlib.course.measure.jobs import setups
from attnlib.course.measure.sections import _case
from attnlib.memory import forward
from attnlib.softmax import relative_error


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
        N = 4096 if torch.cuda.is_available() else 512
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
                row["measured"], _ = attempt(peak_here, run, q, k, v)
            rows.append(row | result(problem))
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
