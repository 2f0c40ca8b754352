"""Checks that name the mistake.

`check(f)` tries the learner's function on inputs that hurt and gives a `Verdict`:
which input, what came, what was expected and, where the answer is the one that a
known mistake gives, which. It never raises, whatever f does. `progress(lesson)`
shows how far the reader of an exercise notebook is.

A mistake is recognised by running it: its code is in `ex01.py` and its like, and the verdict
names it where its answers are the learner's.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from attnlib.course.exercises import books
from attnlib.course.exercises.answer import (
    AtMost,
    Measured,
    Problem,
    difference,
    is_number,
    part_differences,
    plain,
    shown,
)
from attnlib.course.exercises.attempt import Answer, attempt, message, names, tensors
from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.pointers import link, words
from attnlib.course.exercises.state import FirstLines, broken_cell, steady
from attnlib.course.exercises.task import BadAnswer, Case, Mistake, Task

PASSED, WRONG, NOT_YET, MISSING = "passed", "wrong", "not attempted yet", "not run yet"
SIGN = {PASSED: "✓", WRONG: "✗", NOT_YET: "○", MISSING: "○"}
THROUGH = "What it lets through is wrong; a test must fail there."
REJECTED = "What it rejects is right."
FICKLE = (
    "Asked twice about the same code, your test gave two answers: it counts its calls, or hangs "
    "on random numbers."
)
COLOUR = {PASSED: "#009E73", WRONG: "#D55E00", NOT_YET: "#666666", MISSING: "#666666"}


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a check found. `mistakes` has the one whose answers came, where it is known."""

    name: str
    status: str
    headline: str
    facts: tuple[tuple[str, str], ...] = ()  # ("input", ...), ("came", ...), ...
    remarks: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    sections: tuple[str, ...] = ()  # where it is explained, keys of SECTIONS
    share: float = 0.0  # of the points

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    @property
    def points(self) -> float:
        """What it is worth, for a gradebook: parts of an answer count where it has parts."""
        return round(self.share * TASKS[self.name].points, 2) if self.name in TASKS else 0.0

    def __repr__(self) -> str:
        lines = [f"{SIGN[self.status]} {self.name}: {self.headline}"]
        width = max([8, *(len(key) for key, _ in self.facts)])
        lines += [f"  {key:<{width}}  {text}" for key, text in self.facts]
        lines += [f"  {text}" for text in self.remarks]
        lines += [f"  See {words(section)}" for section in self.sections]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        first = f"{SIGN[self.status]} <code>{escape(self.name)}</code>: {escape(self.headline)}"
        words = {"code", "rejects", "lets through"}  # the others are values
        rows = [
            (key, escape(text) if key in words else f"<code>{escape(text)}</code>")
            for key, text in self.facts
        ]
        said = "".join(f"<div>{escape(text)}</div>" for text in self.remarks)
        links = "".join(f"<div>See {link(key)}</div>" for key in self.sections)
        return _box(f"<div><b>{first}</b></div>{_table(rows)}{said}{links}", self.status)


def check(f: Callable, name: str | None = None) -> Verdict:
    """The verdict on a function; `name` is the exercise's, where f is called otherwise."""
    if not callable(f):
        return Verdict(name or "check", WRONG, "hand over the function itself")
    name = name or getattr(f, "__name__", "check")
    if name not in TASKS:
        return Verdict(name, WRONG, "no exercise has this name; keep the one that it gave")
    if error := broken_cell(name):
        return Verdict(name, WRONG, f"its cell did not run: {error.msg}, in line {error.lineno}")
    with steady(), contextlib.redirect_stdout(FirstLines()):
        return _judge(TASKS[name], f)


def _judge(task, f) -> Verdict:
    answers = _answers(task, f)
    if any(answer.is_stub for answer in answers.values()):
        return Verdict(task.name, NOT_YET, NOT_YET)
    cases = task.all_cases()
    problems = {title: _problem(task, cases[title], a) for title, a in answers.items()}
    problems = {title: problem for title, problem in problems.items() if problem}
    if not problems and task.is_test:
        problems = _fickle(task, f, answers)
    if not problems:
        said = f"right on {_count(task, len(answers))}"
        return Verdict(task.name, PASSED, said, remarks=_crashes(answers), share=1.0)
    return _explain(task, f, answers, problems)


def _answers(task, f) -> dict[str, Answer]:
    answers = {}
    for title, case in task.all_cases().items():
        answers[title] = answer = attempt(task, f, case.args)
        if task.books:
            books.wake()
        if answer.is_stub or answer.late:
            break
    return answers


def _fickle(task, f, answers) -> dict[str, Problem]:
    """Where a test changes its mind: asked again, from the last to the first, with other
    random numbers."""
    cases = reversed(task.all_cases().items())
    again = {title: attempt(task, f, case.args, seed=1) for title, case in cases}
    return {t: Problem(FICKLE) for t in answers if again[t].value != answers[t].value}


def _crashes(answers) -> tuple[str, ...]:
    """A remark on a test that says no by an error that is not an AssertionError."""
    for title, answer in answers.items():
        error = getattr(answer.value, "error", None)
        if error is not None and not isinstance(error, AssertionError):
            return (f"Of “{title}” it says no by crashing: {answer.where}. Better assert.",)
    return ()


# What went wrong -----------------------------------------------------------


def _explain(task, f, answers, problems) -> Verdict:
    mistake, where = diagnose(task, answers, problems)
    title = where[0] if where else next(iter(problems))
    problem = problems[title]
    if task.is_test and problem.says in (THROUGH, REJECTED):
        facts, remarks = _test_facts(task, answers, problems)
    else:
        facts, remarks = _facts(task, f, title, problem)
    if mistake:
        verb = "happens" if task.is_test else "is what comes out"
        some = f"In {len(where)} of {len(problems)} wrong inputs this"
        this = "This" if len(where) == len(problems) else some
        remarks.append(f"{this} {verb} when {mistake.when}.")
    section = mistake.see if mistake else task.see if problem.came or task.is_test else None
    total = _count(task, len(task.all_cases()))
    late = any(answer.late for answer in answers.values())
    headline = "it does not come to an end" if late else f"wrong on {len(problems)} of {total}"
    return Verdict(
        task.name,
        WRONG,
        headline,
        tuple(facts),
        tuple(remarks),
        (mistake,) if mistake else (),
        (section,) if section else (),
        _share(task, answers),
    )


def _share(task, answers) -> float:
    """The share of an answer's parts that are right on every input."""
    right, cases = None, task.all_cases()
    for title in cases:
        answer, expected = answers.get(title, Answer(late=True)), cases[title].expected
        form = isinstance(expected, (dict, tuple)) and not task.is_test
        if not form or answer.error or answer.late or answer.changed:
            return 0.0
        value = plain(answer.value, expected, task.parts)
        if type(value) is not type(expected) and not isinstance(value, tuple):
            return 0.0
        if len(value) != len(expected):
            return 0.0
        named = part_differences(value, expected, task)
        good = {name for name, problem in named.items() if not problem}
        right = good if right is None else right & good
    return len(right) / len(named) if right else 0.0


def _facts(task, f, title, problem):
    facts = [("code" if task.is_test else "input", _describe(task, f, title))]
    if problem.came and task.secret:
        facts += [("came", problem.came + (f", which is {problem.side}" if problem.side else ""))]
    elif problem.came:
        facts += [("came", problem.came), ("expected", problem.expected)]
    return facts, [problem.says] if problem.says else []


def _test_facts(task, answers, problems):
    facts = [("rejects", t) for t, problem in problems.items() if problem.says == REJECTED]
    first = [f"For the first, it raised {answers[t].where}." for _, t in facts[:1]]
    through = [("lets through", t) for t, problem in problems.items() if problem.says == THROUGH]
    remarks = [REJECTED, *first] if facts else []
    return facts + through, remarks + ([THROUGH] if through else [])


def diagnose(task: Task, answers: dict, problems: dict) -> tuple[Mistake | None, list[str]]:
    """The known mistake that gives the wrong answers, and the wrong inputs it explains.

    All of them, and then it must be right where the learner is right; or at least half,
    by answers that tell. None, and nothing, where there is no such mistake: a wrong name
    is worse than none.
    """
    best = None, []
    for mistake in task.mistakes:
        theirs, wrong = mistake_answers(task, mistake)
        if not wrong.isdisjoint(answers.keys() - problems.keys()):
            continue  # it would be wrong where the learner is right
        same = [t for t in problems if t in wrong and alike(answers[t], theirs[t], task)]
        telling = [t for t in same if tells(task, t, answers[t])]
        if len(same) == len(problems) and (telling or _suffices(task, answers, same)):
            return mistake, same
        if 2 * len(telling) >= len(problems) and len(telling) > len(best[1]):
            best = mistake, telling
    return best


def _suffices(task, answers, same) -> bool:
    """Whether answers that do not tell, each by itself, are enough together: never a lone
    number, and NaN throughout only from code that is right elsewhere."""
    cases = task.all_cases()
    if any(is_number(cases[title].expected) for title in same):
        return len(same) > 1
    elsewhere = 2 * len(same) <= len(cases)
    values = [answers[title].value for title in same]
    finite = any(isinstance(x, dict) or any(y.isfinite().any() for y in tensors(x)) for x in values)
    told = any(isinstance(answers[title].error, BadAnswer) for title in same)
    return elsewhere or finite or told or task.is_test


@functools.cache
def mistake_answers(task: Task, mistake: Mistake) -> tuple[dict[str, Answer], set[str]]:
    """What a mistake's code answers in every case, and where that is wrong."""
    cases = task.all_cases()
    answers = {title: attempt(task, mistake.run, case.args) for title, case in cases.items()}
    return answers, {t for t, answer in answers.items() if _problem(task, cases[t], answer)}


def alike(a: Answer, b: Answer, task: Task) -> bool:
    """Whether two answers are one, up to rounding."""
    if a.error is not None or b.error is not None:
        return message(a.error) == message(b.error)
    if a.late or b.late or bool(a.changed) != bool(b.changed):
        return False
    loosely = 1 if task.tolerance else 10
    return difference(a.value, b.value, task, scale=loosely) is None


def tells(task: Task, title: str, answer: Answer) -> bool:
    """Whether an answer is hardly equal to another by chance: two wrong numbers that are
    finite and not 0, or one of four digits."""
    expected = task.all_cases()[title].expected
    if task.is_test or answer.error is not None or answer.late or answer.changed:
        return False
    value = plain(answer.value, expected, task.parts)
    pairs = [(value, expected)]
    if isinstance(expected, dict):
        if not isinstance(value, dict) or len(value) != len(expected):
            return False
        pairs = [(value[key], expected[key]) for key in expected]
    elif isinstance(expected, (tuple, list)):
        if not isinstance(value, tuple) or len(value) != len(expected):
            return False
        pairs = list(zip(value, expected))
    return sum(_telling(got, right) for got, right in pairs) >= 2


def _telling(got, right) -> int:
    if isinstance(got, Measured):
        return 0 if isinstance(right, AtMost) and got <= right else len(got.evidence)
    if is_number(got) and is_number(right):
        return 0 if got == right else 2 if abs(got) >= 1000 else 1
    if not isinstance(got, Tensor) or got.shape != right.shape or got.dtype != right.dtype:
        return 2 if isinstance(got, Tensor) else 0
    bad = ~torch.isclose(got.detach(), right, rtol=1e-2, atol=1e-6) & got.isfinite()
    return int((bad & ((got != 0) | (got.dtype == torch.bool))).sum())


def _problem(task: Task, case: Case, answer: Answer) -> Problem | None:
    if answer.late:
        return Problem("It was stopped: is there an endless loop?")
    if isinstance(answer.error, BadAnswer):
        return Problem(str(answer.error))
    if answer.error is not None:
        return Problem(f"It raised {message(answer.error)}{answer.where}.")
    if answer.changed:
        return Problem(
            f"It changed its input {answer.changed} in place; whoever called it "
            "may still need that."
        )
    if not task.is_test:
        return difference(answer.value, case.expected, task)
    if answer.value == case.expected:
        return None
    if answer.value not in ("passes", "fails"):
        return Problem(f"Your test {answer.value}; a test says no by raising, as assert does.")
    return Problem(THROUGH if case.expected == "fails" else REJECTED)


def _describe(task, f, title) -> str:
    args = task.all_cases()[title].args
    sizes = [x.numel() for x in tensors(args)]
    if task.is_test or not sizes or sum(sizes) > 12:
        return title
    return f"{title}: " + ", ".join(f"{n} = {shown(x)}" for n, x in zip(names(f, args), args))


def _count(task, n) -> str:
    thing = "implementation" if task.is_test else "input"
    return f"{n} {thing}" + ("s" if n != 1 else "")


# Progress ------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Progress:
    """Which exercises of a lesson pass: (title, verdict) of each."""

    lesson: str
    rows: tuple[tuple[str, Verdict], ...]

    @property
    def headline(self) -> str:
        passed = sum(verdict.passed for _, verdict in self.rows)
        return f"Lesson {self.lesson}: {passed} of {len(self.rows)} exercises pass"

    def __repr__(self) -> str:
        lines = [f"  {SIGN[v.status]} {title:<44} {v.headline}" for title, v in self.rows]
        return "\n".join([self.headline, *lines])

    def _repr_html_(self) -> str:
        rows = [(SIGN[v.status], escape(title), escape(v.headline)) for title, v in self.rows]
        done = all(verdict.passed for _, verdict in self.rows)
        return _box(f"<b>{self.headline}</b>{_table(rows)}", PASSED if done else NOT_YET)


def progress(lesson: str, namespace: dict | None = None) -> Progress:
    """Check every exercise of a lesson as its function is now, whatever ran before.

    The functions are looked up by name in the notebook, or in `namespace`.
    """
    if namespace is None:
        namespace = vars(sys.modules["__main__"])
    rows = []
    for task in (t for t in TASKS.values() if t.lesson == lesson):
        f = namespace.get(task.name)
        verdict = check(f, task.name) if callable(f) else Verdict(task.name, MISSING, MISSING)
        rows.append((task.title, verdict))
    return Progress(lesson, tuple(rows))


def _table(rows: list[tuple[str, ...]]) -> str:
    cell = '<td style="text-align: left; vertical-align: top; padding: 0 1em 0 0">'
    lines = ("".join(f"{cell}{text}</td>" for text in row) for row in rows)
    body = "".join(f'<tr style="background: none">{line}</tr>' for line in lines)
    return f'<table style="font-size: inherit; margin: 0">{body}</table>' if rows else ""


def _box(html: str, status: str) -> str:
    style = f"border-left: 5px solid {COLOUR[status]}; padding: 4px 12px; line-height: 1.5"
    return f'<div style="{style}">{html}</div>'
