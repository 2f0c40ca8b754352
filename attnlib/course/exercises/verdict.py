"""Checks that name the mistake.

`check(f)` tries the learner's function on inputs that hurt and gives a `Verdict`:
which input, what came, what was expected and, where the answer is the one that a
known mistake gives, which. It never raises, whatever f does. `progress(lesson)`
shows how far the reader of an exercise notebook is.

A mistake is recognised by running it: its code is in `ex01.py` and its like, and the verdict
names it where its answers are the learner's.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch

from attnlib.course.exercises.answer import Problem, difference, shown
from attnlib.course.exercises.attempt import Answer, attempt, message, names, tensors
from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.pointers import link, words
from attnlib.course.exercises.task import BadAnswer, Case, Mistake, Task
from attnlib.memory import live_bytes

PASSED, WRONG, NOT_YET, MISSING = "passed", "wrong", "not attempted yet", "not run yet"
SIGN = {PASSED: "✓", WRONG: "✗", NOT_YET: "○", MISSING: "○"}
THROUGH = "What it lets through is wrong; a test must fail there."
REJECTED = "What it rejects is right."
COLOUR = {PASSED: "#009E73", WRONG: "#D55E00", NOT_YET: "#666666", MISSING: "#666666"}


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a check found. `mistakes` are those whose answers came, the surest first."""

    name: str
    status: str
    headline: str
    facts: tuple[tuple[str, str], ...] = ()  # ("input", ...), ("came", ...), ...
    remarks: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    sections: tuple[str, ...] = ()  # where it is explained, keys of SECTIONS

    @property
    def passed(self) -> bool:
        return self.status == PASSED

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
    name = name or getattr(f, "__name__", "check")
    if not callable(f):
        return Verdict(name, WRONG, "hand over the function itself")
    if name not in TASKS:
        return Verdict(name, WRONG, "no exercise has this name; keep the one that it gave")
    task = TASKS[name]
    answers = {}
    for title, case in task.all_cases().items():
        answers[title] = answer = attempt(task, f, case.args)
        if answer.is_stub:
            return Verdict(name, NOT_YET, NOT_YET)
        if task.books:
            _wake_books()
        if answer.late:
            break
    problems = {title: _problem(task, task.all_cases()[title], a) for title, a in answers.items()}
    problems = {title: problem for title, problem in problems.items() if problem}
    if not problems:
        return Verdict(name, PASSED, f"right on {_count(task, len(answers))}")
    return _explain(task, f, answers, problems)


@functools.cache
def _wake_books() -> None:
    """Have torch import what keeping books takes: seconds, once, on no learner's time."""
    live_bytes(torch.ones, 1)


# What went wrong -----------------------------------------------------------


def _explain(task, f, answers, problems) -> Verdict:
    found = diagnose(task, answers, problems)
    title = next(iter(problems))
    if problems[title].came or any(title in where for _, where in found):
        title = found[0][1][0] if found else title
    elif not (task.is_test and problems[title].says in (THROUGH, REJECTED)):
        found = []  # no answer at all, and nobody knows why: first things first
    problem = problems[title]
    if task.is_test and problem.says in (THROUGH, REJECTED):
        facts, remarks = _test_facts(task, answers, problems)
    else:
        facts, remarks = _facts(task, f, title, problem)
    for n, (mistake, where) in enumerate(found):
        this = "This" if n == 0 else f"And for “{where[0]}”, this"
        verb = "happens" if task.is_test else "is what comes out"
        remarks.append(f"{this} {verb} when {mistake.when}.")
    sections = [mistake.see for mistake, _ in found]
    if not found and (problem.came or task.is_test):
        sections = [task.see]
    total = _count(task, len(task.all_cases()))
    late = any(answer.late for answer in answers.values())
    headline = "it does not come to an end" if late else f"wrong on {len(problems)} of {total}"
    mistakes = tuple(mistake for mistake, _ in found)
    sections = tuple(dict.fromkeys(sections))
    return Verdict(task.name, WRONG, headline, tuple(facts), tuple(remarks), mistakes, sections)


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


def diagnose(task: Task, answers: dict, problems: dict) -> list[tuple[Mistake, list[str]]]:
    """Known mistakes that give the wrong answers, each with the cases it explains.

    One that explains every wrong answer and is right where the learner is right; else
    at most two, each with an answer that tells. A lone number does not, since it may
    be equal by chance, and neither does NaN throughout.
    """
    rows = []
    for mistake in task.mistakes:
        theirs, wrong = mistake_answers(task, mistake)
        same = [t for t in problems if t in wrong and alike(answers[t], theirs[t], task)]
        rows.append((mistake, same, wrong.isdisjoint(answers.keys() - problems.keys())))
    found, left = [], list(problems)
    while left and rows and len(found) < 2:
        mistake, same, right = max(rows, key=lambda row: (len(set(row[1]) & set(left)), row[2]))
        same = [title for title in same if title in left]
        sure = right and len(same) == len(problems)
        if not same or not (sure or any(_tells(answers[t]) for t in same)):
            break
        found.append((mistake, same))
        left = [title for title in left if title not in same]
    return found


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
    same = a.late == b.late and bool(a.changed) == bool(b.changed)
    loosely = 1 if task.tolerance else 10
    return same and difference(a.value, b.value, task, scale=loosely) is None


def _tells(answer) -> bool:
    xs = list(tensors(answer.value))
    numbers = sum(x.numel() for x in xs) >= 2 and any(x.isfinite().any() for x in xs)
    return answer.error is not None or numbers


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
