"""Offline decks: each lesson as one HTML file that needs neither network nor kernel.

nbconvert writes the slides and reveal.js shows them; `deck/` beside this file holds our
template, style and script. What a deck is made of, for authors of lessons:

- a slide is a cell of type `slide` or `subslide` and the fragments after it; where it
  has no heading, that of its section stands above it, small;
- `notes`, prose that is skipped, and `<!-- notes -->these words<!-- /notes -->` of any
  cell (without an end: all the rest) are what the speaker sees (key S); a mark that
  opens a paragraph has a line of its own;
- the tag `hide-input` hides a cell's code;
- an explorer that `needs_kernel` is a picture; the others stay live.
"""

import base64
import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from attnlib.course.publish import handout, notebooks, npm

DECK = Path(__file__).with_name("deck")
OUT = Path("build") / "slides"
NOTES = r"(?s)<!-- notes -->(.*?)(?:<!-- /notes -->|\Z)"
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
SANS, MONO = "@fontsource/ibm-plex-sans", "@fontsource/ibm-plex-mono"
STYLES = [
    *((SANS, f"latin-{face}.css") for face in ("400", "400-italic", "600")),
    (MONO, "latin-400.css"),
    ("reveal.js", "dist/reveal.css"),
]
SCRIPTS = [
    ("mathjax", "es5/tex-svg-full.js"),
    ("reveal.js", "dist/reveal.js"),
    ("reveal.js", "plugin/notes/notes.js"),
]
# After the others, which would register with require instead of running.
WIDGET_SCRIPTS = [
    ("requirejs", "require.js"),
    ("@jupyter-widgets/html-manager", "dist/libembed-amd.js"),
]


def build(names=(), out: Path = OUT, pdf: bool = False) -> Iterator[Path]:
    """Write the decks of these lessons (all for none) to folder `out`, one by one.

    With `pdf` a handout comes after each. Raises ValueError for an unknown lesson or
    a package that is not the pinned one, FileNotFoundError for a missing program.
    """
    lessons = [p for p in notebooks.lessons(names) if p.parent == notebooks.NOTEBOOKS]
    browser = handout.chromium() if pdf else None
    npm.fetch()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"ATTNLIB_REPLAY": "1", "ATTNLIB_DPI": "200"}
    for path in lessons:
        deck = out / f"{path.stem}.html"
        deck.write_text(export(notebooks.execute(path), path.stem), encoding="utf-8")
        yield deck
        if pdf:
            yield handout.print_deck(deck, browser)


def export(notebook: NotebookNode, name: str) -> str:
    """An executed lesson as a deck: one page, with everything inside."""
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    states = notebook.metadata.pop("widgets", {}).get(STATE, {})
    title = re.match("# (.*)", notebook.cells[0].source)[1]
    notebook.cells = arrange(notebook.cells)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    for output in outputs:
        _freeze(output, states.get("state", {}))
    scripts = SCRIPTS
    if any(VIEW in output.get("data", {}) for output in outputs):
        notebook.metadata["widgets"] = {STATE: states}
        scripts = SCRIPTS + WIDGET_SCRIPTS
    course = f"FlashAttention from the softmax up · lesson {name[:2]}"
    first = notebook.cells[0]
    first.source = f'<p class="course">{course}</p>\n\n{first.source}'
    deck = {
        "title": title,
        "styles": [_with_fonts(*file) for file in STYLES],
        "scripts": [_inside_html(npm.read(*file).decode()) for file in scripts],
    }
    hide = {"enabled": True, "remove_input_tags": {"hide-input"}}
    exporter = SlidesExporter(
        template_name=DECK.name,
        extra_template_basedirs=[str(DECK.parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        config=Config(TagRemovePreprocessor=hide),
    )
    return exporter.from_notebook_node(notebook, {"deck": deck})[0]


def arrange(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The deck's cells: of each slide the opening, then its notes, then the rest."""
    slides, heading = [], ""
    for cell in cells:
        kind, said = cell.metadata.slideshow.slide_type, ""
        if cell.cell_type == "markdown":
            source = _for_slides(cell.source)
            said = " ".join(part.lstrip(" ,:;") for part in re.findall(NOTES, source))
            cell.source = re.sub(NOTES, "", source)
            heading = (re.match("#+ (.*)", cell.source) or ["", heading])[1]
        if kind in ("slide", "subslide"):
            slides.append(([], []))
            if cell.cell_type == "code" or not cell.source.startswith("#"):
                slides[-1][0].append(_markdown(f'<p class="running">{heading}</p>', kind))
                kind = "-"
        shown, notes = slides[-1]
        if kind == "fragment" and re.fullmatch(r"#+ .*\s*", shown[-1].source):
            kind = "-"  # a heading alone is no slide to look at
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
    source = re.sub(r"(\]\(\d\d_\w+)\.ipynb\)", r"\1.html)", source)
    return source.replace("**Predict.**", '<strong class="predict">Predict.</strong>')


def _freeze(output: NotebookNode, states: dict) -> None:
    """Leave an explorer that needs a kernel its picture only."""
    data = output.get("data", {})
    state = states.get(data.get(VIEW, {}).get("model_id"), {}).get("state", {})
    if "attn-needs-kernel" in state.get("_dom_classes", ()):
        alt = escape(data["text/plain"])
        picture = f'src="data:image/png;base64,{data["image/png"]}" alt="{alt}"'
        words = '<p class="needs-kernel">Needs a kernel: open the notebook.</p>'
        output["data"] = {"text/html": f"<img {picture}>{words}"}


def _with_fonts(package: str, member: str) -> str:
    """A style sheet with the fonts that it names inside."""

    def inside(match):
        font = base64.b64encode(npm.read(package, match[1])).decode()
        return f"url(data:font/woff2;base64,{font})"

    css = npm.read(package, member).decode()
    return re.sub(r"url\(\./(files/[^)]*\.woff2)\)", inside, css)


def _inside_html(script: str) -> str:
    """A script that may stand in a page: nothing in it ends or comments out its tag."""
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")
