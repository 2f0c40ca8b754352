"""Offline decks: each lesson as one HTML file that needs neither network nor kernel.

nbconvert writes the slides and reveal.js shows them; `deck/` beside this file holds our
template, style and script. What a deck is made of, for authors of lessons:

- a slide is a cell of type `slide` or `subslide` and the fragments after it; where it
  has no heading, that of its section stands above it, small;
- `notes`, prose that is skipped, and `<!-- notes -->these words<!-- /notes -->` of any
  cell (without an end: all the rest) are what the speaker sees (key S);
- the tag `hide-input` hides a cell's code;
- an explorer that `needs_kernel` is a picture; the others stay live.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from attnlib.course import notebooks

DECK = Path(__file__).with_name("deck")
OUT = Path("build") / "slides"
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NOTES = r"(?s)<!-- notes -->(.*?)(?:<!-- /notes -->|\Z)"
SANS, MONO = "@fontsource/ibm-plex-sans", "@fontsource/ibm-plex-mono"
STYLES = [
    *((SANS, f"latin-{font}.css") for font in ("400", "400-italic", "600")),
    (MONO, "latin-400.css"),
    ("reveal.js", "dist/reveal.css"),
]
SCRIPTS = [
    ("mathjax", "es5/tex-svg-full.js"),
    ("reveal.js", "dist/reveal.js"),
    ("reveal.js", "plugin/notes/notes.js"),
]
# After the others: where require is defined, they would register and not run.
WIDGET_SCRIPTS = [
    ("requirejs", "require.js"),
    ("@jupyter-widgets/html-manager", "dist/libembed-amd.js"),
]


def build(names=(), out: Path = OUT, pdf: bool = False) -> Iterator[Path]:
    """Write the decks of these lessons (all for none) to folder `out`, one by one.

    With `pdf` a handout comes after each. Raises ValueError for an unknown lesson or
    a package that is not the pinned one, FileNotFoundError for a missing program.
    """
    paths = [p for p in notebooks.lessons(names) if p.parent == notebooks.NOTEBOOKS]
    browser = _chromium() if pdf else None
    files = {f: npm_file(*f) for f in STYLES + SCRIPTS + WIDGET_SCRIPTS}
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"ATTNLIB_REPLAY": "1", "ATTNLIB_DPI": "200"}
    for path in paths:
        deck = out / f"{path.stem}.html"
        deck.write_text(export(notebooks.execute(path), path.stem, files), encoding="utf-8")
        yield deck
        if pdf:
            yield print_handout(deck, browser)


def export(notebook: NotebookNode, name: str, files: dict) -> str:
    """An executed lesson as a deck: one page, everything inside."""
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    notebook.cells = arrange(notebook.cells)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _freeze(output, states)
    live = any(VIEW in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", []))
    if not live:
        notebook.metadata.pop("widgets", None)
    scripts = SCRIPTS + WIDGET_SCRIPTS * live
    title = notebook.cells[0]
    deck = {
        "title": re.match("# (.*)", title.source)[1],
        "styles": [_inline_fonts(files, *f) for f in STYLES],
        "scripts": [_inside_html(files[f].decode()) for f in scripts],
    }
    course = f"FlashAttention from the softmax up · lesson {name[:2]}"
    title.source = f'<p class="course">{course}</p>\n\n{title.source}'
    exporter = SlidesExporter(
        template_name=DECK.name,
        extra_template_basedirs=[str(DECK.parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        config=Config(
            TagRemovePreprocessor={"enabled": True, "remove_input_tags": {"hide-input"}}
        ),
    )
    return exporter.from_notebook_node(notebook, {"deck": deck})[0]


def arrange(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The deck's cells: of each slide the opening, then its notes, then the rest."""
    slides, heading = [], ""
    for cell in cells:
        kind, said = cell.metadata.slideshow.slide_type, ""
        if cell.cell_type == "markdown":
            said = " ".join(re.findall(NOTES, _for_slides(cell.source)))
            cell.source = re.sub(NOTES, "", _for_slides(cell.source))
            heading = (re.match("#+ (.*)", cell.source) or ["", heading])[1]
        if kind in ("slide", "subslide"):
            slides.append(([], []))
            if not cell.source.startswith("#"):
                slides[-1][0].append(_markdown(f'<p class="running">{heading}</p>', kind))
                kind = "-"
        shown, notes = slides[-1]
        if kind not in ("skip", "notes"):
            cell.metadata.slideshow.slide_type = kind
            shown.append(cell)
        elif cell.cell_type == "markdown":
            said = cell.source + said
        if said:
            notes.append(_markdown(said, "notes"))
    return [c for shown, notes in slides for c in (shown[0], *notes, *shown[1:])]


def _markdown(source: str, kind: str) -> NotebookNode:
    return new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def _for_slides(source: str) -> str:
    """Markdown with links to decks instead of notebooks, and predictions marked."""
    source = re.sub(r"(\]\([\w/]+)\.ipynb\)", r"\1.html)", source)
    return source.replace("**Predict.**", '<strong class="predict">Predict.</strong>')


def _freeze(output: NotebookNode, states: dict) -> None:
    """Leave an explorer that needs a kernel its picture only."""
    data = output.get("data", {})
    state = states.get(data.get(VIEW, {}).get("model_id"), {}).get("state", {})
    if "attn-needs-kernel" in state.get("_dom_classes", ()):
        picture = f'src="data:image/png;base64,{data["image/png"]}" alt="{data["text/plain"]}"'
        words = '<p class="needs-kernel">Needs a kernel: open the notebook.</p>'
        output["data"] = {"text/html": f"<img {picture}>{words}"}


def _inline_fonts(files, package, member):
    def font(match):
        return f"url(data:font/woff2;base64,{base64.b64encode(npm_file(package, match[1])).decode()})"

    css = files[package, member].decode()
    return re.sub(r"url\(\./(files/[^)]*\.woff2)\)", font, css)


def _inside_html(script: str) -> str:
    """A script that may stand in a page: nothing in it ends or comments out the tag."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def print_handout(deck: Path, browser: str) -> Path:
    """The deck as a PDF beside it, a page for each slide; TimeoutError if none comes.

    Through Chromium's DevTools, since its `--print-to-pdf` does not wait for scripts.
    """
    from websocket import create_connection  # comes with jupyter_server

    options = "--headless --no-sandbox --disable-gpu --remote-debugging-port=0".split()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options += [f"--user-data-dir={profile}", f"{deck.resolve().as_uri()}?print-pdf"]
        with subprocess.Popen([browser, *options], **quiet) as process:
            try:
                port = _wait(lambda: (Path(profile) / "DevToolsActivePort").read_text().split()[0])
                pages = f"http://127.0.0.1:{port}/json"
                page = _wait(lambda: json.load(urlopen(pages))[0]["webSocketDebuggerUrl"])
                page = create_connection(page, suppress_origin=True, timeout=120)
                ready = {"expression": "document.body.dataset.ready"}
                _wait(lambda: _ask(page, "Runtime.evaluate", **ready)["result"]["value"])
                options = {"printBackground": True, "preferCSSPageSize": True}
                data = _ask(page, "Page.printToPDF", **options)["data"]
            finally:
                process.terminate()
    pdf = deck.with_suffix(".pdf")
    pdf.write_bytes(base64.b64decode(data))
    return pdf


def _ask(page, method: str, **params):
    page.send(json.dumps({"id": 1, "method": method, "params": params}))
    return json.loads(page.recv())["result"]


def _wait(attempt, seconds: float = 120):
    """The first answer of attempt(): not yet there is whatever cannot be read yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return attempt()
        except (OSError, LookupError):
            time.sleep(0.1)
    raise TimeoutError(f"Chromium gave no answer in {seconds} s")


def _chromium() -> str:
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"--pdf prints with Chromium; none of {', '.join(CHROMIUM)} is here")


# JavaScript and fonts from npm -----------------------------------------------


def npm_file(package: str, member: str) -> bytes:
    """A file of a pinned npm package, downloaded at first use and checked at every one."""
    pins = json.loads((DECK / "npm.json").read_text())
    spec, pin = next((s, p) for s, p in pins.items() if s.rpartition("@")[0] == package)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnlib"
    path = cache / (spec.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not path.exists():
        _download(spec, path)
    sha = hashlib.sha512(path.read_bytes()).digest()
    if pin != f"sha512-{base64.b64encode(sha).decode()}":
        path.unlink()
        raise ValueError(f"{spec} is not the file that npm published: its sha512 differs")
    with tarfile.open(path) as tar:
        return tar.extractfile(f"package/{member}").read()


def _download(spec: str, path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"decks need {spec} from npm, once, and npm is missing: install it with "
            "`apt install npm`, `brew install node`, or from https://nodejs.org"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, spec]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"npm could not fetch {spec}: {done.stderr.strip()[-300:]}")
        os.replace(Path(folder) / path.name, path)
