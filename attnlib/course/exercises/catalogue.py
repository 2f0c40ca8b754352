"""The exercises of every lesson; `TASKS` maps a function's name to its task."""

from importlib import import_module
from pathlib import Path

from attnlib.course.exercises.task import Task

TASKS: dict[str, Task] = {}
for _path in sorted(Path(__file__).parent.glob("ex[0-9][0-9].py")):
    for _task in vars(import_module(f"{__package__}.{_path.stem}")).values():
        if isinstance(_task, Task):
            _task.lesson = _path.stem[-2:]
            TASKS[_task.name] = _task
