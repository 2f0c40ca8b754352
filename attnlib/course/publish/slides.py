"""Offline decks: each lesson as one HTML file that needs neither network nor kernel.

nbconvert writes the slides and reveal.js shows them; `deck/` beside this file holds our
template, style and script. What a deck is made of, for authors of lessons:

- a slide is a cell of type `slide` or `subslide` and the fragments after it; where it
  has no heading, that of its section stands above it, small;
- `notes`, prose that is skipped, and `<!-- notes -->these words<!-- /notes -->` of any
  cell (without an end: all the rest) are what the speaker sees (key S); a mark that
  opens a paragraph has a line of its own;
- the answers of quizzes are added to the notes;
- the tag `hide-input` hides a cell's code, `optional` on a slide's first cell leaves the
  slide out of a short deck;
- an explorer that `needs_kernel` is a picture and its sentence; the others stay live.
"""

import ast
import base64
import os
import re
from html import escape
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from attnlib.course.publish import notebooks, npm

DECK = Path(__file__).with_name("deck")
OUT = Path("build") / "slides"
NOTES = r"(?s)<!-- notes -->(.*?)(?:<!-- /notes -->|\Z)"
VIEW = notebooks.VIEW
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


def prepare(names=(), out: Path = OUT) -> list[Path]:
    """The lessons to make decks of (all for none), with all that it takes at hand.

    Raises ValueError for an unknown lesson or a package that is not the pinned one,
    FileNotFoundError where npm is missing.
    """
    lessons = [p for p in notebooks.lessons(names) if p.parent == notebooks.NOTEBOOKS]
    npm.fetch()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"ATTNLIB_REPLAY": "1", "ATTNLIB_DPI": "200"}
    return lessons


def write(path: Path, out: Path = OUT, execute=False, title="", short=False) -> Path:
    """Write a lesson's deck to folder `out`: from stored outputs, unless to `execute`."""
    notebook = notebooks.execute(path) if execute else replay(path)
    deck = out / f"{path.stem}.html"
    deck.write_text(export(notebook, path.stem, title, short), encoding="utf-8")
    return deck


def replay(path: Path) -> NotebookNode:
    """A lesson as stored, with the state of its widgets, which is never stored.

    Only the cells that show widgets run again, and those that they need, whatever
    these come to: no lesson's timing or assertion can stop its deck. Raises ValueError
    where a widget fails, or says otherwise than the stored one.
    """
    stored = nbformat.read(path, 4)
    shows = [n for n, cell in enumerate(stored.cells) if _views(cell)]
    if not shows:
        return stored
    part = nbformat.from_dict(stored | {"cells": []})
    for n in needed(stored.cells, shows):
        cell = nbformat.from_dict(stored.cells[n])
        cell.metadata["tags"] = ["raises-exception"]  # and run on
        part.cells.append(cell)
    executed = notebooks.execute(path, part)
    again = {cell.id: cell for cell in executed.cells}
    for n in shows:
        cell = stored.cells[n]
        old, new = _views(cell), _views(again[cell.id])
        if old != new:
            raise ValueError(f"shows {new or again[cell.id].outputs} where {old} is stored")
        cell.outputs = again[cell.id].outputs
    stored.metadata["widgets"] = executed.metadata.get("widgets", {})
    return stored


def needed(cells: list[NotebookNode], wanted: list[int]) -> list[int]:
    """Indices of the cells that these need, by the names that code binds and uses.

    The first code cell sets up. Cells that draw random numbers need all those before
    them: one stream of numbers serves them all.
    """
    code = [n for n, cell in enumerate(cells) if cell.cell_type == "code"]
    need, names, random = [], set(), False
    for n in reversed(code):
        binds, uses = _names(cells[n].source)
        draws = bool(re.search(r"rand|seed", cells[n].source))
        if n in wanted or n == code[0] or binds & names or (random and draws):
            need.append(n)
            names = (names - binds) | uses
            random |= draws
    return need[::-1]


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that code binds, and those that it uses, its functions' own among them."""
    binds, uses = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (uses if isinstance(node.ctx, ast.Load) else binds).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            binds.add(node.name)
        elif isinstance(node, ast.alias):
            binds.add((node.asname or node.name).partition(".")[0])
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            uses.add(node.target.id)
    return binds, uses


def _views(cell: NotebookNode) -> list[str]:
    """What the cell's widgets say, each in the words for who cannot see it."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [d.get("text/plain", "") for d in data if VIEW in d]


def export(notebook: NotebookNode, name: str, words: str = "", short: bool = False) -> str:
    """A lesson with its outputs as a deck: one page, with everything inside.

    `words`, such as a name, a date and a place, stand on a slide in front; `short`
    leaves out the slides tagged `optional`.
    """
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    states = notebook.metadata.pop("widgets", {}).get(STATE, {})
    title = re.match("# (.*)", notebook.cells[0].source)[1]
    notebook.cells = arrange(notebook.cells, short)
    if words:
        front = _markdown(f'# {title}\n\n<p class="speaker">{escape(words)}</p>', "slide")
        notebook.cells.insert(0, front)
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


def arrange(cells: list[NotebookNode], short: bool = False) -> list[NotebookNode]:
    """The deck's cells: of each slide the opening, then its notes, then the rest."""
    slides, heading, optional = [], "", []
    for cell in cells:
        kind, said = cell.metadata.slideshow.slide_type, answers(cell)
        if cell.cell_type == "markdown":
            source = _for_slides(cell.source)
            said = " ".join(part.lstrip(" ,:;") for part in re.findall(NOTES, source))
            cell.source = re.sub(NOTES, "", source)
            heading = (re.match("#+ (.*)", cell.source) or ["", heading])[1]
        if kind in ("slide", "subslide"):
            slides.append(([], []))
            optional.append("optional" in cell.metadata.get("tags", []))
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
    kept = [slide for slide, may_go in zip(slides, optional) if not (short and may_go)]
    return [c for shown, notes in kept for c in (shown[0], *notes, *shown[1:])]


def answers(cell: NotebookNode) -> str:
    """What the speaker should know of a cell's quizzes: the right answers, and why."""
    if cell.cell_type != "code" or "Quiz(" not in cell.source:
        return ""
    right = []
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Quiz":
            choices = ast.literal_eval(node.args[1])
            right += [f"Answer: {a}. {why}" for a, why in choices.items() if why.startswith("Yes")]
    return "\n\n".join(right)


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
        words = '<p class="needs-kernel">In the notebook this explorer is live.</p>'
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
