"""The clone that the course lives in: where it is, and what in it is somebody's work."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from attnlib.course import HOME
from attnlib.course.publish import notebooks

ROOT = notebooks.NOTEBOOKS.parent


def need(part: str = "notebooks", without: str = "") -> Path:
    """The clone's folder; FileNotFoundError where this attnlib is not in one that has `part`."""
    if (ROOT / part).is_dir():
        return ROOT
    if part != "notebooks" and (ROOT / "notebooks").is_dir():
        raise FileNotFoundError(f"this copy of the course has no {part}: {without}")
    raise FileNotFoundError(f"this needs a clone of the course: git clone {HOME}")


def guard(planned: Mapping[Path, object], force: bool = False) -> None:
    """Raise ValueError where writing would lose somebody's work, unless `force`.

    `planned` is what a command is about to write: path -> notebook or bytes. A file
    that git tracks is safe while it is as committed. Where git does not look, a file
    is safe if what a person types in it, a notebook's cells for one, would stay.
    """
    lost = [path for path, new in planned.items() if path.exists() and not _safe(path, new)]
    if lost and not force:
        names = ", ".join(_short(path) for path in lost)
        raise ValueError(
            f"changed, and would be overwritten: {names}; nothing was written. "
            "Commit the changes or move them away, or overwrite them with --force"
        )


def committed(path: Path) -> bytes | None:
    """The file as the last commit has it; None where there is none."""
    return _git(path, "show", f"HEAD:./{path.name}")


def _safe(path: Path, new) -> bool:
    status = _git(path, "status", "--porcelain", "--ignored", "--", path.name)
    if status is None or status.startswith(b"!!"):
        return _typed(path, path.read_bytes()) == _typed(path, new)
    return status == b""


def _typed(path: Path, content):
    return notebooks.typed(content) if path.suffix == ".ipynb" else content


def _git(path: Path, *command: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *command], cwd=path.parent, capture_output=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
