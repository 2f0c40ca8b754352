"""A reader's own kernel, judged against float64: verdicts first.

`judge` runs f(q, k, v, ...) through `cases` in a process of its own, so that a crash,
a hang or an exit is a row like any other; a row that is wrong says what came, what is
right, and which known mistake (`slips`) gives the same.
"""

import importlib
import inspect
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attnlib import StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.course.measure.cases import Answer, Case, answer, call, cases
from attnlib.course.measure.clock import contest, describe, peak_here
from attnlib.course.measure.machine import device_type
from attnlib.course.measure.slips import ROUNDINGS, SLIPS
from attnlib.memory import MIB, forward
from attnlib.softmax import relative_error

DTYPES = ("float32", "bfloat16", "float16")
RIGHT, REFUSED = "right", "not taken"
EXPLAINED = 5  # as many wrong answers are compared with every known mistake


def parse(shapes, dtypes) -> tuple[list[tuple[int, ...]], list[str]]:
    """Shapes such as "2x8x500x64" as numbers, and dtypes; ValueError for others."""
    if unknown := set(dtypes) - set(DTYPES):
        raise ValueError(f"no dtype {', '.join(unknown)}; there are {', '.join(DTYPES)}")
    sizes = [tuple(int(n) for n in shape.split("x") if n.isdigit()) for shape in shapes]
    for shape, size in zip(shapes, sizes):
        if len(size) != 4 or 0 in size:
            raise ValueError(f"shape must be BxHxNxd, such as 2x8x500x64, got {shape!r}")
    return sizes, list(dtypes)


def judge(target: str, seconds: float = 30, **options) -> Iterator[dict]:
    """Rows for "package.module:function", one a case, as they come.

    No case may take longer than `seconds`. After a crash or a hang there is no more.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, target, options))
    child.start()
    there.close()
    case, patience = {"case": "import"}, max(seconds, 60)  # torch is imported, too
    try:
        while message := _receive(here, child, patience):
            if "verdict" in message:
                yield case | message
                if message.get("last"):
                    return
            case, patience = message, seconds
    finally:
        child.kill()
        child.join()


def _receive(pipe, child, seconds) -> dict | None:
    """The next case or row, None at the end, and a last row where no more will come."""
    try:
        if pipe.poll(seconds):
            return pipe.recv()
        return {"verdict": f"no answer in {seconds:g} s", "last": True}
    except EOFError:
        child.join()
        return {"verdict": f"the process died, exit status {child.exitcode}", "last": True}
    except KeyboardInterrupt:
        return {"verdict": "stopped by Ctrl-C", "last": True}


def _serve(pipe, target: str, options: dict) -> None:
    """The child's side: a case is announced, then its row is sent; at the end None."""
    try:
        kernel = load_kernel(target)
    except ValueError as error:
        pipe.send({"verdict": str(error), "last": True, "unusable": True})
        return
    for row in verdicts(kernel, **options):
        pipe.send(row)
    pipe.send(None)


def load_kernel(target: str) -> Callable:
    """The function that "package.module:function" names; ValueError if it names none."""
    module, _, function = target.partition(":")
    if not module or not function:
        raise ValueError(f"{target!r} is not of the form package.module:function")
    sys.path.insert(0, os.getcwd())
    try:
        kernel = getattr(importlib.import_module(module), function)
    except BaseException as error:  # whatever its module does on import
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    if not callable(kernel):
        raise ValueError(f"{target!r} is not a function")
    return kernel


def verdicts(kernel, dtypes=DTYPES, shapes=(), backward=False, time=False) -> Iterator[dict]:
    """What `judge` is told by its child: the case, then its row."""
    takes, kernel = options_of(kernel)
    dtypes, unexplained = [getattr(torch, name) for name in dtypes], EXPLAINED
    for case in cases(dtypes, shapes, takes, device_type()):
        yield {"case": case.name, "input": case.says}
        row = verdict(kernel, case, answer(case, backward), backward)
        if "got" in row and unexplained:
            row["why"], unexplained = why(row["got"], row["error"], case), unexplained - 1
        yield {key: value for key, value in row.items() if key != "got"}
    for causal in (False, True)[: 1 + ("causal" in takes)] if time else ():
        name = "time, causal" if causal else "time"
        yield {"case": name}
        yield _timed(kernel, {"causal": True} if causal else {})


def options_of(kernel) -> tuple[set[str], Callable]:
    """Which of causal, key_mask and window it takes, and itself with these names."""
    try:
        names = inspect.signature(getattr(kernel, "forward", kernel)).parameters
    except (TypeError, ValueError):  # written in C
        names = {}
    if "is_causal" in names:
        return {"causal"}, lambda q, k, v, causal=False: kernel(q, k, v, is_causal=causal)
    anything = any(p.kind is p.VAR_KEYWORD for p in names.values()) if names else False
    takes = {"causal", "key_mask", "window"} & set(names)
    return takes | ({"causal"} if anything else set()), kernel


def verdict(kernel, case: Case, truth: Answer, backward: bool = False) -> dict:
    """A row: "right", "not taken", or what is wrong."""
    before = [x.clone() for x in case[1:4]]
    try:
        got = call(kernel, case, backward)
    except BaseException as error:  # SystemExit and Ctrl-C too
        problem = describe(error)
        return {"verdict": f"{REFUSED}: {problem}" if case.may_refuse else problem}
    if any(not torch.equal(x, y) for x, y in zip(before, case[1:4])):
        return {"verdict": "changes its inputs"}
    for name, right in truth.right.items():
        row = _compare(name, got.get(name), right, truth.allowed[name], case)
        if row["verdict"] != RIGHT:
            return row
    return _compare("o", got["o"], truth.right["o"], truth.allowed["o"], case)


def _compare(name, got, right, allowed, case) -> dict:
    like = case.q if name == "o" else getattr(case, name[1:])
    if got is None and name != "o":
        return {"verdict": f"{name} has no gradient"}
    if not isinstance(got, Tensor):
        return {"verdict": f"{name} is no tensor but {type(got).__name__}"}
    for what in ("shape", "dtype", "device"):
        came, expected = (getattr(x, what) for x in (got, right if what == "shape" else like))
        if came != expected:
            return {"verdict": f"{name} has {what} {came}, expected {expected}"}
    error = relative_error(got, right)
    row = {"error": error, "allowed": allowed}
    if error <= allowed:
        return row | {"verdict": RIGHT}
    finite = math.isfinite(error)
    row |= {"verdict": f"{name} is {'wrong' if finite else 'not finite'}"} | _worst(got, right)
    return row | ({"got": got} if name == "o" else {})


def _worst(got, right) -> dict:
    """Where it is furthest off: what came there and what is right."""
    off = (got.double() - right).abs().nan_to_num(torch.inf, posinf=torch.inf)
    at = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
    return {"at": list(at), "came": got[at].item(), "expected": right[at].item()}


def why(got, error: float, case: Case) -> str | None:
    """The known mistake that gives the same answer on this input, if there is one."""
    for name, slip, dtypes in ROUNDINGS:
        if case.q.dtype in dtypes and math.isfinite(error):
            right = answer(case, False).right["o"]
            theirs = relative_error(slip(case.q, case.k, case.v, **case.options), right)
            if 0.2 < theirs / error < 5:
                return f"as large an error as by {name}"
    wrong = [slip(case.q, case.k, case.v, **case.options) for _, slip in SLIPS]
    apart, i = min((_apart(got.double(), o), i) for i, o in enumerate(wrong))
    if apart <= (min(error / 10, 0.02) if math.isfinite(error) else 0.02):
        return SLIPS[i][0]
    return None


def _apart(got, wrong) -> float:
    """How far from a mistake's answer; inf if other places are not finite."""
    if not torch.equal(got.isfinite(), wrong.isfinite()):
        return math.inf
    return relative_error(*(x.nan_to_num(0, 0, 0) for x in (got, wrong)))


def wrong(row: dict) -> bool:
    return not row["verdict"].startswith((RIGHT, REFUSED))


def status(rows: list[dict]) -> int:
    """0 where all is right, 1 where something is wrong, 2 where it cannot be used."""
    if not rows or any(row.get("unusable") for row in rows):
        return 2
    return int(any(map(wrong, rows)))


def line(row: dict) -> str:
    """A row in words: one line where it is right, else also input, answers and mistake."""
    if row.get("unusable"):
        return row["verdict"]
    if not wrong(row):
        error = f", error {row['error']:.1e} of {row['allowed']:.1e}" if "error" in row else ""
        said = f": {row['says']}" if "says" in row else ""
        return f"{row['verdict']:9} {row['case']}{error}{said}"
    lines = [f"WRONG     {row['case']}: {row['verdict']}"]
    if "input" in row:
        lines.append(f"input {row['input']}")
    if "error" in row:
        at = f"at {row['at']} came {row['came']:.6g}, right is {row['expected']:.6g}"
        lines.append(f"{at}; error {row['error']:.1e}, allowed {row['allowed']:.1e}")
    if row.get("why"):
        lines.append(f"the same comes of a known mistake: {row['why']}")
    return "\n          ".join(lines)


def ruling(rows: list[dict], backward: bool) -> str:
    """The verdict over all rows, and the rule."""
    bad = sum(map(wrong, rows))
    said = f"{len(rows)} cases, all right" if not bad else f"{bad} of {len(rows)} cases wrong"
    asked = "gradients included" if backward else "gradients not asked for (--backward)"
    return (
        f"{said}; {asked}.\nRule: the error against float64 may be twice standard attention's "
        "on the same input,\nand a floor: eps/4 in 16 bits, else 4 eps (1 + max |s|)."
    )


def _timed(kernel, options: dict, N: int = 0) -> dict:
    """Time beside standard attention, and the peak where it can be seen."""
    N = N or (4096 if torch.cuda.is_available() else 1024)
    qkv = make_qkv(1, 8, N, 64, device=device_type())
    run, standard = (forward(f, **options) for f in (kernel, StdAttentionCord(64)))
    times = contest({"kernel": run, "standard": standard}, *qkv)
    if problem := times["kernel"].get("problem"):
        return {"verdict": problem}
    ours, theirs = (times[name]["ms"] for name in ("kernel", "standard"))
    peak = peak_here(run, *qkv)
    # Less than the output: it was made out of sight, in compiled code or another thread.
    seen = f"{peak / MIB:,.1f} MiB" if peak >= qkv[0].nbytes else "not seen"
    at = f"(1, 8, {N}, 64) float32: {ours:.3g} ms, standard attention {theirs:.3g} ms"
    return {"verdict": RIGHT, "says": f"{at}; peak {seen}"}
