"""The kill matrix: proof that the checks bite, and that they bite nobody who is right."""

from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.verdict import check
from attnlib.course.measure.report import table


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
