"""Checks that name the mistake.

`check(f)` tries the learner's function on inputs that hurt and gives a `Verdict`:
which input, what came, what was expected and, where the answer is the one that a
known mistake gives, which. It never raises, whatever f does. `progress(lesson)`
shows how far the reader of an exercise notebook is.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from attnlib.course.exercises import books
from attnlib.course.exercises.answer import AtMost, Problem, shown
from attnlib.course.exercises.attempt import Answer, attempt, names, tensors
from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.diagnosis import REJECTED, THROUGH, diagnose, problem_of, share_of
from attnlib.course.exercises.pointers import link, words
from attnlib.course.exercises.state import FirstLines, broken_cell, steady
from attnlib.course.exercises.task import Mistake

PASSED, WRONG, NOT_YET, MISSING = "passed", "wrong", "not attempted yet", "not run yet"
SIGN = {PASSED: "✓", WRONG: "✗", NOT_YET: "○", MISSING: "○"}
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
    problems = {title: problem_of(task, cases[title], a) for title, a in answers.items()}
    problems = {title: problem for title, problem in problems.items() if problem}
    if not problems and task.is_test:
        problems = _fickle(task, f, answers)
    if not problems:
        said = f"right on {_count(task, len(answers))}"
        facts, remarks = _scores(task, answers), _crashes(answers)
        return Verdict(task.name, PASSED, said, facts, remarks, share=1.0)
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


def _scores(task, answers) -> tuple[tuple[str, str], ...]:
    """What right code reached on the last input, where the classic way's score is known."""
    title, answer = list(answers.items())[-1]
    expected = task.all_cases()[title].expected
    if not isinstance(expected, tuple) or not isinstance(answer.value, tuple):
        return ()
    return tuple(
        (name, f"{float(got):g} (the classic loop: {bound.classic:g}; {shown(bound)})")
        for name, got, bound in zip(task.parts, answer.value, expected)
        if isinstance(bound, AtMost) and bound.classic is not None
    )


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
        share_of(task, answers),
    )


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
