"""README's open command, run as it stands, and what a Save in its JupyterLab does to a notebook."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from attnlib.course.publish import notebooks

ROOT = notebooks.NOTEBOOKS.parent
INSTALLS = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt",
    " && ",
)
FIRST = "notebooks/00_start_here.ipynb"


def readme_command(name) -> str:
    readme = (ROOT / "README.md").read_text()
    return re.search(rf"<!-- command: {name} -->\n```sh\n(.*)\n```", readme)[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Its address, and the copy of the clone that it is opened in: without a browser."""
    home = tmp_path_factory.mktemp("home")
    clone = home / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = {"open_browser": False, "port_retries": 0, "disable_check_xsrf": True}
    config = {"ServerApp": settings, "IdentityProvider": {"token": ""}}
    (home / "jupyter_server_config.json").write_text(json.dumps(config))
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(sys.executable)
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home),
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = readme_command("open").removeprefix("".join(INSTALLS))
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command} --port={port}"],
        cwd=clone,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urlopen(f"{url}/api/status").close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.5)
        yield url, clone
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def contents(url, path, save=None):
    body = None if save is None else json.dumps(save).encode()
    request = Request(f"{url}/api/contents/{path}", body, method="PUT" if save else "GET")
    with urlopen(request) as answer:
        return json.load(answer)


def test_both_commands_install_alike():
    assert readme_command("open").startswith("".join(INSTALLS))
    assert readme_command("test").startswith(INSTALLS[0])


@pytest.mark.slow
def test_readmes_open_command_opens_the_first_lesson(lab):
    url, _ = lab
    with urlopen(f"{url}/lab/tree/{FIRST}") as page:
        assert page.status == 200 and b"JupyterLab" in page.read()


@pytest.mark.slow
def test_the_file_browser_reaches_the_library(lab):
    names = {entry["name"] for entry in contents(lab[0], "attnlib")["content"]}
    assert {"softmax.py", "masks.py"} <= names


@pytest.mark.slow
def test_a_save_from_another_python_leaves_the_file_as_it_was(lab):
    url, clone = lab
    path = "notebooks/03_one_fold.ipynb"
    notebooks.clean(clone / path, None)
    stored = (clone / path).read_bytes()
    model = contents(url, path)
    model["content"]["metadata"]["language_info"]["version"] = "3.13.0"
    for n, cell in enumerate(c for c in model["content"]["cells"] if c["cell_type"] == "code"):
        cell["metadata"]["execution"] = {"iopub.status.busy": "2026-11-25T09:00:00Z"}
        cell["execution_count"] = 40 + n
        for output in cell["outputs"]:
            if notebooks.VIEW in output.get("data", {}):
                output["data"][notebooks.VIEW]["model_id"] = "e8e73daa9e0d40169417e85fe38bc2dd"
            if output["output_type"] == "execute_result":
                output["execution_count"] = 40 + n
    contents(url, path, model)
    assert (clone / path).read_bytes() == stored


@pytest.mark.slow
def test_a_save_keeps_an_answer_and_other_peoples_notebooks(lab):
    url, clone = lab
    path = "notebooks/exercises/01_safe_softmax.ipynb"
    model = contents(url, path)
    model["content"]["cells"][2]["source"] = "answer = 42"
    contents(url, path, model)
    assert "answer = 42" in (clone / path).read_text()
    model["content"]["metadata"]["mine"] = "stays"
    contents(url, "mine.ipynb", model)
    assert '"mine": "stays"' in (clone / "mine.ipynb").read_text()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["03_one_fold", "exercises/01_safe_softmax"])
def test_open_and_save_in_jupyterlab_leaves_the_file_as_it_was(chromium, lab, name):
    url, clone = lab
    path = f"notebooks/{name}.ipynb"
    shutil.copy(ROOT / path, clone / path)
    notebooks.clean(clone / path, None)
    stored, before = (clone / path).read_bytes(), (clone / path).stat().st_mtime_ns
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{url}/lab/tree/{path}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector("text=| Idle", timeout=60_000)
    page.click(".lm-MenuBar-itemLabel:text-is('File')")
    page.click(".lm-Menu-itemLabel:text-is('Save Notebook')")
    for _ in range(100):
        if (clone / path).stat().st_mtime_ns != before:
            break
        page.wait_for_timeout(100)
    page.close()
    assert (clone / path).stat().st_mtime_ns != before, "nothing was saved"
    assert (clone / path).read_bytes() == stored
