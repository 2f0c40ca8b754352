"""The laws of the house: who may import whom, what lies where, how long a file may be."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import attnlib

HOUSE = Path(attnlib.__file__).parent
# From top to bottom: a file imports only from its own floor and from those above it.
FLOORS = ("inputs", "gpt", "draw", "measure", "explore", "exercises", "publish", "__main__")
WINGS = {"draw", "measure", "explore", "exercises", "publish"}
FILES = {
    ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(HOUSE.rglob("*.py"))
}
COURSE = [name for name in FILES if name.startswith("attnlib.course.")]
LONG = {"attnlib.attention", "attnlib.flash"}


def imports(name: str) -> set[str]:
    """The files of the house that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by dots"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = parts & FILES.keys()
            found |= inner | ({node.module} if parts - inner else set())
    return found & FILES.keys()


def floor(name: str) -> int:
    """Its place in FLOORS; the maths stands above them all, the course's door below."""
    if name == "attnlib.course":
        return len(FLOORS)
    if not name.startswith("attnlib.course."):
        return -1
    return FLOORS.index(name.split(".")[2])


def outside(name: str) -> set[str]:
    """The packages from elsewhere that a file imports."""
    nodes = list(ast.walk(ast.parse(FILES[name].read_text())))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    names |= {
        f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names
    }
    return {n for n in names if not n.startswith("attnlib")}


def code_lines(path: Path) -> int:
    """Lines of code: without docstrings, comments and blank lines."""
    source, docstrings, lines = path.read_text(), set(), set()
    for node in ast.walk(ast.parse(source)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    layout = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_above(name):
    below = {other for other in imports(name) if floor(other) > floor(name)}
    # A package's __init__ runs before its files: what all of the course may take from its
    # own are constants.
    assert not below - {"attnlib.course"}


def test_no_imports_go_in_a_circle():
    order = list(TopologicalSorter({name: imports(name) for name in FILES}).static_order())
    assert set(order) == set(FILES)


def test_the_course_is_flat_nowhere():
    found = {path.name for path in (HOUSE / "course").iterdir()} - {"__pycache__"}
    assert found - WINGS <= {"__init__.py", "__main__.py", "inputs.py", "gpt.py", "data"}
    assert found >= WINGS


def test_every_wing_says_what_it_is_for():
    for wing in WINGS:
        module = ast.parse(FILES[f"attnlib.course.{wing}"].read_text())
        assert ast.get_docstring(module), wing


def most_lines(name: str) -> int:
    """How many lines of code a file may have; a lesson's exercises stand each alone."""
    if not name.startswith("attnlib.course"):
        return 220 if name in LONG or ".kernels" in name else 150
    return 420 if re.search(r"\.ex\d\d$", name) else 300


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_in_one_sitting(name):
    assert code_lines(FILES[name]) <= most_lines(name)


def test_the_formatter_has_the_last_word():
    mark = "fmt: " + "skip"
    files = [*FILES.values(), *Path(__file__).parent.rglob("*.py")]
    assert [path.name for path in files if mark in path.read_text()] == []


def test_nothing_is_mocked_in_the_library():
    assert [name for name in FILES if any("unittest" in x for x in outside(name))] == []


def test_pictures_know_no_widgets():
    wing = [name for name in COURSE if name.startswith("attnlib.course.draw")]
    assert len(wing) > 5
    assert [name for name in wing if any("ipywidgets" in x for x in outside(name))] == []


def test_explorers_do_not_draw():
    wing = [name for name in COURSE if name.startswith("attnlib.course.explore")]
    for name in wing:
        drawn = {x for x in outside(name) if x.startswith("matplotlib")}
        assert drawn <= {"matplotlib.figure", "matplotlib.figure.Figure"}, name  # as a type
        assert "attnlib.course.draw.style" not in imports(name), name


def test_the_colours_need_matplotlib_only():
    assert not imports("attnlib.course.draw.style")
    path = FILES["attnlib.course.draw.style"]
    alone = f"import runpy; runpy.run_path({str(path)!r})"
    loaded = modules_after(alone)
    assert "matplotlib" in loaded and not {"torch", "attnlib", "ipywidgets"} & loaded


def test_pictures_measure_nothing():
    wing = [name for name in COURSE if name.startswith("attnlib.course.draw")]
    loaded = modules_after("import " + ", ".join(wing))
    assert set(wing) <= loaded
    assert not {"ipywidgets", "attnlib.course.measure", "attnlib.course.explore"} & loaded


def modules_after(code: str) -> set[str]:
    """The modules that a fresh process has loaded after this code."""
    run = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
