"""Run the notebooks and store them in one normal form."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"


def lessons(names=()) -> list[Path]:
    """Paths of the lessons named by a number, a name or a path; all for none."""
    return _find(names, sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")))


def every(names=()) -> list[Path]:
    """The same, of exercises and their solutions too: those go by path, or by
    folder and number as in `solutions/03`."""
    found = NOTEBOOKS.rglob("[0-9][0-9]_*.ipynb")
    return _find(names, sorted(p for p in found if ".ipynb_checkpoints" not in p.parts))


def _find(names, everything: list[Path]) -> list[Path]:
    found = []
    for name in names:
        same = Path(name).resolve()
        matches = [p for p in everything if p == same or name in _names(p)]
        if not matches:
            raise ValueError(f"no lesson {name!r}; there are {[p.stem for p in everything]}")
        found += matches
    return found if names else everything


def _names(path: Path) -> list[str]:
    folder = "" if path.parent == NOTEBOOKS else f"{path.parent.name}/"
    return [folder + name for name in (path.stem[:2], path.stem, path.name)]


def execute(path: Path, timeout: float = 600) -> nbformat.NotebookNode:
    """A fresh execution of a notebook, in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,  # else where the prints of a cell part is chance
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs from run to run and is no result; cell ids stay.

    Widget state (GitHub refuses half of it), timestamps, the Python version,
    and the numbering of an edited notebook.
    """
    keep = {"slideshow", "tags", "nbgrader", "jupyter"}
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in keep}
        )
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("timestamp", None)
    return notebook


def run(path: Path) -> None:
    """Execute a notebook and write it back in its normal form."""
    notebook = normalise(execute(path))
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
