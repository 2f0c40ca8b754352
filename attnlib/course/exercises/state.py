"""What a learner's cells have set, and the checks must not see.

`steady(seed)` puts torch and attnlib back to how they were imported, for as long as a
call takes: default dtype and device, gradients, and functions that a cell has replaced.
`afresh()` is the check as it stands on disk, whatever a cell has put in its place.
"""

import contextlib
import importlib
import io
import pkgutil
import random
import sys

import numpy as np
import torch
import torch.utils.checkpoint

import attnlib

OWNERS = [torch, torch.Tensor, torch.nn.functional, torch.utils.checkpoint]
OWNERS += [
    importlib.import_module(f"attnlib.{module.name}")
    for module in pkgutil.iter_modules(attnlib.__path__)
    if not module.ispkg
]
IMPORTED = [
    (owner, {name: x for name, x in vars(owner).items() if callable(x)}) for owner in OWNERS
]


@contextlib.contextmanager
def steady(seed: int = 0):
    """A call with torch as it came, and the same random numbers for the same seed."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    moved = [
        (owner, name, vars(owner).get(name), x)
        for owner, names in IMPORTED
        for name, x in names.items()
        if vars(owner).get(name) is not x
    ]
    states = random.getstate(), np.random.get_state()
    for owner, name, _, x in moved:
        setattr(owner, name, x)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("cpu") if device.type != "cpu" else None
    try:
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
            yield
    finally:
        random.setstate(states[0]), np.random.set_state(states[1])
        torch.set_default_dtype(dtype)
        torch.set_default_device(device) if device.type != "cpu" else None
        for owner, name, x, _ in moved:
            setattr(owner, name, x)


def afresh():
    """The check, imported anew; for hidden tests."""
    package = __package__
    for name in [n for n in sys.modules if n.startswith(package) and n != __name__]:
        del sys.modules[name]
    return importlib.import_module(package).check


class FirstLines(io.TextIOBase):
    """Standard output for a call that may print a great deal: its first lines."""

    def __init__(self, most: int = 100):
        self.out, self.left = sys.stdout, most

    def write(self, text: str) -> int:
        lines = text.splitlines(keepends=True)
        if self.left > 0:
            self.out.write("".join(lines[: self.left]))
            self.left -= text.count("\n")
            if self.left <= 0:
                self.out.write("... what the function printed beyond this is left out\n")
        return len(text)


def broken_cell(name: str) -> SyntaxError | None:
    """The syntax error of the notebook cell that should have defined a function last."""
    shell = sys.modules.get("IPython")
    shell = shell.get_ipython() if shell else None
    cells = shell.user_ns.get("In", []) if shell else []
    last = next((cell for cell in reversed(cells) if f"def {name}(" in cell), "")
    try:
        compile(last, "<cell>", "exec")
    except SyntaxError as error:
        return error
    return None
