"""What nbval cannot see: a stripped notebook would pass its strict mode."""

import subprocess
import sys

import nbformat
import pytest

from attnlib.course.__main__ import main
from attnlib.course.publish import notebooks

LESSONS = notebooks.lessons()
EVERY = notebooks.every()
NOTEBOOK = pytest.mark.parametrize("path", EVERY, ids=lambda p: f"{p.parent.name}/{p.stem}")


def test_there_are_lessons():
    assert len(LESSONS) >= 2 and len(EVERY) > len(LESSONS)


@NOTEBOOK
def test_outputs_and_run_order_are_stored(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(c.outputs) for c in cells) >= len(cells) / 3


@NOTEBOOK
def test_no_error_warning_or_widget_state_is_stored(path):
    notebook = nbformat.read(path, 4)
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert "widgets" not in notebook.metadata
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@NOTEBOOK
def test_few_cells_are_not_compared(path):
    ignored = [
        c
        for c in nbformat.read(path, 4).cells
        if "nbval-ignore-output" in c.metadata.get("tags", [])
    ]
    assert len(ignored) <= 3


def test_the_door_finds_lessons_by_number_and_names_unknown_ones(capsys):
    assert notebooks.lessons(["08"]) == notebooks.lessons(["08_two_cores_on_gpu.ipynb"])
    for name in ("99", "/elsewhere/00_start_here.ipynb", "08.5"):
        with pytest.raises(SystemExit):
            main(["run", name])
        assert f"no lesson '{name}'" in capsys.readouterr().err


def test_normal_form_keeps_ids_and_tags_and_drops_the_rest():
    cell = nbformat.v4.new_code_cell("1", id="kept")
    cell.metadata = nbformat.from_dict({"tags": ["a"], "execution": {"t": "1"}, "collapsed": True})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"state": {}}
    normal = notebooks.normalise(notebook)
    assert normal.cells[0].id == "kept" and normal.cells[0].metadata == {"tags": ["a"]}
    assert "widgets" not in normal.metadata


def test_setup_cell_prints_the_one_command_where_attnlib_is_missing(tmp_path):
    cell = next(c for c in nbformat.read(notebooks.lessons()[0], 4).cells if c.cell_type == "code")
    code = "import sys; sys.modules['attnlib'] = None\n" + cell.source
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode != 0 and "%pip install -e .." in ran.stdout
