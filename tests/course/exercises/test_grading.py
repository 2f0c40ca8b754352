"""nbgrader takes the solutions as they are, and scores what students hand in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from cases import need

from attnlib.course.exercises import TASKS, grading, students

pytestmark = pytest.mark.grading
SOLUTIONS = sorted(students.SOLUTIONS.glob("[0-9][0-9]_*.ipynb"))
ALWAYS_WRONG = """from attnlib.course.exercises import TASKS
def {0}(*args):
    return TASKS["{0}"].mistakes[0].run(*args)"""
PARTLY = """
_right = {0}
def {0}(*args):
    answer = _right(*args)
    return (answer[0], 2 * answer[1]) if type(answer) is tuple else answer"""
CHEAT = """import attnlib.course.exercises as theirs
class Passed:
    passed, points = True, 3.0
check = theirs.check = theirs.verdict.check = lambda *_: Passed()
def {0}(*args):
    return 0"""


def recipe(part: int) -> str:
    """A block of shell commands that the teachers' plan gives for nbgrader."""
    plan = (students.NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- recipe: nbgrader -->\n```sh\n(.*?)```", plan, re.S)
    assert len(blocks) == 2
    return blocks[part]


def follow(part: int, folder: Path) -> str:
    """Run a part of the recipe; what nbgrader said."""
    # nbgrader calls alembic by its bare name, wherever it was itself called from.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "ATTNLIB_REPLAY": "1", "PATH": path}
    command = ["bash", "-e", "-c", recipe(part)]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stderr


def write(notebook, course, student, name):
    folder = course / "submitted" / student / "ps"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / name)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with one assignment, released from our sources as they are."""
    need("nbgrader", "grading")
    root = tmp_path_factory.mktemp("course")
    (root / "notebooks").symlink_to(students.NOTEBOOKS)
    follow(0, root)
    return root / "grading"


def handed_in(path, released, answer):
    """The released notebook with answer(task's name, solved source) in each solution cell."""
    notebook = nbformat.from_dict(released)
    for cell, solution in zip(notebook.cells, nbformat.read(path, 4).cells):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            name = cell.source.split("(")[0].removeprefix("def ")
            cell.source = answer(name, solution.source) or cell.source
    return notebook


ANSWERS = {
    "right": lambda name, solved: solved,
    "wrong": lambda name, solved: ALWAYS_WRONG.format(name),
    "empty": lambda name, solved: None,
    "partly": lambda name, solved: solved + PARTLY.format(name),
    "cheating": lambda name, solved: CHEAT.format(name),
}


@pytest.fixture(scope="module")
def scores(course):
    """{student: {notebook: (score, most it could be)}} after autograde."""
    for path in SOLUTIONS:
        released = nbformat.read(course / "release" / "ps" / path.name, 4)
        for student, answer in ANSWERS.items():
            if student in ("right", "wrong", "empty") or path in SOLUTIONS[2:3]:
                write(handed_in(path, released, answer), course, student, path.name)
    said = follow(1, course)
    assert (course / "grades.csv").read_text().count("ps") == len(ANSWERS)
    assert "cannot be converted" not in said and "partial credit" not in said
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        return {
            s: {n.name: (n.score, n.max_score) for n in book.find_submission("ps", s).notebooks}
            for s in ANSWERS
        }


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_nbgrader_makes_the_same_student_copy(course, path):
    released = nbformat.read(course / "release" / "ps" / path.name, 4)
    ours = students.student_version(nbformat.read(path, 4))
    assert [c.source for c in released.cells] == [c.source for c in ours.cells]


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_right_wrong_and_empty_are_scored(scores, path):
    most = float(sum(t.points for t in TASKS.values() if t.lesson == path.stem[:2]))
    assert most >= 4
    assert scores["right"][path.stem] == (most, most)
    assert scores["empty"][path.stem] == (0.0, most)
    assert scores["wrong"][path.stem][0] <= 0.5 * most  # what is right in answers with parts


def test_half_an_answer_earns_half_and_a_replaced_check_nothing(scores):
    stem = SOLUTIONS[2].stem
    points = {t.name: t.points for t in TASKS.values() if t.lesson == stem[:2]}
    halves = sum(points[name] / 2 for name in ("merge_parts", "merge_kernel_parts"))
    assert scores["partly"][stem][0] == sum(points.values()) - halves
    assert scores["cheating"][stem][0] == 0.0


# A class report --------------------------------------------------------------

CLASS = {  # student: the known mistake of lesson 04 that each of its functions makes
    "anna": ("counts_the_first", "attend_o_unscaled", "hides_nothing", "lazy_new_m"),
    "ben": ("counts_the_first", "attend_o_unscaled", "asserts_nothing", "lazy_new_m"),
    "carla": ("compares_neighbours", "attend_o_unscaled", "asserts_nothing", "lazy_new_m"),
    "dan": ("compares_neighbours", "attend_l_unscaled", "asserts_nothing", "lazy_for_ever"),
    "eva": ("starts_at_zero", "attend_l_unscaled", "same_bits", "lazy_for_ever"),
    "finn": ("counts_scores", "attend_dividing", "same_bits", "lazy_clamped"),
    "grit": ("", "", "", ""),
    "hugo": ("", "attend_nan", "", "lazy_clamped"),
}


def test_the_class_report_names_the_mistakes_of_eight_students(tmp_path):
    path = SOLUTIONS[3]
    released = students.student_version(nbformat.read(path, 4))
    tasks = [t.name for t in TASKS.values() if t.lesson == "04"]
    for student, mistakes in CLASS.items():
        chosen = dict(zip(tasks, mistakes))

        def answer(name, solved, chosen=chosen):
            if not chosen.get(name):
                return solved
            return (
                f"from attnlib.course.exercises import TASKS\ndef {name}(*args):\n    return "
                f"{{m.run.__name__: m.run for m in TASKS['{name}'].mistakes}}"
                f"['{chosen[name]}'](*args)"
            )

        nbformat.write(handed_in(path, released, answer), tmp_path / f"{student}_{path.name}")
    rows = grading.grade(tmp_path)
    whens = {m.run.__name__: m.when for name in tasks for m in TASKS[name].mistakes}
    for student, mistakes in CLASS.items():
        found = [row["mistake"] for row in rows if row["student"] == student]
        assert found[:4] == [whens.get(mistake) for mistake in mistakes]
    report = grading.class_report(rows)
    assert "8 students: anna, ben, carla" in report
    assert f"  3 x {whens['attend_o_unscaled']} (anna, ben, carla)" in report
    assert "04 largest_threshold: 8 of 8 pass" in report


@pytest.mark.parametrize("name", ["anna/ps/{}", "anna/{}", "anna_{}", "deep/er/anna/{}"])
def test_students_are_named_by_folder_or_by_file(name, tmp_path):
    path = tmp_path / name.format("03_one_fold.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    student = "deep" if name.startswith("deep") else "anna"
    assert grading.submissions(tmp_path) == [(student, "03", path)]


def test_what_cannot_be_run_is_a_row_too(tmp_path):
    (tmp_path / "ida_01_safe_softmax.ipynb").write_text("{}")
    rows = grading.grade(tmp_path)
    assert {row["status"] for row in rows} == {grading.UNREAD} and len(rows) == 4
    assert "(ida)" in grading.class_report(rows)
    with pytest.raises(ValueError, match="holds no exercise notebook"):
        grading.grade(Path(__file__).parent)
