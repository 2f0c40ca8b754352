"""Measure on this machine, or replay a dated recording made on another.

`section(name)` is what lessons call: on a GPU it measures, elsewhere, or with
ATTNLIB_REPLAY=1, it replays `figures/runs/`. `record()` measures every section
into one recording. ATTNLIB_CARD_GIB=8 makes a large card behave as a small one.

A row that could not be measured has a `problem`, and is a row all the same.
Bytes are exact, times are medians in milliseconds, errors are relative, norm
over norm, against float64.
"""

import datetime
import itertools
import json
import sys
from pathlib import Path

import torch

from attnlib.course import HOME
from attnlib.course.measure.ceilings import DATA_SHEET, H100, roof
from attnlib.course.measure.jobs import Job
from attnlib.course.measure.machine import context_bytes, machine, measuring
from attnlib.course.measure.sections import SECTIONS, USUAL
from attnlib.memory import Event, Timeline, predicted_timeline
from attnlib.roofline import Roof

ROOT = Path(__file__).parents[3]
RUNS, BUILD = ROOT / "figures" / "runs", ROOT / "build" / "runs"


def record(sections=(), into: dict | None = None) -> dict:
    """Measure the usual sections here; says on stderr which one is under way.

    Of `sections` only these, `into` a recording that this machine made before.
    """
    today = datetime.date.today().isoformat()
    recording = {"command": "python -m attnlib.course measure", "date": today, "machine": {}}
    if sections and into:
        recording = into | {"command": f"{into['command']}, then {_later(sections, today)}"}
    elif sections:
        recording["command"] += f" {' '.join(sections)}"
    for name in sections or USUAL:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        recording[name] = SECTIONS[name]()
    # Last, since CUDA's context has grown by every kernel that was called.
    return recording | {"machine": machine()}


def _later(sections, date: str) -> str:
    return f"measure {' '.join(sections)} on {date}"


def earlier(folder: Path) -> dict | None:
    """The recording in `folder`, or else the committed one, that this machine and this
    torch made."""
    here = machine()
    for runs in (folder, RUNS):
        path = Path(runs) / f"{_slug(here)}.json"
        there = json.loads(path.read_text()) if path.is_file() else {"machine": {}}
        if all(there["machine"].get(key) == here[key] for key in ("device", "torch", "python")):
            return there
    return None


def section(name: str) -> list[dict]:
    """Rows of one section: measured now on a GPU, elsewhere replayed."""
    return SECTIONS[name]() if measuring() else load()[name]


def source() -> str:
    """Where the rows of `section` come from, in one line for the reader. The recording
    itself has the commands that made it."""
    if measuring():
        return f"Measured now, on {torch.cuda.get_device_name()}."
    recording = load()
    where = recording["machine"]
    return f"Replayed: {where['device']}, torch {where['torch']}, {recording['date']}."


def context() -> int:
    """Bytes of a card that CUDA takes for itself: here, or where the recording was made."""
    return context_bytes() if measuring() else load()["machine"]["context"]


def gpu_roof(dtype: str = "bfloat16") -> tuple[Roof, str]:
    """A GPU's roof and where it is from: measured here, a recording, or a data sheet."""
    if measuring() or "roofline" in load():
        return roof(section("roofline"), dtype), source()
    return H100[dtype], f"an H100 (SXM) by {DATA_SHEET}"


def history(row: dict) -> Timeline:
    """The timeline in a row of `measure_timelines`. An allocator knows sizes, not
    tensors: the names are those that the same call is predicted to have."""
    job = Job.of(row)
    expected = predicted_timeline(job.run, *job.tensors(row["N"], "meta")).events
    live = itertools.accumulate(row["sizes"])
    return Timeline([Event(n, now, e.name) for n, now, e in zip(row["sizes"], live, expected)])


def load(device: str = "h100") -> dict:
    """The recording whose file name contains `device`."""
    if not RUNS.is_dir():
        raise FileNotFoundError(
            f"no recordings here; they are in a clone of the course: git clone {HOME}"
        )
    found = sorted(path for path in RUNS.glob("*.json") if device in path.stem)
    if not found:
        names = sorted(path.stem for path in RUNS.glob("*.json"))
        raise FileNotFoundError(f"no recording of {device!r} in {RUNS}; there are {names}")
    return json.loads(found[0].read_text())


def save(recording: dict, folder: Path = RUNS) -> Path:
    """Write a recording as <device>.json and return its path."""
    path = Path(folder) / f"{_slug(recording['machine'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = (f'"{key}": {_rows(value)}' for key, value in recording.items())
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n")
    return path


def _slug(machine: dict) -> str:
    name = machine["device"].lower()
    return "_".join("".join(c if c.isalnum() else " " for c in name).split())


def _rows(value) -> str:
    # One row a line, so that a diff of two recordings can be read.
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
