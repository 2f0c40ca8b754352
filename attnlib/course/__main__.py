"""python -m attnlib.course COMMAND: one door for every chore, from lab to judge.

A command that writes into the clone asks `clone.guard` first; one that takes minutes
goes through `_each`, which says how long and where it is. Ctrl-C is one line.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def main(argv=None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except KeyboardInterrupt:
        print(f"\n{args.command} was stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        parser.error(str(error))  # status 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m attnlib.course")
    commands = parser.add_subparsers(dest="command", required=True)
    force = argparse.ArgumentParser(add_help=False)
    force.add_argument("--force", action="store_true", help="overwrite changed files, too")

    # With another prefix, options such as --port=9999 are words to hand on.
    lab = commands.add_parser(
        "lab", help="open the course in JupyterLab", prefix_chars="+", add_help=False
    )
    lab.add_argument("options", nargs="*", help="of jupyter lab")

    run = commands.add_parser("run", parents=[force], help="execute notebooks and store outputs")
    run.add_argument(
        "lesson", nargs="*", help="number (03, solutions/03), name or path; all for none"
    )

    clean = commands.add_parser(
        "clean", help="notebooks as stored: what you typed stays, and other changes go"
    )
    clean.add_argument("lesson", nargs="*", help="number, name or path; all for none")

    figures = commands.add_parser("figures", parents=[force], help="draw all of figures/ again")
    figures.add_argument("--out", type=Path, help="another folder than figures/")

    slides = commands.add_parser("slides", help="write the lessons as offline decks")
    slides.add_argument("lesson", nargs="*", help="number, name or path; all for none")
    slides.add_argument("--out", type=Path, help="another folder than build/slides/")
    slides.add_argument("--pdf", action="store_true", help="and a handout, a page a slide")
    slides.add_argument("--notes", action="store_true", help="and a handout with notes and answers")
    slides.add_argument("--title-slide", metavar="WORDS", default="", help="name, date, place")
    slides.add_argument("--short", action="store_true", help="without slides tagged optional")
    slides.add_argument(
        "--execute", action="store_true", help="run the lessons, instead of stored outputs"
    )

    exercises = commands.add_parser(
        "exercises", parents=[force], help="make the student copies from solutions/"
    )
    exercises.add_argument("--out", type=Path, help="another folder than notebooks/exercises/")
    exercises.add_argument("--matrix", action="store_true", help="prove the checks instead")

    archive = commands.add_parser("archive", help="zip everything but the solutions")
    archive.add_argument("--out", type=Path, help="another file than build/course.zip")

    grade = commands.add_parser("grade", help="report which mistakes a class makes")
    grade.add_argument("submissions", type=Path, help="nbgrader's submitted/, or a flat folder")

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
    return parser


def _each(items: Iterable, usually: str) -> Iterator:
    """The items one by one, each announced on stderr: paths, or names."""
    items = list(items)
    print(f"{len(items)} to do, usually {usually}", file=sys.stderr)
    for n, item in enumerate(items, 1):
        name = f"{item.parent.name}/{item.stem}" if isinstance(item, Path) else item
        print(f"[{n} of {len(items)}] {name}", file=sys.stderr, flush=True)
        yield item


def _lab(args) -> int:
    from jupyterlab.labapp import LabApp

    from attnlib.course.publish import clone, notebooks

    root = clone.need()
    options = [f"--ServerApp.root_dir={root}"]
    if notebooks.can_encrypt():
        options.append("--KernelManager.transport_encryption=auto")
    if getattr(os, "geteuid", lambda: 1)() == 0:
        options.append("--allow-root")  # as in a container, where nobody else is
    first = str(notebooks.lessons(["00"])[0])
    server = LabApp.initialize_server([*options, *args.options, first])
    server.contents_manager.register_pre_save_hook(notebooks.tidy)
    server.start()
    return 0


def _run(args) -> int:
    from attnlib.course.publish import clone, notebooks

    clone.need()
    os.environ["ATTNLIB_REPLAY"] = "1"  # stored outputs are the replayed ones
    paths = notebooks.every(args.lesson)
    clone.guard({path: path.read_bytes() for path in paths}, args.force)
    failed = 0
    for path in _each(paths, "5 to 15 s each"):
        if problem := notebooks.attempt(notebooks.run, path):
            print(f"{path.name} {problem}; it is left as it was", file=sys.stderr)
            failed += 1
    return min(failed, 1)


def _clean(args) -> int:
    from attnlib.course.publish import clone, notebooks

    clone.need()
    for path in notebooks.every(args.lesson):
        if done := notebooks.clean(path, clone.committed(path)):
            print(f"{path.parent.name}/{path.name}: {done}")
    return 0


def _figures(args) -> int:
    from attnlib.course.publish import clone, figures

    clone.need()
    folder = args.out or figures.FIGURES
    with tempfile.TemporaryDirectory() as drawn:
        new = {folder / p.name: p.read_bytes() for p in figures.draw_all(Path(drawn))}
    clone.guard(new, args.force)
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in new.items():
        path.write_bytes(data)
        print(path.name)
    return 0


def _slides(args) -> int:
    from attnlib.course.publish import clone, handout, notebooks, slides

    clone.need()
    out, failed = args.out or slides.OUT, 0
    browser = handout.chromium() if args.pdf or args.notes else None

    def make(path):
        deck = slides.write(path, out, args.execute, args.title_slide, args.short)
        print(deck, flush=True)
        for notes in [False] * args.pdf + [True] * args.notes:
            print(handout.print_deck(deck, browser, notes), flush=True)

    for path in _each(slides.prepare(args.lesson, out), "5 to 15 s each"):
        if problem := notebooks.attempt(make, path):
            print(f"{path.stem} {problem}; there is no new deck of it", file=sys.stderr)
            failed += 1
    return min(failed, 1)


def _exercises(args) -> int:
    import nbformat

    from attnlib.course.exercises import matrix, students
    from attnlib.course.publish import clone, notebooks

    if args.matrix:
        rows = matrix.matrix()
        print(matrix.matrix_table(rows))
        return 0 if all(row["good"] for row in rows) else 1
    clone.need("notebooks/solutions", "teachers keep them, and student copies are made from them")
    os.environ["ATTNLIB_REPLAY"] = "1"
    folder = args.out or students.STUDENTS
    solved = [path for path in notebooks.every() if path.parent == students.SOLUTIONS]
    copies = {folder / p.name: students.student_version(nbformat.read(p, 4)) for p in solved}
    clone.guard(copies, args.force)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _each(copies, "5 to 10 s each"):
        notebooks.run(path, copies[path])
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
    "lab": _lab,
    "run": _run,
    "clean": _clean,
    "figures": _figures,
    "slides": _slides,
    "exercises": _exercises,
    "archive": _archive,
    "grade": _grade,
    "measure": _measure,
    "judge": _judge,
}

if __name__ == "__main__":
    sys.exit(main())
