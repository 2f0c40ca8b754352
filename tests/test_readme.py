"""README's commands."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_readme_has_both_commands_and_ci_finds_the_test_one():
    readme = (ROOT / "README.md").read_text()
    for name, last in (("open", "00_start_here.ipynb"), ("test", "--dist loadfile")):
        command = readme.split(f"<!-- command: {name} -->\n```sh\n")[1].split("\n```")[0]
        assert (
            "\n" not in command and command.startswith("python3 -m venv") and command.endswith(last)
        )
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
