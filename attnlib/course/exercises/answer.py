"""How an answer differs from the right one, and how to say so in few digits."""

import math
from typing import NamedTuple

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


def difference(got, expected, task, scale: float = 1.0, name: str = "") -> Problem | None:
    """What is wrong with an answer, or with the part of it that has a name, or None.

    `task` has the tolerance and the parts' names; `scale` loosens the tolerance.
    """
    if got is None and expected is not None:
        return Problem(f"{name} is None." if name else "It returned None: is there a return?")
    if isinstance(expected, dict):
        return _dict_difference(got, expected, task, scale)
    if isinstance(expected, (tuple, list)):
        return _parts_difference(got, expected, task, scale)
    if isinstance(expected, Tensor):
        return _tensor_difference(got, expected, task, scale, name)
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(expected, (bool, str)) or not _is_number(got):
        same = isinstance(got, type(expected)) and got == expected
    else:
        room = 1e-6 if isinstance(expected, float) else 0.0
        same = math.isclose(got, expected, rel_tol=scale * (task.tolerance or room))
    if same:
        return None
    side = ("too small" if got < expected else "too large") if _is_number(got) else ""
    return Problem("", _named(name, got), _named(name, expected), side)


def _dict_difference(got, expected, task, scale):
    if not isinstance(got, dict) or set(got) != set(expected):
        keys = ", ".join(map(repr, expected))
        return Problem(f"The answer must be a dict with the keys {keys}; it is {shown(got)}.")
    problems = (difference(got[key], expected[key], task, scale, key) for key in expected)
    return next((p for p in problems if p), None)


def _parts_difference(got, expected, task, scale):
    names = task.parts or tuple(f"answer[{n}]" for n in range(len(expected)))
    if not isinstance(got, (tuple, list)) or len(got) != len(expected):
        count = f" of {len(got)}" if isinstance(got, (tuple, list)) else ""
        wanted = f"{len(expected)} parts" + (f", {', '.join(task.parts)}" if task.parts else "")
        return Problem(f"It returned a {type(got).__name__}{count}, expected {wanted}.")
    problems = (difference(g, e, task, scale, n) for g, e, n in zip(got, expected, names))
    return next((p for p in problems if p), None)


def _tensor_difference(got, expected, task, scale, name):
    what = name or "The answer"
    if not isinstance(got, Tensor):
        return Problem(f"{what} is of type {type(got).__name__}, expected a tensor.")
    if got.shape != expected.shape:
        shapes = tuple(got.shape), tuple(expected.shape)
        return Problem(f"{what} has shape {shapes[0]}, expected {shapes[1]}.")
    if got.dtype != expected.dtype:
        return Problem(f"{what} is {got.dtype}, expected {expected.dtype}.")
    tolerance = scale * (task.tolerance or TOLERANCE.get(expected.dtype, 0.0))
    bad = wrong_rows(got.detach(), expected, tolerance)
    if not bad.any():
        return None
    if got.dim() > 1 and got.numel() > 8:  # show the first row that is wrong
        row = tuple(bad.nonzero()[0].tolist())
        got, expected = got[row], expected[row]
        name = f"{name or 'answer'}[{', '.join(map(str, row))}]"
    return Problem("", _named(name, got), _named(name, expected))


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
        return f"{x:.4g}"
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


def _is_number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)
