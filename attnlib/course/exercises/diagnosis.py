"""What is wrong with answers, and which known mistake gives them.

A mistake is recognised by running it: its code is in `ex01.py` and its like. A name is
given where its answers are the learner's, and never on the strength of a number or an
error that could come from anything.
"""

import functools

import torch
from torch import Tensor

from attnlib.course.exercises.answer import (
    AtMost,
    Measured,
    Problem,
    difference,
    is_number,
    part_differences,
    plain,
)
from attnlib.course.exercises.attempt import Answer, attempt, message, tensors
from attnlib.course.exercises.task import BadAnswer, Case, Mistake, Task

THROUGH = "What it lets through is wrong; a test must fail there."
REJECTED = "What it rejects is right."


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
    return answers, {t for t, answer in answers.items() if problem_of(task, cases[t], answer)}


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


def problem_of(task: Task, case: Case, answer: Answer) -> Problem | None:
    """What is wrong with an answer, or None."""
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


def share_of(task, answers) -> float:
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
