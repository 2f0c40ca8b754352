"""No number in prose without its witness.

A decimal, a percentage or a number with a unit must be shown by a compared output
of the same lesson, rounded as prose rounds, or stand in a cell that links to its
source. Formulas and code are the reader's to check by pencil.
"""

import re
from pathlib import Path

import nbformat
import pytest

from attnlib.course.publish import notebooks

LESSON = pytest.mark.parametrize("path", notebooks.lessons(), ids=lambda path: path.stem)
NUMBER = r"(?<![\w.,^])(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]*\.\d)"
UNIT = (
    r"[KMGT]i?B(?:/s)?|[kMGT]bit/s|[GT]?FLOPs?(?:/s)?|[GM]Hz|bytes?|"
    r"[mnuµ]s|s|seconds?|minutes?|hours?|days?"
)
CLAIM = re.compile(rf"({NUMBER})(?:[ \u00a0]?(%|(?:{UNIT})\b(?!/)))?")
ALLOWED = {  # (lesson, as it stands in prose): why
}


def claims(source: str) -> list[tuple[str, str]]:
    """The (number, unit) that a cell of prose states; the unit may be empty."""
    text = re.sub(r"\$\$.*?\$\$|```.*?```|\$[^$\n]+\$|`[^`]*`", " ", source, flags=re.S)
    text = re.sub(r"\]\([^)]*\)|<!--.*?-->", "] ", text)
    found = [(match[1], match[2] or "") for match in CLAIM.finditer(text)]
    return [(n, unit) for n, unit in found if unit or "." in n or "e" in n]


def value(number: str) -> float:
    return float(number.replace(",", ""))


def shows(output: str, number: str, unit: str) -> bool:
    """Whether an output has this number, with at least its digits, and its unit somewhere.

    A share such as 0.58 shows a percentage, too.
    """
    if unit != "%" and not re.search(rf"(?<![a-zA-Z]){unit}(?![a-zA-Z/])", output):
        return False
    found = [value(shown) for shown in re.findall(NUMBER, output)]
    if unit == "%":
        found += [100 * share for share in found if share <= 1]
    last_digit = 0 if "e" in number else 10.0 ** -len(number.partition(".")[2])
    return any(abs(x - value(number)) <= 0.5001 * last_digit for x in found)


def outputs(lesson: nbformat.NotebookNode) -> list[str]:
    """What the cells say in text, those aside whose output is not compared."""
    found = []
    for cell in lesson.cells:
        if cell.cell_type != "code" or "nbval-ignore-output" in cell.metadata.get("tags", []):
            continue
        texts = [o.get("text", "") for o in cell.outputs]
        data = [o.get("data", {}) for o in cell.outputs]
        texts += [d.get(kind, "") for d in data for kind in ("text/plain", "text/html")]
        text = re.sub(r"<[^>]*>", " ", "\n".join(texts))  # tags, and <Figure size ...>
        found.append(text.replace("−", "-"))
    return found


def unwitnessed(path: Path) -> list[str]:
    lesson, name, missing = nbformat.read(path, 4), path.stem[:2], []
    said = outputs(lesson)
    for cell in lesson.cells:
        if cell.cell_type != "markdown" or "](https://" in cell.source:
            continue
        for number, unit in claims(cell.source):
            text = f"{number} {unit}".strip()
            shown = any(shows(output, number, unit) for output in said)
            if not shown and (name, text) not in ALLOWED:
                missing.append(f"{cell.id}: {text}")
    return missing


@LESSON
def test_every_number_in_prose_is_shown_by_an_output(path: Path):
    missing = unwitnessed(path)
    assert missing == []


def test_nothing_is_allowed_that_no_lesson_says():
    said = set()
    for path in notebooks.lessons():
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                said |= {(path.stem[:2], f"{n} {u}".strip()) for n, u in claims(cell.source)}
    assert set(ALLOWED) <= said


@pytest.mark.parametrize(
    "prose, found",
    [
        ("gives 58 % of it", [("58", "%")]),
        ("half, 0.07 or .17, not 3.", [("0.07", ""), (".17", "")]),
        ("16,384 MiB in 2 ms at 3.35 TB/s", [("16,384", "MiB"), ("2", "ms"), ("3.35", "TB/s")]),
        ("below 1e-5, in section 3.2.1 of 2022", [("1e-5", "")]),
        ("$0.5$, `2.0` and [it](https://arxiv.org/abs/2205.14135), 8 heads", []),
    ],
)
def test_claims_are_decimals_percentages_and_numbers_with_a_unit(prose, found):
    assert claims(prose) == found


@pytest.mark.parametrize(
    "output, number, unit, yes",
    [
        ("rabbits 52.3%", "52", "%", True),
        ("share 0.523", "52", "%", True),
        ("rabbits 53%", "52", "%", False),
        ("tensor([2.8284])", "2.83", "", True),
        ("2.8", "2.83", "", False),
        ("standard   16,384 MiB", "16384", "MiB", True),
        ("16,384 GiB", "16384", "MiB", False),
        ("below 1e-5", "1e-5", "", True),
    ],
)
def test_an_output_shows_a_number_with_its_unit_and_digits(output, number, unit, yes):
    assert shows(output, number, unit) == yes
