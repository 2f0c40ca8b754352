"""python -m attnlib.course {run,figures,slides,exercises,measure,judge}: one door for all."""

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

    measure = commands.add_parser("measure", help="measure this machine, print ratios")
    measure.add_argument("section", nargs="*", help="only these, the rest stays as recorded")
    where = measure.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="another folder than build/runs/")
    where.add_argument("--commit", action="store_true", help="into figures/runs/, for lessons")
    judge = commands.add_parser("judge", help="judge your own kernel against float64")
    judge.add_argument("kernel", metavar="package.module:function", help="an f(q, k, v, ...)")
    judge.add_argument("--shapes", nargs="+", default=(), help="BxHxNxd, such as 2x8x500x64")
    judge.add_argument("--dtypes", nargs="+", help="of float32, bfloat16, float16; all for none")
    judge.add_argument("--backward", action="store_true", help="its gradients, too")
    judge.add_argument("--time", action="store_true", help="and its time and peak")
    judge.add_argument("--seconds", type=float, default=30, help="that a case may take")

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
    from attnlib.course.exercises import students

    if args.matrix:
        rows = students.matrix()
        print(students.matrix_table(rows))
        return 0 if all(row["good"] for row in rows) else 1
    os.environ["ATTNLIB_REPLAY"] = "1"
    for path in students.generate(args.out or students.STUDENTS):
        print(path.name)
    return 0


def _measure(args) -> int:
    from attnlib.course.measure import recordings, report
    from attnlib.course.measure.sections import SECTIONS

    if unknown := set(args.section) - set(SECTIONS):
        raise ValueError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    folder = recordings.RUNS if args.commit else args.out or recordings.BUILD
    into = recordings.earlier(folder) if args.section else None
    if args.section and args.commit and into is None:
        raise ValueError("no recording of this machine and torch to put a section into: measure")
    recording = recordings.record(args.section, into)
    print(report.summary(recording, args.section))
    print(f"\nwritten to {recordings.save(recording, folder)}")
    return 0


def _judge(args) -> int:
    from attnlib.course.measure import judge

    shapes, dtypes = judge.parse(args.shapes, args.dtypes or judge.DTYPES)
    options = {"shapes": shapes, "dtypes": dtypes, "backward": args.backward, "time": args.time}
    rows = []
    for row in judge.judge(args.kernel, args.seconds, **options):
        print(judge.line(row), flush=True)
        rows.append(row)
    if judge.status(rows) != 2:
        print(judge.ruling(rows, args.backward))
    return judge.status(rows)


COMMANDS = {
    "run": _run,
    "figures": _figures,
    "slides": _slides,
    "exercises": _exercises,
    "measure": _measure,
    "judge": _judge,
}

if __name__ == "__main__":
    sys.exit(main())
