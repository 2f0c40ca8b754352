"""Student copies of the exercise notebooks, and an archive to hand out.

`notebooks/solutions/` is the source, in nbgrader's format: solved, with outputs.
`student_version` leaves out what nbgrader leaves out, by the same markers, so that
a copy made here and one made by `nbgrader generate_assignment` are the same.
"""

import re
import subprocess
import zipfile
from pathlib import Path

import nbformat

from attnlib.course.exercises.pointers import NOTEBOOKS

SOLUTIONS = NOTEBOOKS / "solutions"
STUDENTS = NOTEBOOKS / "exercises"
# An autograded cell: students see its first line, nbgrader takes its last one for points.
GRADE = """check({0})
### BEGIN HIDDEN TESTS
from attnlib.course.exercises.state import afresh
verdict = afresh()({0}, "{0}")
print(verdict)
verdict.points
### END HIDDEN TESTS"""
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


# Handing out ---------------------------------------------------------------

# What holds answers for teachers and for tests; the checks need none of it.
KEPT_BACK = ("notebooks/solutions", "tests/course/exercises")


def archive(target: Path) -> list[str]:
    """Write everything but the solutions as a zip file; the paths that it holds.

    The checks work from it. What they work by stays in it: `attnlib/course/exercises`
    has right answers as code, for whoever goes looking.
    """
    root = NOTEBOOKS.parent
    paths = [path for path in _files(root) if not path.startswith(KEPT_BACK)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in paths:
            packed.write(root / path, f"{root.name}/{path}")
    return paths


def _files(root: Path) -> list[str]:
    """The files of the course: those that git knows, or all that are no by-product."""
    git = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return sorted(p for p in listed.stdout.split("\0") if p and (root / p).is_file())
    found = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    return sorted(
        p.as_posix()
        for p in found
        if not any(x.startswith(".") or x in ("__pycache__", "build") for x in p.parts)
    )


def solution_lines() -> set[str]:
    """Every line between the markers of a solution, stripped."""
    lines = set()
    for path in sorted(SOLUTIONS.glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            inside = False
            for line in map(str.strip, cell.source.split("\n")):
                if line in ("### BEGIN SOLUTION", "### END SOLUTION"):
                    inside = line.startswith("### BEGIN")
                elif inside and line:
                    lines.add(line)
    return lines


def lines_of(path: Path) -> set[str]:
    """The lines of a file, of a notebook those of its cells, stripped."""
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    elif path.suffix in (".py", ".md", ".toml", ".txt"):
        text = path.read_text(encoding="utf-8")
    else:
        return set()
    return set(map(str.strip, text.split("\n")))


def shared_lines(paths: list[str]) -> dict[str, list[str]]:
    """The lines of solutions that these files have too, each with the files."""
    root, solved, where = NOTEBOOKS.parent, solution_lines(), {}
    for path in paths:
        for line in sorted(solved & lines_of(root / path)):
            where.setdefault(line, []).append(path)
    return where
