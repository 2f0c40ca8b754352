"""Mistakes that are slips of a line, written as patches of right code.

    stream_undivided, M17, names: what comes out when
        is said here, on one or more lines
    - return divide(o, l)
    + return o

The name, then the fact's number, `shown` and the section that explains it, each only
where there is one. A `-` must stand in the right code exactly once; the `+` after it,
none or several lines, take its place. What was patched carries its source, for inspect
and for tracebacks.
"""

import inspect
import itertools
import linecache
import re
import textwrap
from collections.abc import Callable
from typing import NamedTuple

NUMBER = itertools.count()


class Slip(NamedTuple):
    """One patch, read."""

    name: str
    fact: str
    see: str | None
    shown: bool
    when: str
    changes: list[tuple[str, list[str]]]  # (right, wrong lines)


def read_slips(text: str) -> list[Slip]:
    """The slips of a text, parted by empty lines."""
    return [_read(entry) for entry in re.split(r"\n\s*\n", textwrap.dedent(text).strip())]


def _read(entry: str) -> Slip:
    said, changes = [], []
    for line in entry.split("\n"):
        if line.startswith("- "):
            changes.append((line[2:].strip(), []))
        elif line.startswith("+ "):
            changes[-1][1].append(line[2:].rstrip())
        else:
            said.append(line.strip())
    head, _, when = " ".join(said).partition(": ")
    name, *marks = head.split(", ")
    fact = next((mark for mark in marks if re.fullmatch(r"M\d+", mark)), "")
    see = next((mark for mark in marks if mark not in (fact, "shown")), None)
    return Slip(name, fact, see, "shown" in marks, when, changes)


def patched(right: Callable, changes: list[tuple[str, list[str]]], name: str) -> Callable:
    """The function with each change made to its source, under a name of its own.

    Raises ValueError unless each applies exactly once.
    """
    source = textwrap.dedent(inspect.getsource(right))
    source = source[re.search(r"^def ", source, re.M).start() :]
    for old, new in changes:
        if (count := source.count(old)) != 1:
            raise ValueError(f"{name}: {old!r} stands {count} times in {right.__name__}")
        indent = re.search(rf"^( *).*{re.escape(old)}", source, re.M)[1]
        source = source.replace(old, f"\n{indent}".join(new))
    source = re.sub(r"^def \w+", f"def {name}", source)
    file = f"<patch {next(NUMBER)}: {name}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    made = {}
    exec(compile(source, file, "exec"), right.__globals__, made)
    return made[name]
