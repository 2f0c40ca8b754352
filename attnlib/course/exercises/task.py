"""What an exercise is: inputs that hurt, their right answers, and known mistakes.

A `Task` is named as the function that the learner writes. `exNN.py` holds
the tasks of lesson NN, each with

- its cases: arguments and the right answer, the one to read by pencil first;
- its mistakes: real code that goes wrong in a known way, and how to say so;
- its variants: right code that goes another way, and must pass.

`verdict.py` runs them.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.course.inputs import alice_qkv, make_qkv


class Case:
    """Arguments, and the right answer to them: given, or an oracle's when first asked."""

    def __init__(self, args: tuple, expected: Any = None, oracle: Callable | None = None):
        self.args = args
        self._find = (lambda: oracle(*args)) if oracle else (lambda: expected)

    @cached_property
    def expected(self):
        return self._find()


class Mistake(NamedTuple):
    """Code that goes wrong in a known way."""

    fact: str  # its number in the project's list of mistakes, M1 to M18, or ""
    when: str  # completes "This is what comes out when ..."
    see: str  # the section that explains it: a key of SECTIONS
    run: Callable
    shown: bool  # whether its code is what the exercise gives to mend


class BadAnswer(Exception):
    """Raised by a task's `ask`, in a sentence to the learner: what came is no answer."""


class Task:
    """One function to write.

    `parts` names the parts of an answer that is a tuple; `ask(f, *args)` gets the
    answer out of the learner's function, by default f(*args); `tolerance` is a
    relative error, by default one for each dtype; `secret` marks a task whose right
    answer is the solution, so that no verdict may show it; `books` one that counts
    bytes while it asks.
    """

    def __init__(
        self,
        name,
        title,
        see,
        *,
        parts=(),
        ask=None,
        tolerance=None,
        secret=False,
        books=False,
        points=2,
    ):
        self.name, self.title, self.see, self.points = name, title, see, points
        self.parts, self.tolerance, self.secret, self.books = parts, tolerance, secret, books
        self.ask = ask or (lambda f, *args: f(*args))
        self.lesson = ""  # its module's number
        self.is_test = False  # whether the learner's function is itself a test
        self.mistakes: list[Mistake] = []
        self.variants: dict[str, Callable] = {}
        self._make_cases, self._cases = None, None

    def cases(self, make: Callable) -> Callable:
        """Decorates the function that makes the cases, {what hurts: Case}."""
        self._make_cases = make
        return make

    def all_cases(self) -> dict[str, Case]:
        if self._cases is None:
            self._cases = self._make_cases()
        return self._cases

    def mistake(self, fact: str, when: str, see: str | None = None, shown: bool = False):
        """Decorates code that commits a mistake."""

        def add(run):
            self.mistakes.append(Mistake(fact, when, see or self.see, run, shown))
            return run

        return add

    def right(self, name: str):
        """Decorates right code that goes another way."""

        def add(run):
            self.variants[name] = run
            return run

        return add


class Said(str):
    """What a learner's test says of an implementation, and the error by which it says no."""

    def __new__(cls, text, error=None):
        said = super().__new__(cls, text)
        said.error = error
        return said


def test_task(name, title, see, *, right: dict, wrong: dict, points=3) -> Task:
    """A task whose function is a test: handed an implementation, it must pass each
    of `right` and fail each of `wrong`. Both map what is peculiar to the code."""

    def ask(test, implementation):
        try:
            value = test(implementation)
        except NotImplementedError:
            raise
        except Exception as error:
            if implementation in right.values() and not isinstance(error, AssertionError):
                raise  # a mistake in the test itself
            return Said("fails", error)
        return Said("passes" if value is None else f"returns {value!r}")

    task = Task(name, title, see, ask=ask, points=points)
    task.is_test = True
    task.cases(
        lambda: (
            {case: Case((f,), "passes") for case, f in right.items()}
            | {case: Case((f,), "fails") for case, f in wrong.items()}
        )
    )
    return task


def must_be_close(got: Tensor, exact: Tensor, tolerance: float = 1e-4) -> None:
    """What a good test asserts: the shape, and a relative error for every row."""
    assert got.shape == exact.shape and got.dtype == exact.dtype
    assert not wrong_rows(got, exact, tolerance).any()


def cases_of(oracle: Callable, inputs: dict[str, tuple]) -> dict[str, Case]:
    """Cases whose right answers an oracle knows."""
    return {name: Case(args, oracle=oracle) for name, args in inputs.items()}


# Inputs --------------------------------------------------------------------

INF = math.inf


def gaussian(*shape, seed=0, dtype=torch.float32) -> Tensor:
    return make_qkv(*shape, n=1, seed=seed, dtype=dtype)[0]


def pencil(*weights) -> Tensor:
    """Scores (N,) whose exponentials are whole numbers."""
    return torch.tensor(weights, dtype=torch.float32).log()


def alice_scores(head=1) -> Tensor:
    """Scaled scores (471, 471) of one head of the harsh layer."""
    q, k, _ = alice_qkv(0)
    return q[head] @ k[head].mT / 32**0.5


# Answers -------------------------------------------------------------------

# Rounding a score s moves its weight by eps |s|, and scores here stay below 100.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class Problem(NamedTuple):
    """How an answer differs from the right one."""

    says: str
    came: str = ""
    expected: str = ""
    side: str = ""  # of a number: too small, or too large


def difference(got, expected, task: Task, scale: float = 1.0, name: str = "") -> Problem | None:
    """What is wrong with an answer, or with the part of it that has a name, or None.

    `scale` loosens the tolerance.
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


# Where the lessons explain -------------------------------------------------

# key: (lesson, heading); the headings are those of the lessons, and a test says so.
SECTIONS = {
    "overflow": ("01_safe_softmax", "Where does it break?"),
    "maximum": ("01_safe_softmax", "Subtract the maximum"),
    "names": ("01_safe_softmax", "Three names: m, l and fx"),
    "nothing": ("01_safe_softmax", "A row that sees nothing"),
    "pasted": ("02_decomposed_softmax", "Can two softmaxes be pasted together?"),
    "remember": ("02_decomposed_softmax", "What each block remembers"),
    "factor": ("02_decomposed_softmax", "One factor joins them"),
    "true": ("02_decomposed_softmax", "True proves little"),
    "classic": ("02_decomposed_softmax", "The classic mistake"),
    "many": ("02_decomposed_softmax", "Many blocks"),
    "state": ("03_one_fold", "What is a state?"),
    "merge": ("03_one_fold", "Merge two states"),
    "order": ("03_one_fold", "Why the order cannot matter"),
    "tree": ("03_one_fold", "A tree: the parallel fold"),
    "values": ("03_one_fold", "The values join"),
    "rounding": ("03_one_fold", "What rounding does"),
    "lag": ("03_one_fold", "The reference may lag"),
    "row": ("04_rescaling_explorer", "One row, block by block"),
    "growth": ("04_rescaling_explorer", "How often does the maximum grow?"),
    "explorer": ("04_rescaling_explorer", "The rescaling explorer"),
    "sqrt": ("05_standard_attention", "Why divide by √d?"),
    "four": ("05_standard_attention", "Standard attention in four lines"),
    "alive": ("05_standard_attention", "Who is alive, and when?"),
    "training": ("05_standard_attention", "What does training keep?"),
    "law": ("05_standard_attention", "The growth law"),
    "loop": ("06_flash_attention", "From the fold to a loop"),
    "division": ("06_flash_attention", "One division at the end"),
    "order of loops": ("06_flash_attention", "Tiles: which loop is outside?"),
    "core": ("06_flash_attention", "Your own core"),
    "buffer": ("06_flash_attention", "In place: one buffer for every tile"),
    "tiles": ("07_masks_and_shapes", "Tiles: full, partial, skipped"),
    "fewer": ("07_masks_and_shapes", "Fewer queries than keys"),
    "padding": ("07_masks_and_shapes", "Padding hides, and never skips"),
    "blind": ("07_masks_and_shapes", "The row that sees nothing"),
    "scale": ("07_masks_and_shapes", "Where the scale goes"),
    "heads": ("07_masks_and_shapes", "Heads that share keys, blocks that do not fit"),
    "same": ("08_two_cores_on_gpu", "Are the outputs the same?"),
    "memory": ("08_two_cores_on_gpu", "How much memory?"),
    "fits": ("08_two_cores_on_gpu", "Which N fits on your card?"),
    "cost": ("08_two_cores_on_gpu", "What does training cost?"),
}
