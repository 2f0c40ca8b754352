"""What nbval cannot see: a stripped notebook would pass its strict mode."""

import nbformat
import pytest

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
