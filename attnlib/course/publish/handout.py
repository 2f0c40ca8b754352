"""A deck on paper: a page for each slide, printed by Chromium.

Through its DevTools, since `chromium --print-to-pdf` does not wait for scripts.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")


def chromium() -> str:
    """Where Chromium is; FileNotFoundError says how to get it."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(
        "handouts are printed by Chromium, and neither it nor Chrome is found: install one, "
        "for example with `apt install chromium`"
    )


def print_deck(deck: Path, browser: str, notes: bool = False, seconds: float = 120) -> Path:
    """Write the PDF beside its deck: a page a slide, and with `notes` one for each's notes.

    Raises TimeoutError where the browser does not answer.
    """
    from websocket import create_connection  # comes with jupyterlab's server

    end = time.monotonic() + seconds
    query = "?print-pdf" + "&showNotes=separate-page" * notes
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        where = [f"--user-data-dir={profile}", deck.resolve().as_uri() + query]
        with subprocess.Popen([browser, *OPTIONS, *where], **quiet) as process:
            try:
                port = _wait(end, lambda: _first_line(Path(profile, "DevToolsActivePort")))
                pages = f"http://127.0.0.1:{port}/json"
                url = _wait(end, lambda: json.load(urlopen(pages))[0]["webSocketDebuggerUrl"])
                page = create_connection(url, suppress_origin=True, timeout=seconds)
                ready = {"expression": "document.body.dataset.ready"}
                _wait(end, lambda: _ask(page, "Runtime.evaluate", **ready)["result"]["value"])
                paper = {"printBackground": True, "preferCSSPageSize": True}
                data = _ask(page, "Page.printToPDF", **paper)["data"]
            finally:
                process.terminate()
    pdf = deck.with_suffix(".notes.pdf" if notes else ".pdf")
    pdf.write_bytes(base64.b64decode(data))
    return pdf


def _ask(page, method: str, **params) -> dict:
    page.send(json.dumps({"id": 1, "method": method, "params": params}))
    return json.loads(page.recv())["result"]


def _first_line(path: Path) -> str:
    return path.read_text().splitlines()[0]


def _wait(end: float, attempt):
    """The first answer of attempt(), which cannot be read before there is one."""
    while time.monotonic() < end:
        try:
            return attempt()
        except (OSError, LookupError):
            time.sleep(0.1)
    raise TimeoutError("Chromium did not get the deck ready to print")
