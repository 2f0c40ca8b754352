"""python -m attnlib.course COMMAND: one door for every chore, from run to measure."""

import argparse
import os
import sys
from pathlib import Path


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m attnlib.course")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="execute notebooks and store their outputs")
    run.add_argument(
        "lesson", nargs="*", help="number (03, solutions/03), name or path; all for none"
    )

    figures = commands.add_parser("figures", help="draw every file of figures/ again")
    figures.add_argument("--out", type=Path, help="another folder than figures/")

    slides = commands.add_parser("slides", help="write the lessons as offline decks")
    slides.add_argument("lesson", nargs="*", help="number, name or path; all for none")
    slides.add_argument("--out", type=Path, help="another folder than build/slides/")
    slides.add_argument("--pdf", action="store_true", help="print handouts through Chromium")

    exercises = commands.add_parser("exercises", help="make the student copies from solutions/")
    exercises.add_argument("--out", type=Path, help="another folder than notebooks/exercises/")
    exercises.add_argument("--matrix", action="store_true", help="prove the checks instead")

    archive = commands.add_parser("archive", help="zip everything but the solutions")
    archive.add_argument("--out", type=Path, help="another file than build/course.zip")

    grade = commands.add_parser("grade", help="report which mistakes a class makes")
    grade.add_argument("submissions", type=Path, help="nbgrader's submitted/, or a flat folder")

    measure = commands.add_parser("measure", help="measure this machine, print ratios")
    measure.add_argument("section", nargs="*", help="only these, the rest stays as recorded")
    measure.add_argument("--out", type=Path, help="another folder than figures/runs/")
    measure.add_argument(
        "--with",
        dest="kernel",
        metavar="package.module:function",
        help="add your own f(q, k, v, causal=...) as rows",
    )
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _run(args) -> int:
    from attnlib.course.publish import notebooks

    os.environ["ATTNLIB_REPLAY"] = "1"  # stored outputs are the replayed ones
    for path in notebooks.every(args.lesson):
        print(path.relative_to(notebooks.NOTEBOOKS), flush=True)
        notebooks.run(path)
    return 0


def _figures(args) -> int:
    from attnlib.course.publish import figures

    for path in figures.draw_all(args.out or figures.FIGURES):
        print(path.name)
    return 0


def _slides(args) -> int:
    from attnlib.course.publish import slides

    for path in slides.build(args.lesson, args.out or slides.OUT, args.pdf):
        print(path, flush=True)
    return 0


def _exercises(args) -> int:
    from attnlib.course.exercises import matrix, students
    from attnlib.course.publish import notebooks

    if args.matrix:
        rows = matrix.matrix()
        print(matrix.matrix_table(rows))
        return 0 if all(row["good"] for row in rows) else 1
    os.environ["ATTNLIB_REPLAY"] = "1"
    for path in students.generate(notebooks.run, args.out or students.STUDENTS):
        print(path.name)
    return 0


def _archive(args) -> int:
    from attnlib.course.exercises import students

    target = args.out or students.NOTEBOOKS.parent / "build" / "course.zip"
    paths = students.archive(target)
    shared = students.shared_lines(paths)
    print(f"{target}: {len(paths)} files")
    print(f"{len(shared)} lines of solutions are in it, because attnlib or a lesson has them too:")
    for line, where in sorted(shared.items()):
        print(f"  {line}   ({', '.join(where[:2])}{', ...' * (len(where) > 2)})")
    return 0


def _grade(args) -> int:
    from attnlib.course.exercises import grading

    os.environ["ATTNLIB_REPLAY"] = "1"
    print(grading.class_report(grading.grade(args.submissions)))
    return 0


def _measure(args) -> int:
    from attnlib.course.measure import judge, recordings, report
    from attnlib.course.measure.sections import SECTIONS

    if unknown := set(args.section) - set(SECTIONS):
        raise ValueError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if args.kernel:
        judge.load_kernel(args.kernel)  # a wrong name is better known now
    recording = recordings.record(args.kernel, args.section)
    print(report.summary(recording))
    if args.kernel:
        return 0  # a comparison, not a recording of the course
    print(f"\nwritten to {recordings.save(recording, args.out or recordings.RUNS)}")
    return 0


COMMANDS = {
    "run": _run,
    "figures": _figures,
    "slides": _slides,
    "exercises": _exercises,
    "archive": _archive,
    "grade": _grade,
    "measure": _measure,
}

if __name__ == "__main__":
    sys.exit(main())
