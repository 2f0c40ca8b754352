"""What an exercise is: inputs that hurt, their right answers, and known mistakes.

A `Task` is named as the function that the learner writes. `exNN.py` holds
the tasks of lesson NN, each with

- its cases: arguments and the right answer, the one to read by pencil first;
- its mistakes: real code that goes wrong in a known way, and how to say so; a slip
  of one line is a patch of right code, a longer mistake a function;
- its variants: right code that goes another way, and must pass.

`attempt.py` calls the learner's function, `verdict.py` says what came of it.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.course.exercises.answer import wrong_rows
from attnlib.course.exercises.patches import patched, read_slips
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
    see: str  # the section that explains it: a key of pointers.SECTIONS
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

    def slips(self, right: Callable, text: str) -> dict[str, Callable]:
        """Mistakes that are patches of right code, as `patches` writes them, by name."""
        made = {}
        for slip in read_slips(text):
            made[slip.name] = patched(right, slip.changes, slip.name)
            self.mistake(slip.fact, slip.when, slip.see, slip.shown)(made[slip.name])
        return made

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
        def anonymous(*args, **options):  # no test can look up which it is
            return implementation(*args, **options)

        try:
            value = test(anonymous)
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
