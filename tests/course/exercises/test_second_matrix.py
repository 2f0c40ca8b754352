"""The second kill matrix: wrong and right answers that the checks were not made from."""

import pytest
from right_answers import RIGHT
from wrong_answers import WRONG

from attnlib.course.exercises import TASKS, check

pytestmark = pytest.mark.slow
ACCEPTED = set()  # wrong answers that a check takes, by name; at most 3


@pytest.fixture(scope="module")
def verdicts():
    return {f.__name__: check(f, task) for task, f, _ in WRONG}


def test_there_are_enough_and_they_meet_every_exercise():
    assert len(WRONG) >= 60 and len(RIGHT) >= 60
    assert {task for task, *_ in WRONG} == {task for task, *_ in RIGHT} == set(TASKS)
    names = [f.__name__ for _, f, _ in WRONG] + [f.__name__ for _, f in RIGHT]
    assert len(set(names)) == len(names)


def test_wrong_answers_are_rejected(verdicts):
    assert len(ACCEPTED) <= 3
    assert {name for name, verdict in verdicts.items() if verdict.passed} == ACCEPTED


def test_no_wrong_answer_gets_a_wrong_name(verdicts):
    for _, f, true_names in WRONG:
        given = {mistake.run.__name__ for mistake in verdicts[f.__name__].mistakes}
        assert given <= set(true_names), (f.__name__, given)


def test_names_are_still_given(verdicts):
    assert sum(bool(verdict.mistakes) for verdict in verdicts.values()) >= 20


@pytest.mark.parametrize("task, f", RIGHT, ids=[f.__name__ for _, f in RIGHT])
def test_right_answers_pass_whichever_way_they_go(task, f):
    assert check(f, task).passed, check(f, task)
