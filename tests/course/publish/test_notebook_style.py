"""The numbers of the course's style, so that they do not rot."""

import ast
import inspect
import re
import statistics
import textwrap
from pathlib import Path

import nbformat
import pytest

import attnlib
from attnlib import SoftmaxState, attention, softmax
from attnlib.course.measure import ways
from attnlib.course.publish import notebooks

LESSONS = {path.stem: nbformat.read(path, 4) for path in notebooks.lessons()}
LESSON = pytest.mark.parametrize("name", LESSONS)
TAGS = {"from-library", "nbval-ignore-output", "hide-input", "optional"}
SLIDES = {"slide", "subslide", "fragment", "skip", "notes"}
ROOT = Path(attnlib.__file__).parents[1]


def cells(name, kind):
    return [c for c in LESSONS[name].cells if c.cell_type == kind]


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def prose(cell):
    """The words a reader reads: no formulas, code blocks, tables or link targets."""
    text = re.sub(r"\$\$.*?\$\$|```.*?```|^\|.*$", " ", cell.source, flags=re.S | re.M)
    return re.sub(r"\]\([^)]*\)", "]", text)


@LESSON
def test_a_lesson_has_25_to_50_cells(name):
    assert 25 <= len(LESSONS[name].cells) <= 50


@LESSON
def test_every_cell_has_a_slide_type_and_only_known_tags(name):
    for cell in LESSONS[name].cells:
        assert cell.metadata.get("slideshow", {}).get("slide_type") in SLIDES, cell.id
        assert set(cell.metadata.get("tags", [])) <= TAGS, cell.id


@LESSON
def test_code_is_short_and_narrow(name):
    counts = [len(code_lines(cell)) for cell in cells(name, "code")]
    assert 3 <= statistics.median(counts) <= 6
    assert sum(n <= 10 for n in counts) >= 0.8 * len(counts) and max(counts) <= 20
    for cell in cells(name, "code"):
        assert max(map(len, cell.source.splitlines())) <= 72, cell.id
        tops = ast.parse(cell.source).body
        assert sum(isinstance(x, (ast.FunctionDef, ast.ClassDef)) for x in tops) <= 1, cell.id


@LESSON
def test_prose_is_short_and_plain(name):
    for cell in cells(name, "markdown"):
        words = prose(cell).split()
        assert len(words) <= 80, (cell.id, len(words))
        assert not {"simply", "just", "obviously"} & {w.lower().strip(".,") for w in words}, cell.id


@LESSON
def test_headings(name):
    found = [
        line for c in cells(name, "markdown") for line in re.findall(r"^#+ .*$", prose(c), re.M)
    ]
    assert found[0].startswith("# ") and sum(line.startswith("# ") for line in found) == 1
    assert 5 <= sum(line.startswith("## ") for line in found) <= 9
    for cell in cells(name, "markdown"):
        headings = re.findall(r"^#+ .*$", prose(cell), re.M)
        assert len(headings) <= 1, cell.id
        assert not headings or cell.source.startswith(headings[0]), cell.id


@LESSON
def test_say_do_look(name):
    kinds = [c.cell_type for c in LESSONS[name].cells]
    runs = re.findall("c{3,}", "".join(kind[0] for kind in kinds))
    assert not runs, "three code cells in a row, and no word between them"


@LESSON
def test_it_opens_and_closes_like_every_lesson(name):
    lesson = LESSONS[name].cells
    setup = LESSONS["00_start_here"].cells[2].source
    assert "You will build" in lesson[0].source
    assert len(re.findall("^- ", lesson[1].source, re.M)) == 3
    assert lesson[2].source == setup
    recap = next(c for c in lesson if c.source.startswith("## What you can do now"))
    assert len(re.findall("^- ", recap.source, re.M)) == 3
    assert "**Further reading.**" in lesson[-1].source


@LESSON
def test_a_prediction_comes_before_an_answer(name):
    asked = [c for c in LESSONS[name].cells if "**Predict.**" in c.source or "Quiz(" in c.source]
    assert len(asked) >= 3


@LESSON
def test_a_quiz_does_not_show_its_answers(name):
    for cell in cells(name, "code"):
        if "Quiz(" in cell.source:
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.id
            assert "hide-input" in cell.metadata.tags, cell.id


@LESSON
def test_at_most_five_predictions(name):
    asked = [c for c in LESSONS[name].cells if "**Predict.**" in c.source or "Quiz(" in c.source]
    assert len(asked) <= 5


@LESSON
def test_display_maths_stands_alone(name):
    for cell in cells(name, "markdown"):
        assert cell.source.count("$$") % 2 == 0
        for line in cell.source.splitlines():
            assert "$$" not in line or line == "$$", cell.id
        for formula in re.findall(r"\$\$(.*?)\$\$", cell.source, re.S):
            assert formula.count(r"\\") <= 3, cell.id


@LESSON
def test_links_exist_and_pictures_have_words(name):
    folder = notebooks.lessons([name])[0].parent
    for cell in cells(name, "markdown"):
        for alt, target in re.findall(r"!\[([^]]*)\]\(([^)]*)\)", cell.source):
            assert len(alt) > 20, target
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            assert target.startswith("https://") or (folder / target).exists(), target
    for cell in cells(name, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            assert "image/svg+xml" not in data
            if "image/png" in data:
                assert data["text/plain"].strip(), cell.id


def test_readme_links_exist():
    targets = set(re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()))
    for target in targets - {"notebooks/solutions"}:  # which teachers keep
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_readme_lists_every_lesson():
    readme = (ROOT / "README.md").read_text()
    assert all(f"notebooks/{name}.ipynb" in readme for name in LESSONS)


# What a lesson writes is what the library runs ------------------------------


def bare(function: ast.FunctionDef) -> str:
    """A function's syntax without docstring, annotations, decorators and checks."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.annotation = None
    function.returns, function.decorator_list = None, []
    function.body = [x for x in function.body if not _is_docstring(x) and not _is_check(x)]
    return ast.dump(function)


def _is_docstring(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_check(node) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "").startswith("require_")
    )


def library(name: str):
    for room in (softmax, attention, SoftmaxState, ways):
        if hasattr(room, name):
            return getattr(room, name)
    raise AssertionError(f"the library has no {name}")


FROM_LIBRARY = [
    (name, cell)
    for name in LESSONS
    for cell in cells(name, "code")
    if "from-library" in cell.metadata.get("tags", [])
]


@pytest.mark.parametrize(
    "name, cell", FROM_LIBRARY, ids=lambda x: x if isinstance(x, str) else x.id
)
def test_from_library_cells_are_the_library(name, cell):
    (taught,) = [x for x in ast.parse(cell.source).body if isinstance(x, ast.FunctionDef)]
    source = textwrap.dedent(inspect.getsource(library(taught.name)))
    assert bare(taught) == bare(ast.parse(source).body[0])
    assert taught.end_lineno - taught.lineno < 15


def test_there_are_cells_from_the_library():
    assert len(FROM_LIBRARY) >= 4
