"""Student copies of the exercise notebooks.

`notebooks/solutions/` is the source, in nbgrader's format: solved, with outputs.
`student_version` leaves out what nbgrader leaves out, by the same markers, so that
a copy made here and one made by `nbgrader generate_assignment` are the same.
"""

import re

import nbformat

from attnlib.course.exercises.pointers import NOTEBOOKS

SOLUTIONS = NOTEBOOKS / "solutions"
STUDENTS = NOTEBOOKS / "exercises"
# An autograded cell: students see its last line.
GRADE = """### BEGIN HIDDEN TESTS
from attnlib.course.exercises import check
assert check({0}).passed, check({0})
### END HIDDEN TESTS
check({0})"""
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # nbgrader's own


def student_version(solved: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a stub for every solution, without hidden tests and outputs."""
    copy = nbformat.from_dict(solved)
    for cell in copy.cells:
        cell.source = _without("HIDDEN TESTS", _without("SOLUTION", cell.source, STUB))
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copy


def _without(what: str, source: str, instead: str | None = None) -> str:
    """The source with each region between markers left out, or replaced."""
    lines, inside = [], False
    for line in source.split("\n"):
        if f"### BEGIN {what}" in line:
            indent = re.match(r"\s*", line).group()
            lines += [indent + stub for stub in instead.split("\n")] if instead else []
            inside = True
        elif f"### END {what}" in line:
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines)
