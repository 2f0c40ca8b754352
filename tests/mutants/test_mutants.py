"""The tests are tested: each mutant of the library must fail the law it breaks.

A mutant is a file NAME.patch: what is wrong; the file; the test that must notice,
chosen to be quick; and a piece of the source with its replacement, on lines that
begin with "-" and "+", which must apply exactly once.
"""

import os
import shutil
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTANTS = sorted(HERE.glob("*.patch"))
# Each mutant runs in a fork of a process that has imported what takes long to import.
FORKS = get_context("forkserver" if hasattr(os, "fork") else "spawn")
FORKS.set_forkserver_preload(["torch", "numpy", "hypothesis", "pytest"])
FAILED, SECONDS = int(pytest.ExitCode.TESTS_FAILED), 180


class Mutant(NamedTuple):
    wrong: str
    file: str
    law: str
    old: str
    new: str


def read(path: Path) -> Mutant:
    lines = path.read_text().splitlines()
    old, new = ("\n".join(x[1:] for x in lines[3:] if x[0] == sign) for sign in "-+")
    return Mutant(*lines[:3], old, new)


def write_mutant(mutant: Mutant, folder: Path):
    """A copy of the library in the folder, with the mutant's piece replaced."""
    shutil.copytree(
        ROOT / "attnlib", folder / "attnlib", ignore=shutil.ignore_patterns("__pycache__")
    )
    file = folder / mutant.file
    source = file.read_text()
    assert source.count(mutant.old) == 1, f"applies {source.count(mutant.old)} times, not once"
    file.write_text(source.replace(mutant.old, mutant.new))


def run_law(law: str, folder: Path):
    """Exit with pytest's code for one test of the suite on the library in the folder."""
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(ROOT / "tests")]
    sys.stdout = sys.stderr = open("output", "w")  # noqa: SIM115 (it ends with the process)
    import attnlib

    assert Path(attnlib.__file__).is_relative_to(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # The plugin would collect all garbage five times, which takes as long as the rest.
    options = "-x -q --tb=line -p no:cacheprovider -p no:unraisableexception -o addopts="
    sys.exit(pytest.main([*options.split(), f"{ROOT / 'tests' / law}"]))


@pytest.mark.parametrize("path", MUTANTS, ids=lambda path: path.stem)
def test_every_mutant_is_killed(path, tmp_path):
    mutant = read(path)
    write_mutant(mutant, tmp_path)
    process = FORKS.Process(target=run_law, args=(mutant.law, tmp_path))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    output = tmp_path / "output"
    assert process.exitcode == FAILED, output.read_text() if output.exists() else process


def test_there_are_mutants_of_every_maths_file():
    names = "softmax masks attention flash books traffic programs"
    files = {read(path).file for path in MUTANTS}
    assert files >= {f"attnlib/{name}.py" for name in names.split()}
