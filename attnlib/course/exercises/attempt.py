"""One call of the learner's function, whatever it does: late, raising, writing to its input."""

import ast
import ctypes
import inspect
import linecache
import signal
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from attnlib.course.exercises.state import steady
from attnlib.course.exercises.task import BadAnswer, Said, Task

SECONDS = 10.0  # for one call; right answers take a hundredth of that, if torch is awake
FORGOTTEN = (
    "Your code ends in the stub's own line, raise NotImplementedError(): delete it, and return "
    "the answer."
)


class Answer(NamedTuple):
    """What one call of the learner's function came to."""

    value: Any = None
    error: BaseException | None = None
    where: str = ""  # the line that raised, or how a test said no
    is_stub: bool = False
    late: bool = False
    changed: str = ""  # the name of an argument that it wrote to


def attempt(task: Task, f: Callable, args: tuple, seed: int = 0) -> Answer:
    """Call the learner's function, whatever it does, and whatever its notebook has set."""
    given = copied(args)
    try:
        with steady(seed):
            value = within(SECONDS, lambda: task.ask(f, *given))
    except OutOfTime:
        return Answer(late=True)
    except (Exception, SystemExit) as error:
        where, is_stub = place(error, f)
        if is_stub and not only_a_stub(f):
            error, is_stub = BadAnswer(FORGOTTEN), False
        return Answer(error=error.with_traceback(None), where=where, is_stub=is_stub)
    if isinstance(value, Said) and value.error:
        where = message(value.error) + place(value.error, f)[0]
        value.error = value.error.with_traceback(None)  # and with it, what its frames hold
        return Answer(value, where=where)
    pairs = zip(names(f, args), args, given)
    return Answer(value, changed=next((n for n, x, y in pairs if not unchanged(x, y)), ""))


class OutOfTime(BaseException):
    """Raised inside a call that took too long; no `except Exception` stops it."""


def within(seconds: float, call: Callable) -> Any:
    """call(), or OutOfTime. By a timer's signal where there is one, in the main
    thread; else in a thread that is asked to stop at its next line."""
    main = threading.current_thread() is threading.main_thread()
    return (_by_signal if main and hasattr(signal, "setitimer") else _by_thread)(seconds, call)


def _by_signal(seconds, call):
    def ring(*_):
        raise OutOfTime

    before, start = signal.signal(signal.SIGALRM, ring), time.monotonic()
    # It rings again, for the loop whose bare except swallowed the first.
    other, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        try:
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also if it rings between these two lines
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if other:
            rest = max(other - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


def _by_thread(seconds, call):
    done = []

    def work():
        try:
            done.append((call(), None))
        except BaseException as error:
            done.append((None, error))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if not done:
        stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
        stop(ctypes.c_ulong(worker.ident), ctypes.py_object(OutOfTime))
        raise OutOfTime
    value, error = done[0]
    if error is not None:
        raise error
    return value


def message(error) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def place(error, f) -> tuple[str, bool]:
    """The learner's line that raised, and whether it is a stub's."""
    home = getattr(getattr(f, "__code__", None), "co_filename", None)
    frames = [x for x in traceback.extract_tb(error.__traceback__) if _is_learners(x, home)]
    if not frames:
        return "", isinstance(error, NotImplementedError) and not str(error)
    number, line = frames[-1].lineno, (frames[-1].line or "").strip()
    line = line or linecache.getline(frames[-1].filename, number).strip()
    is_stub = isinstance(error, NotImplementedError) and (
        not str(error) or line.startswith("raise NotImplementedError")
    )
    return f", in line {number}" + (f": {line}" if line else ""), is_stub


def _is_learners(frame, home) -> bool:
    return frame.filename == home or "ipykernel_" in frame.filename


def only_a_stub(f) -> bool:
    """Whether a function is as the exercise gave it: a docstring and a raise."""
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(f))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return True
    statements = [x for x in getattr(function, "body", []) if not isinstance(x, ast.Expr)]
    return len(statements) <= 1


def copied(x):
    """A deep copy as far as tensors go."""
    if isinstance(x, Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(copied, x))
    if isinstance(x, dict):
        return {key: copied(y) for key, y in x.items()}
    return type(x)(map(copied, x)) if isinstance(x, (tuple, list)) else x


def unchanged(x, y) -> bool:
    if isinstance(x, dict):
        return list(x) == list(y) and unchanged(list(x.values()), list(y.values()))
    if isinstance(x, Tensor):
        return (
            isinstance(y, Tensor)
            and x.shape == y.shape
            and bool(((x == y) | ((x != x) & (y != y))).all())
        )
    if isinstance(x, (tuple, list)):
        return len(x) == len(y) and all(map(unchanged, x, y))
    return True


def names(f, args) -> list[str]:
    try:
        names = list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        names = []
    return [*names[: len(args)], *(f"number {n + 1}" for n in range(len(names), len(args)))]


def tensors(x):
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (tuple, list)):
        for y in x:
            yield from tensors(y)
