"""Student copies of the exercise notebooks, and proof that the checks bite.

`notebooks/solutions/` is the source, in nbgrader's format: solved, with outputs.
`student_version` leaves out what nbgrader leaves out, by the same markers, so that
a copy made here and one made by `nbgrader generate_assignment` are the same.
"""

import re
from pathlib import Path

import nbformat

from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.verdict import check
from attnlib.course.measure.report import table
from attnlib.course.publish import notebooks

SOLUTIONS = notebooks.NOTEBOOKS / "solutions"
STUDENTS = notebooks.NOTEBOOKS / "exercises"
# An autograded cell: students see its last line.
GRADE = """### BEGIN HIDDEN TESTS
from attnlib.course.exercises import check
assert check({0}).passed, check({0})
### END HIDDEN TESTS
check({0})"""
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # nbgrader's own


def generate(folder: Path = STUDENTS) -> list[Path]:
    """Write and execute the student copy of every solution."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for source in sorted(SOLUTIONS.glob("[0-9][0-9]_*.ipynb")):
        paths.append(folder / source.name)
        nbformat.write(student_version(nbformat.read(source, 4)), paths[-1])
        notebooks.run(paths[-1])
    return paths


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


def matrix() -> list[dict]:
    """Every check against every mistake and every right variant that it knows.

    A mistake must be `killed`, and be the first that the verdict names; right code
    must pass.
    """
    rows = []
    for task in TASKS.values():
        for mistake in task.mistakes:
            verdict = check(mistake.run, task.name)
            named = bool(verdict.mistakes) and verdict.mistakes[0] is mistake
            rows.append(_row(task, mistake.run.__name__, mistake.fact, verdict, named))
        for name, variant in task.variants.items():
            rows.append(_row(task, f"right: {name}", "", check(variant, task.name), None))
    return rows


def _row(task, code, fact, verdict, named) -> dict:
    return {
        "lesson": task.lesson,
        "check": task.name,
        "code": code,
        "fact": fact,
        "passed": verdict.passed,
        "named": named,
        "good": verdict.passed if named is None else named and not verdict.passed,
    }


def matrix_table(rows: list[dict]) -> str:
    """The kill matrix as text, and what it comes to."""
    wrong = [r for r in rows if r["named"] is not None]
    right = [r for r in rows if r["named"] is None]
    text = table(
        rows,
        left=("check", "code"),
        lesson="lesson",
        check="check",
        code="code",
        mistake=lambda r: r["fact"] or "-",
        verdict=lambda r: "passes" if r["passed"] else "killed",
        named=lambda r: "-" if r["named"] is None else "yes" if r["named"] else "NO",
    )
    facts = sorted({r["fact"] for r in wrong if r["fact"]}, key=lambda fact: int(fact[1:]))
    return (
        f"{text}\n\n{len(TASKS)} checks; {sum(not r['passed'] for r in wrong)} of {len(wrong)} "
        f"mistakes killed, {sum(r['named'] for r in wrong)} named; "
        f"{sum(r['passed'] for r in right)} of {len(right)} right variants pass\n"
        f"known mistakes met: {', '.join(facts)}"
    )
