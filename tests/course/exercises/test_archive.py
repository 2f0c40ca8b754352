"""The archive that students get: no solutions, and checks that work."""

import os
import subprocess
import sys
import zipfile

import nbformat
import pytest

from attnlib.course.exercises import TASKS, students

TRY = """from attnlib.course.exercises import check, hint, progress
import torch, attnlib
print(attnlib.__file__)
def log_sum_exp(x):
    return torch.logsumexp(x, -1)
print(check(log_sum_exp))
print(check(lambda x: x.exp().sum(-1).log(), "log_sum_exp"))
print(progress("01", globals()))"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    paths = students.archive(folder / "course.zip")
    with zipfile.ZipFile(folder / "course.zip") as packed:
        packed.extractall(folder)
    return folder / students.NOTEBOOKS.parent.name, paths


def test_the_archive_has_no_solutions_and_all_else_that_is_needed(archive):
    root, paths = archive
    assert not [p for p in paths if p.startswith(("notebooks/solutions", "tests/course/exercises"))]
    for needed in ("requirements.txt", "README.md", "notebooks/exercises/03_one_fold.ipynb"):
        assert (root / needed).is_file()


def test_no_line_of_a_solution_is_in_it_that_attnlib_a_lesson_or_the_exercise_has_not(archive):
    _, paths = archive
    shared = students.shared_lines(paths)
    taught = [p for p in paths if p.startswith(("attnlib/", "notebooks/0", "notebooks/1"))]
    known = students.shared_lines(taught)
    given = set()  # what the exercise itself hands over, outside the markers
    for path in sorted(students.STUDENTS.glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if not cell.metadata.get("nbgrader", {}).get("solution"):
                given |= set(map(str.strip, cell.source.split("\n")))
    assert len(students.solution_lines()) > 150 > len(shared) > 0
    assert not set(shared) - set(known) - given


def test_a_students_solution_cell_holds_the_stub_alone():
    for path in sorted(students.STUDENTS.glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                assert cell.source.endswith("    raise NotImplementedError()")
                assert not students.solution_lines() & set(map(str.strip, cell.source.split("\n")))


@pytest.mark.slow
def test_the_checks_work_from_the_archive(archive):
    root, _ = archive
    env = {**os.environ, "PYTHONPATH": str(root)}
    said = subprocess.run(
        [sys.executable, "-c", TRY],
        cwd=root / "notebooks" / "exercises",
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(str(root))
    points = len(TASKS["log_sum_exp"].all_cases())
    assert f"✓ log_sum_exp: right on {points} inputs" in said
    assert "when no maximum is subtracted" in said and "See lesson 01, “" in said
    assert "1 of 4 exercises pass" in said
