"""nbgrader takes the solutions as they are, and scores what students hand in."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from cases import need

from attnlib.course.exercises import TASKS, students

pytestmark = pytest.mark.grading
SOLUTIONS = sorted(students.SOLUTIONS.glob("[0-9][0-9]_*.ipynb"))
SETUP = 'c.CourseDirectory.course_id = "attnlib"\nc.ExecutePreprocessor.timeout = 120\n'
ALWAYS_WRONG = """from attnlib.course.exercises import TASKS
def {0}(*args):
    return TASKS["{0}"].mistakes[0].run(*args)"""


def nbgrader(course, *args):
    command = [sys.executable, "-m", "nbgrader", *args]
    # It calls alembic by its bare name, wherever it was itself called from.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "ATTNLIB_REPLAY": "1", "PATH": path}
    ran = subprocess.run(command, cwd=course, env=env, capture_output=True, text=True)
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
    (root / "nbgrader_config.py").write_text("c = get_config()\n" + SETUP)
    (root / "source" / "ps").mkdir(parents=True)
    for path in SOLUTIONS:
        (root / "source" / "ps" / path.name).write_bytes(path.read_bytes())
    nbgrader(root, "generate_assignment", "ps", "--create")
    return root


@pytest.fixture(scope="module")
def scores(course):
    """{student: {notebook: (score, most it could be)}} after autograde."""
    for path in SOLUTIONS:
        released = nbformat.read(course / "release" / "ps" / path.name, 4)
        write(released, course, "empty", path.name)
        solved = nbformat.read(path, 4)
        for student in ("right", "wrong"):
            handed_in = nbformat.from_dict(released)
            for cell, solution in zip(handed_in.cells, solved.cells):
                if cell.metadata.get("nbgrader", {}).get("solution"):
                    name = cell.source.split("(")[0].removeprefix("def ")
                    right = student == "right"
                    cell.source = solution.source if right else ALWAYS_WRONG.format(name)
            write(handed_in, course, student, path.name)
    nbgrader(course, "autograde", "ps", "--create")
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        return {s: {n.name: (n.score, n.max_score) for n in book.find_submission("ps", s).notebooks}
                for s in ("right", "wrong", "empty")}  # fmt: skip


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
    assert scores["wrong"][path.stem] == scores["empty"][path.stem] == (0.0, most)
