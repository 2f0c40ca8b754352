"""A class report: which mistakes a class makes, from the notebooks that it handed in.

The folder may be nbgrader's `submitted/`, a folder for each student, or flat, with the
student's name in the file's: `01_safe_softmax_anna.ipynb` or `anna_01_safe_softmax.ipynb`.
Every notebook is run in a kernel of its own, as its student: only in a place where that
does no harm.
"""

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.students import SOLUTIONS
from attnlib.course.exercises.verdict import MISSING, PASSED, Verdict, check

ASK = """from attnlib.course.exercises.state import afresh
afresh()
from attnlib.course.exercises.grading import as_json
print(as_json("{lesson}", globals()))"""
UNREAD = "the notebook could not be run"


def grade(folder: Path, timeout: float = 120) -> list[dict]:
    """A row for each exercise of each notebook handed in: student, exercise, status,
    headline, mistake (what comes out when ...) or None, points."""
    rows = []
    for student, lesson, path in submissions(folder):
        try:
            found = verdicts(path, lesson, timeout)
        except Exception as error:  # whatever was handed in
            reason = f"{UNREAD}: {type(error).__name__}"
            found = [_row(Verdict(t.name, UNREAD, reason)) for t in _tasks(lesson)]
        rows += [{"student": student, "lesson": lesson, **row} for row in found]
    return rows


def submissions(folder: Path) -> list[tuple[str, str, Path]]:
    """(student, lesson's number, path) of every exercise notebook below a folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    stems, found = [path.stem for path in SOLUTIONS.glob("[0-9][0-9]_*.ipynb")], []
    stems = stems or [f"{t.lesson}_" for t in TASKS.values()]
    for path in sorted(folder.rglob("*.ipynb")):
        stem = next((s for s in stems if s in path.stem), None)
        if stem and ".ipynb_checkpoints" not in path.parts:
            inside = path.relative_to(folder).parts
            named = path.stem.replace(stem, "").strip("_- .")
            found.append((inside[0] if len(inside) > 1 else named or "?", stem[:2], path))
    if not found:
        raise ValueError(f"{folder} holds no exercise notebook")
    return found


def verdicts(path: Path, lesson: str, timeout: float) -> list[dict]:
    """Run a notebook without its check cells, then check every exercise of the lesson."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade")
    ]
    notebook.cells.append(nbformat.v4.new_code_cell(ASK.format(lesson=lesson)))
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        allow_errors=True,
        interrupt_on_timeout=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    (said,) = [o.text for o in notebook.cells[-1].outputs if o.get("name") == "stdout"]
    return json.loads(said.splitlines()[-1])


def as_json(lesson: str, namespace: dict) -> str:
    """The verdicts on a lesson's functions, as a line of JSON."""
    rows = []
    for task in _tasks(lesson):
        f = namespace.get(task.name)
        verdict = check(f, task.name) if callable(f) else Verdict(task.name, MISSING, MISSING)
        rows.append(_row(verdict))
    return json.dumps(rows)


def _tasks(lesson):
    return [task for task in TASKS.values() if task.lesson == lesson]


def _row(verdict) -> dict:
    return {
        "exercise": verdict.name,
        "status": verdict.status,
        "headline": verdict.headline,
        "mistake": verdict.mistakes[0].when if verdict.mistakes else None,
        "points": verdict.points,
    }


def class_report(rows: list[dict]) -> str:
    """Per exercise: how many pass, and who makes which mistake, the commonest first."""
    students = sorted({row["student"] for row in rows})
    lines = [f"{len(students)} students: {', '.join(students)}"]
    for name in dict.fromkeys(row["exercise"] for row in rows):
        mine = [row for row in rows if row["exercise"] == name]
        passed = sum(row["status"] == PASSED for row in mine)
        lines += ["", f"{mine[0]['lesson']} {name}: {passed} of {len(mine)} pass"]
        groups: dict[str, list[str]] = {}
        for row in mine:
            if row["status"] != PASSED:
                said = row["mistake"] or f"no known mistake: {row['headline']}"
                said = said if row["status"] == "wrong" else row["status"]
                groups.setdefault(said, []).append(row["student"])
        for said, who in sorted(groups.items(), key=lambda group: -len(group[1])):
            lines.append(f"  {len(who)} x {said} ({', '.join(who)})")
    points: dict[str, float] = {student: 0.0 for student in students}
    for row in rows:
        points[row["student"]] += row["points"]
    most = sum(TASKS[name].points for name in {row["exercise"] for row in rows})
    lines += ["", "points: " + ", ".join(f"{s} {points[s]:g} of {most}" for s in students)]
    return "\n".join(lines)
