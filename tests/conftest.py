"""Notebooks replay their recordings under test, whatever machine this is."""

import os
import shutil
import sys
from importlib.util import find_spec
from unittest.mock import MagicMock

os.environ.setdefault("ATTNLIB_REPLAY", "1")
# Workers share the cores: a thread that waits must not spin. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Bytes are exact only so: see attnlib.memory.measured_peak.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import pytest
import torch
from cases import need

# Read when Triton is imported, which other tests may bring about before the kernels'.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A machine that only measures has torch, matplotlib and pytest. There the classroom's
# tests are left out and properties skipped; in CI what is missing fails.
BARE = os.environ.get("CI") != "true"
JUPYTER = ("IPython", "ipywidgets", "nbclient", "nbconvert", "nbformat")
MISSING = [module for module in JUPYTER if find_spec(module) is None]
collect_ignore = ["course/explore", "course/exercises", "course/publish"] * bool(BARE and MISSING)
if BARE and find_spec("hypothesis") is None:
    skip = pytest.mark.skip(reason="hypothesis: pip install -e '.[test]'")
    sys.modules["hypothesis"] = MagicMock(given=lambda *_: skip, settings=lambda **_: lambda f: f)


def pytest_report_header():
    return f"left out: {', '.join(collect_ignore)}, for want of {', '.join(MISSING)}" * bool(
        collect_ignore
    )


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="session")
def chromium():
    """The browser of the tests marked `browser`."""
    sync_api = need("playwright.sync_api", "browser")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def environment():
    """What a command sets for the kernels that it starts ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
