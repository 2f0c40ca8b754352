"""Commands and somebody's work; the course outside a clone; Ctrl-C, and what is said meanwhile."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from attnlib.course import HOME
from attnlib.course.__main__ import main
from attnlib.course.measure import recordings
from attnlib.course.publish import clone, notebooks

ROOT = notebooks.NOTEBOOKS.parent
EVERY = notebooks.every()
NOTEBOOK = pytest.mark.parametrize("path", EVERY, ids=lambda p: f"{p.parent.name}/{p.stem}")


def git(folder, *command):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


def refused(*args, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*args])
    assert stop.value.code == 2
    return capsys.readouterr().err


def write(path, *sources):
    notebook = new_notebook(cells=[new_code_cell(s, id=f"c{n}") for n, s in enumerate(sources)])
    nbformat.write(notebooks.normalise(notebook), path)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A clone of one lesson, 09, that is committed."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    monkeypatch.setattr(clone, "ROOT", tmp_path)
    write(folder / "09_x.ipynb", "1 + 1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    return folder / "09_x.ipynb"


# Somebody's work -------------------------------------------------------------


def test_what_is_committed_may_be_overwritten(room):
    clone.guard({room: None, room.parent / "10_new.ipynb": None})
    assert room.exists()


def test_what_is_changed_may_not_and_is_named(room):
    write(room, "1 + 2")
    with pytest.raises(ValueError, match=r"notebooks/09_x\.ipynb.*--force"):
        clone.guard({room: None})
    clone.guard({room: None}, force=True)


def test_what_git_does_not_know_may_not(room):
    new = room.with_name("10_new.ipynb")
    write(new, "1")
    with pytest.raises(ValueError, match="10_new"):
        clone.guard({new: None})


def test_without_git_what_is_typed_decides(room):
    shutil.rmtree(room.parents[1] / ".git")
    same = notebooks.normalise(nbformat.read(room, 4))
    clone.guard({room: same})
    write(room, "my answer")
    with pytest.raises(ValueError, match="09_x"):
        clone.guard({room: same})


def test_run_refuses_a_changed_lesson(room, capsys):
    write(room, "1 + 2")
    before = room.read_bytes()
    assert "09_x.ipynb" in refused("run", "09", capsys=capsys)
    assert room.read_bytes() == before


def test_exercises_refuse_to_replace_an_answer(tmp_path, capsys):
    if not (notebooks.NOTEBOOKS / "solutions").is_dir():
        pytest.skip("this copy of the course has no solutions, which teachers keep")
    name = "01_safe_softmax.ipynb"
    answered = nbformat.read(notebooks.NOTEBOOKS / "exercises" / name, 4)
    answered.cells[-1].source = "my answer"
    nbformat.write(answered, tmp_path / name)
    assert name in refused("exercises", "--out", str(tmp_path), capsys=capsys)
    assert "my answer" in (tmp_path / name).read_text()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_figures_refuse_to_replace_a_picture_of_ones_own(tmp_path, capsys):
    (tmp_path / "peak_memory.svg").write_text("mine")
    assert "peak_memory.svg" in refused("figures", "--out", str(tmp_path), capsys=capsys)
    assert (tmp_path / "peak_memory.svg").read_text() == "mine"


def test_a_notebook_saved_while_it_runs_stays_as_saved(room, monkeypatch):
    def saved_meanwhile(path, notebook):
        notebook = nbformat.read(path, 4)
        write(path, "typed meanwhile")
        return notebook

    monkeypatch.setattr(notebooks, "execute", saved_meanwhile)
    with pytest.raises(ValueError, match="saved while it ran"):
        notebooks.run(room)
    assert "typed meanwhile" in room.read_text()


def test_clean_brings_back_all_but_what_is_typed(room, capsys):
    stored = room.read_bytes()
    changed = nbformat.read(room, 4)
    changed.metadata = {}
    changed.cells[0].execution_count = 7
    nbformat.write(changed, room)
    assert main(["clean"]) == 0 and "as committed" in capsys.readouterr().out
    assert room.read_bytes() == stored
    changed.cells[0].source = "my answer"
    nbformat.write(changed, room)
    assert main(["clean", "09"]) == 0 and "is kept" in capsys.readouterr().out
    kept = nbformat.read(room, 4)
    assert kept.cells[0].source == "my answer" and kept.metadata == notebooks.KERNEL
    assert main(["clean"]) == 0 and capsys.readouterr().out == ""


@NOTEBOOK
def test_stored_notebooks_have_the_form_that_a_save_gives_them(path):
    notebook = notebooks.normalise(nbformat.read(path, 4))
    assert path.read_text() == nbformat.writes(notebook) + "\n", "python -m attnlib.course clean"


# Elsewhere --------------------------------------------------------------------

ELSEWHERE = """
import json, sys
from attnlib.course.__main__ import main
said = []
for command in (["run"], ["clean"], ["figures"], ["slides"], ["exercises"], ["lab"]):
    try:
        said.append(main(command))
    except SystemExit as stop:
        said.append(stop.code)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_outside_a_clone_every_command_says_so_and_makes_nothing(tmp_path):
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "attnlib", site / "attnlib")
    done = subprocess.run(
        [sys.executable, "-B", "-c", ELSEWHERE],
        cwd=site,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == [2] * 6, done.stderr
    assert done.stderr.count(f"this needs a clone of the course: git clone {HOME}") == 6
    assert {p.name for p in site.iterdir()} == {"attnlib"}


def test_without_recordings_a_lesson_is_told_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "RUNS", tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match=f"clone of the course: git clone {HOME}"):
        recordings.load()


def test_without_solutions_exercises_say_why(room, capsys):
    assert "no notebooks/solutions: teachers keep them" in refused("exercises", capsys=capsys)


@NOTEBOOK
def test_a_first_cell_knows_what_to_install(path):
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert notebooks.hint(path) in code[0]
    assert f"%pip install git+{HOME}" in code[0]


def test_the_address_and_the_oldest_python_are_the_same_everywhere():
    readme = (ROOT / "README.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"git clone {HOME} && cd {HOME.split('/')[-1].removesuffix('.git')}" in readme
    assert project["requires-python"] == ">=3.11" and "Python 3.11 or newer" in readme


# Waiting ------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_writes_nothing(tmp_path):
    path = notebooks.every(["exercises/08"])[0]
    before = path.read_bytes()
    command = [sys.executable, "-m", "attnlib.course", "run", "--force", "exercises/08"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = [run.stderr.readline(), run.stderr.readline()]
    assert "1 to do, usually" in said[0] and said[1] == "[1 of 1] exercises/08_two_cores_on_gpu\n"
    run.send_signal(signal.SIGINT)
    _, rest = run.communicate(timeout=60)
    assert run.returncode == 130 and rest.strip() == "run was stopped"
    assert path.read_bytes() == before


@pytest.mark.slow
def test_an_execution_is_quiet(tmp_path, capfd):
    write(tmp_path / "09_x.ipynb", "print(6 * 7)")
    done = notebooks.execute(tmp_path / "09_x.ipynb")
    assert done.cells[0].outputs[0].text == "42\n"
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_lesson_that_fails_is_named_in_a_line_and_the_next_one_runs(room, capsys):
    write(room, "x = 1\nraise OSError('no disk')")
    write(room.with_name("10_y.ipynb"), "6 * 7")
    assert main(["run", "--force"]) == 1
    said = capsys.readouterr().err
    assert "09_x.ipynb failed: OSError: no disk (in the cell that begins 'x = 1')" in said
    assert "Traceback" not in said and '"42"' in room.with_name("10_y.ipynb").read_text()


def test_an_unknown_lesson_is_answered_with_each_name_once(capsys):
    said = refused("run", "nope", capsys=capsys)
    for path in notebooks.lessons():
        assert len(re.findall(rf"\b{path.stem}\b", said)) == 1
    assert said.count("exercises/NN") == 1
