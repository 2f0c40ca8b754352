"""How an answer differs from the right one, and how to say so in few digits."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Rounding a score s moves its weight by eps |s|, and scores here stay below 100.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class Problem(NamedTuple):
    """How an answer differs from the right one."""

    says: str
    came: str = ""
    expected: str = ""
    side: str = ""  # of a number: too small, or too large


class AtMost(float):
    """A right answer that is a bound; `classic` is what the well-known way reaches."""

    def __new__(cls, value, classic=None):
        bound = super().__new__(cls, value)
        bound.classic = classic
        return bound


class Measured(float):
    """A number that was counted, with other counts by which two codes tell apart."""

    def __new__(cls, value, *evidence):
        measured = super().__new__(cls, value)
        measured.evidence = (float(value), *evidence)
        return measured


def plain(got, like, parts=()):
    """An answer in the form of the right one, wherever that is not ambiguous.

    NumPy's arrays and numbers, fractions and tensors of one number, a tuple in the
    order of the keys for a dict, a dict with the parts' names for a tuple.
    """
    if isinstance(like, dict):
        got = dict(zip(like, got)) if _is_row(got, len(like)) else got
        same = isinstance(got, dict) and set(got) == set(like)
        return {key: plain(got[key], like[key]) for key in like} if same else got
    if isinstance(like, (tuple, list)):
        if isinstance(got, dict) and set(got) == set(parts):
            got = tuple(got[part] for part in parts)
        return tuple(map(plain, got, like)) if _is_row(got, len(like)) else got
    if isinstance(like, Tensor):
        return torch.tensor(got) if isinstance(got, np.ndarray) and got.dtype.kind in "fib" else got
    if isinstance(got, (Tensor, np.ndarray, np.generic)) and math.prod(got.shape) == 1:
        got = got.item()
    if isinstance(got, Fraction):
        got = int(got) if got.denominator == 1 else float(got)
    return got


def _is_row(x, length):
    return isinstance(x, (tuple, list)) and len(x) == length


def difference(got, expected, task, scale: float = 1.0) -> Problem | None:
    """What is wrong with an answer, or None; with its first wrong part where it has parts.

    `task` has the tolerance and the parts' names; `scale` loosens the tolerance.
    """
    if got is None and expected is not None:
        return Problem("It returned None: is there a return?")
    got = plain(got, expected, task.parts)
    if isinstance(expected, dict) and (not isinstance(got, dict) or set(got) != set(expected)):
        keys = ", ".join(map(repr, expected))
        return Problem(f"The answer must be a dict with the keys {keys}; it is {shown(got)}.")
    if isinstance(expected, (tuple, list)) and not _is_row(got, len(expected)):
        count = f" of {len(got)}" if isinstance(got, (tuple, list)) else ""
        wanted = f"{len(expected)} parts" + (f", {', '.join(task.parts)}" if task.parts else "")
        return Problem(f"It returned a {type(got).__name__}{count}, expected {wanted}.")
    named = part_differences(got, expected, task, scale)
    return next((problem for problem in named.values() if problem), None)


def part_differences(got, expected, task, scale: float = 1.0) -> dict[str, Problem | None]:
    """The same for each part of a `plain` answer of the right form, by its name."""
    if isinstance(expected, dict):
        return {key: _difference(got[key], expected[key], task, scale, key) for key in expected}
    if isinstance(expected, (tuple, list)):
        names = task.parts or tuple(f"answer[{n}]" for n in range(len(expected)))
        trios = zip(names, got, expected)
        return {name: _difference(g, e, task, scale, name) for name, g, e in trios}
    return {"": _difference(got, expected, task, scale, "")}


def _difference(got, expected, task, scale, name):
    if got is None and expected is not None:
        return Problem(f"{name} is None.")
    if isinstance(expected, Tensor):
        return _tensor_difference(got, expected, task, scale, name)
    if _same_number(got, expected, task, scale):
        return None
    number = is_number(got) and is_number(expected)
    side = ("too small" if got < expected else "too large") if number else ""
    return Problem("", _named(name, got), _named(name, expected), side)


def _same_number(got, expected, task, scale):
    if isinstance(expected, (bool, str)) or not is_number(got) or not is_number(expected):
        return isinstance(got, type(expected)) and got == expected
    if isinstance(expected, Measured):
        pairs = zip(getattr(got, "evidence", [got]), expected.evidence)
        return all(math.isclose(a, b, rel_tol=0.03) for a, b in pairs)
    if isinstance(expected, AtMost):
        return got <= expected
    room = 1e-6 if isinstance(expected, float) else 0.0
    tolerance = task.tolerance if isinstance(task.tolerance, float) else room
    return math.isclose(got, expected, rel_tol=scale * tolerance)


def _tensor_difference(got, expected, task, scale, name):
    what = name or "The answer"
    if not isinstance(got, Tensor):
        return Problem(f"{what} is of type {type(got).__name__}, expected a tensor.")
    if got.shape != expected.shape:
        shapes = tuple(got.shape), tuple(expected.shape)
        return Problem(f"{what} has shape {shapes[0]}, expected {shapes[1]}.")
    if got.dtype != expected.dtype:
        return Problem(f"{what} is {got.dtype}, expected {expected.dtype}.")
    tolerance = scale * tolerance_of(task, expected.dtype)
    bad = wrong_rows(got.detach(), expected, tolerance)
    if not bad.any():
        return None
    if got.dim() > 1 and got.numel() > 8:  # show the first row that is wrong
        row = tuple(bad.nonzero()[0].tolist())
        got, expected = got[row], expected[row]
        name = f"{name or 'answer'}[{', '.join(map(str, row))}]"
    return Problem("", _named(name, got), _named(name, expected))


def tolerance_of(task, dtype) -> float:
    """A task's own relative error, for all or for some dtypes, or the dtype's."""
    own = task.tolerance or {}
    return own if isinstance(own, float) else own.get(dtype, TOLERANCE.get(dtype, 0.0))


def wrong_rows(got: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """Which rows (...,) of two tensors (..., n) differ by more than rounding.

    Relative to the norm of the row, plus that of an average row. Infinities must
    be equal; NaN only ever equals NaN.
    """
    if torch.equal(got, expected):
        return torch.zeros(expected.shape[:-1], dtype=torch.bool)
    g, e = (x.double().reshape(-1) if x.dim() == 0 else x.double() for x in (got, expected))
    alike = (g == e) | (g.isnan() & e.isnan())
    finite = g.isfinite() & e.isfinite()
    bad = (~alike & ~finite).any(-1)
    error = (g - e).where(finite, 0).norm(dim=-1)
    norm = e.where(finite, 0).norm(dim=-1)
    room = norm + norm.mean() if norm.numel() else norm
    return bad | (error > tolerance * room)


def shown(x) -> str:
    """A value in few digits and few words."""
    if isinstance(x, Tensor):
        return _shown_tensor(x)
    if isinstance(x, float):
        return f"at most {float(x):g}" if isinstance(x, AtMost) else f"{x:.4g}"
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return "(" + ", ".join(f"{n} = {shown(y)}" for n, y in zip(x._fields, x)) + ")"
    if isinstance(x, (tuple, list)):
        return "(" + ", ".join(map(shown, x)) + ")"
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown_tensor(x) -> str:
    while x.dim() and x.shape[0] == 1:
        x = x[0]
    if x.dim() == 0:
        return shown(x.item())
    if x.dim() > 1 and x.numel() <= 8:
        return "[" + ", ".join(map(shown, x)) + "]"
    numbers = x.detach().flatten().tolist()
    more = [f"... {len(numbers) - 4} more"] if len(numbers) > 8 else []
    return "[" + ", ".join([*map(shown, numbers[: 4 if more else None]), *more]) + "]"


def _named(name, value):
    return f"{name} = {shown(value)}" if name else shown(value)


def is_number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)
