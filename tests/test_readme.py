"""README's commands."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_readme_has_both_commands_and_ci_finds_the_test_one():
    readme = (ROOT / "README.md").read_text()
    for name, last in (("open", "attnlib.course lab"), ("test", "--dist loadfile")):
        command = readme.split(f"<!-- command: {name} -->\n```sh\n")[1].split("\n```")[0]
        assert command.splitlines()[-1].endswith(last) and "python3 -m venv .venv" in command
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
