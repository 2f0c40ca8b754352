"""Run the notebooks and store them in one normal form."""

import json
import re
from pathlib import Path

import nbformat
import zmq
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from attnlib.course import HOME

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
VIEW = "application/vnd.jupyter.widget-view+json"
# What JupyterLab writes when it saves, of the Python that the course is stored with.
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.11.7",
    },
}
KEEP = {"slideshow", "tags", "nbgrader", "jupyter"}
HINT = """except ModuleNotFoundError:
    print("First run  %pip install -e {up}  in a clone, or else")
    print("%pip install git+{home}")
    print("and restart the kernel.")
    raise
"""


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
            raise ValueError(f"no lesson {name!r}; there are {_offer(everything)}")
        found += matches
    return found if names else everything


def _names(path: Path) -> list[str]:
    folder = "" if path.parent == NOTEBOOKS else f"{path.parent.name}/"
    return [folder + name for name in (path.stem[:2], path.stem, path.name)]


def _offer(everything: list[Path]) -> str:
    rooms = sorted({p.parent.name for p in everything} - {NOTEBOOKS.name})
    stems = sorted({p.stem for p in everything})
    return ", ".join(stems) + "".join(f", {room}/NN" for room in rooms)


def execute(path: Path, notebook=None, timeout: float = 600) -> nbformat.NotebookNode:
    """A fresh execution of the notebook at `path`, or of one that is to lie there.

    Raises KeyboardInterrupt at Ctrl-C, where nbclient would fail for having no kernel.
    """
    notebook = notebook or nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,  # else where the prints of a cell part is chance
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.km = client.create_kernel_manager()
    if can_encrypt():
        client.km.transport_encryption = "auto"
    try:
        client.execute()
    except Exception:
        if hasattr(client, "_async_cleanup_kernel_future"):  # set at a signal only
            raise KeyboardInterrupt from None
        raise
    return notebook


def can_encrypt() -> bool:
    """Whether kernels can be spoken to in cipher. Else they warn of plain TCP, each time."""
    return "transport_encryption" in KernelManager.class_trait_names() and zmq.has("curve")


def attempt(do, path: Path) -> str | None:
    """What went wrong in do(path), the notebook's own mistakes, in a line; None if nothing."""
    try:
        do(path)
    except CellExecutionError as error:
        source = error.traceback.partition("-" * 18)[2].strip()
        said = f"{error.ename}: {error.evalue}".splitlines()[0]
        return f"failed: {said[:200]} (in the cell that begins {source.splitlines()[0]!r})"
    except (CellTimeoutError, DeadKernelError, ValueError, OSError) as error:
        return f"failed: {str(error).splitlines()[0]}"
    return None


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What JupyterLab would save, less what differs from run to run and is no result.

    Dropped are widget state (GitHub refuses half of it) and timestamps; fixed are the
    Python version and the names of widgets; a run from top to bottom counts from 1.
    """
    notebook.metadata = nbformat.from_dict(KERNEL)
    for cell in notebook.cells:
        kept = {key: value for key, value in cell.metadata.items() if key in KEEP}
        cell.metadata = nbformat.from_dict(kept)
        for n, output in enumerate(cell.get("outputs", [])):
            output.get("metadata", {}).pop("timestamp", None)
            if VIEW in output.get("data", {}):
                output.data[VIEW]["model_id"] = f"{cell.get('id', '')}-{n}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    counts = [cell.execution_count or 0 for cell in code]
    first = counts[0] if counts else 0
    if first and counts == list(range(first, first + len(counts))):  # one run, top to bottom
        for n, cell in enumerate(code, 1):
            cell.execution_count = n
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = n
    return notebook


def typed(content) -> list:
    """What a person typed into a notebook, given as such or as a file's content."""
    if not isinstance(content, dict):
        content = nbformat.reads(content.decode(), 4)
    notebook = normalise(nbformat.from_dict(json.loads(json.dumps(content))))
    return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def run(path: Path, notebook=None) -> None:
    """Execute the notebook at `path`, or one to be, and write it there in its normal form.

    Raises ValueError where somebody saved it meanwhile.
    """
    before = path.exists() and path.read_bytes()
    notebook = normalise(execute(path, notebook))
    nbformat.validate(notebook)
    if before and path.read_bytes() != before:
        raise ValueError(f"{path.name} was saved while it ran, and is left as it was saved")
    nbformat.write(notebook, path)


def clean(path: Path, committed: bytes | None) -> str | None:
    """Bring a notebook into its normal form, and what is not typed back to the commit.

    Returns what was done, None where nothing had to be.
    """
    before, done = path.read_bytes(), "put in order; what you typed is kept"
    notebook = nbformat.reads(before.decode(), 4)
    if committed and committed != before and typed(committed) == typed(before):
        notebook, done = nbformat.reads(committed.decode(), 4), "as committed"
    after = f"{nbformat.writes(normalise(notebook))}\n".encode()
    if after == before:
        return None
    path.write_bytes(after)
    return done


def tidy(model: dict, path: str, **_) -> None:
    """JupyterLab's hook: what it is about to save, in its normal form."""
    if model["type"] == "notebook" and re.search(r"(^|/)\d\d_\w+\.ipynb$", path):
        model["content"] = normalise(nbformat.from_dict(model["content"]))


def hint(path: Path) -> str:
    """What a notebook's first code cell says where attnlib is missing, in a clone or not."""
    up = "/".join([".."] * len(path.relative_to(NOTEBOOKS).parts))
    return HINT.format(up=up, home=HOME)


def write_hints() -> None:
    """Put `hint` into every notebook; nothing else of it changes."""
    for path in every():
        notebook = nbformat.read(path, 4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        old = r"except ModuleNotFoundError:\n(    .*\n)+?    raise\n"
        first.source = re.sub(old, lambda _, path=path: hint(path), first.source)
        nbformat.write(notebook, path)
