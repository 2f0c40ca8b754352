"""The export of slides, as far as it goes without a browser."""

import base64
import json
import os
import re
import warnings

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from attnlib.course.__main__ import main
from attnlib.course.explore import BlockStepper, RescalingExplorer
from attnlib.course.publish import notebooks, npm, slides

LESSONS = [p for p in notebooks.lessons() if p.parent == notebooks.NOTEBOOKS]


def cell(kind, source, code=False, **metadata):
    new = new_code_cell if code else new_markdown_cell
    return new(source, metadata={"slideshow": {"slide_type": kind}, **metadata})


def kinds(cells):
    return [c.metadata.slideshow.slide_type for c in cells]


# The command ---------------------------------------------------------------


def refused(*args, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["slides", *args])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_lesson_is_named(capsys):
    assert "no lesson '99'" in refused("99", capsys=capsys)


def test_without_npm_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused("00", "--out", str(tmp_path / "decks"), capsys=capsys)
    assert "npm is missing" in said and "apt install npm" in said
    assert not (tmp_path / "decks").exists()


def test_without_chromium_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install chromium" in refused("00", "--pdf", capsys=capsys)


def test_a_lesson_that_fails_is_named_and_the_others_are_built(tmp_path, monkeypatch, capsys):
    def write(path, out, *_):
        if path.stem.startswith("01"):
            raise ValueError("shows nothing where a quiz is stored")
        return out / path.stem

    monkeypatch.setattr(npm, "fetch", dict)
    monkeypatch.setattr(slides, "write", write)
    assert main(["slides", "00", "01", "02", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "01_safe_softmax failed: shows nothing where a quiz is stored; there" in said.err
    assert [line[-20:] for line in said.out.split()] == [
        str(tmp_path / name)[-20:] for name in ("00_start_here", "02_decomposed_softmax")
    ]


# Stored outputs ------------------------------------------------------------

QUIZ = """from attnlib.course.explore import Quiz

Quiz(question, {"2": "Yes: it is.", "3": "No."})"""


@pytest.fixture
def lesson(tmp_path):
    """A lesson with a quiz, stored; its second cell fails where it is run again."""
    sources = ["import time", "assert slow", "question = 'What is it?'", "6 * 7", QUIZ]
    notebook = new_notebook(cells=[new_code_cell(s, id=f"c{n}") for n, s in enumerate(sources)])
    says = "Predict. What is it?  2  |  3"
    data = {slides.VIEW: {"model_id": "old"}, "text/plain": says}
    notebook.cells[3].outputs = [new_output("display_data", {"text/plain": "stored"})]
    notebook.cells[4].outputs = [new_output("display_data", data)]
    path = tmp_path / "09_x.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.slow
def test_a_deck_needs_no_cell_but_those_that_make_its_widgets(lesson):
    notebook = slides.replay(lesson)
    assert notebook.cells[3].outputs[0].data == {"text/plain": "stored"}
    state = notebook.metadata.widgets[slides.STATE]["state"]
    assert notebook.cells[4].outputs[0].data[slides.VIEW]["model_id"] in state


@pytest.mark.slow
def test_a_widget_that_says_something_else_than_the_stored_one_is_refused(lesson):
    lesson.write_text(lesson.read_text().replace("'What is it?'", "'What else?'"))
    with pytest.raises(ValueError, match=r"What else\?.*where.*What is it\?.*is stored"):
        slides.replay(lesson)


def test_cells_that_a_cell_needs_are_found_by_name():
    sources = [
        "import torch",
        "def f(x):\n    return x + n",
        "n = 1",
        "torch.manual_seed(1)",
        "y = torch.rand(2)",
        "n += 1",
        "z = f(n)",
        "other = y",
        "print(z)",
    ]
    cells = [new_code_cell(source) for source in sources]
    assert slides.needed(cells, [8]) == [0, 1, 2, 5, 6, 8]
    assert slides.needed(cells, [7]) == [0, 3, 4, 7]


# Packages ------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A cache with every package in it, each of them an impostor."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    npm.read.cache_clear()
    folder = tmp_path / "attnlib"
    folder.mkdir()
    for name in ("reveal.js-5.2.1", "mathjax-3.2.2"):
        (folder / f"{name}.tgz").write_bytes(b"something else")
    yield folder
    npm.read.cache_clear()


def test_a_package_that_is_not_the_pinned_one_is_refused_and_dropped(packages):
    with pytest.raises(ValueError, match=r"reveal\.js@5\.2\.1 is not the file that was pinned"):
        npm.fetch()
    assert not (packages / "reveal.js-5.2.1.tgz").exists()


def test_what_npm_complains_about_is_passed_on(packages, tmp_path, monkeypatch):
    (packages / "reveal.js-5.2.1.tgz").unlink()
    (tmp_path / "npm").write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(
        ValueError, match=r"npm could not download reveal\.js@5\.2\.1: no such host"
    ):
        npm.fetch()


def test_every_pin_is_one_version_and_a_sha512():
    for spec, pin in json.loads(npm.PINS.read_text()).items():
        assert re.search(r"@\d+\.\d+\.\d+$", spec)
        assert pin.startswith("sha512-") and len(base64.b64decode(pin[7:])) == 64


def test_every_file_comes_from_a_pinned_package():
    pinned = {spec.rpartition("@")[0] for spec in json.loads(npm.PINS.read_text())}
    files = slides.STYLES + slides.SCRIPTS + slides.WIDGET_SCRIPTS
    assert {package for package, _ in files} == pinned


# Cells into slides -----------------------------------------------------------


def test_skipped_prose_becomes_notes_and_skipped_code_is_dropped():
    said, code = cell("skip", "for the speaker"), cell("skip", "1", code=True)
    cells = slides.arrange([cell("slide", "## A"), cell("fragment", "x"), said, code])
    assert [c.source for c in cells] == ["## A", "for the speaker", "x"]
    assert kinds(cells) == ["slide", "notes", "-"]


def test_words_may_be_for_the_speaker_within_a_cell():
    source = "## A\n\nOne<!-- notes -->, two<!-- /notes -->. <!-- notes -->Three."
    shown, notes = slides.arrange([cell("slide", source)])
    assert shown.source == "## A\n\nOne. " and notes.source == "two Three."


def test_a_slide_without_a_heading_shows_its_sections():
    cells = slides.arrange([cell("slide", "## A $x$"), cell("subslide", "# no heading", code=True)])
    assert [c.source for c in cells][1:] == ['<p class="running">A $x$</p>', "# no heading"]
    assert kinds(cells) == ["slide", "subslide", "-"]


def test_a_heading_alone_is_followed_by_something_to_see():
    cells = [cell("slide", "## A"), cell("fragment", "1", code=True), cell("fragment", "b")]
    assert kinds(slides.arrange(cells)) == ["slide", "-", "fragment"]


def test_links_lead_to_decks_and_predictions_stand_out():
    source = "**Predict.** [x](01_a.ipynb) [y](https://b.ipynb)"
    _, shown = slides.arrange([cell("slide", source)])
    assert "(01_a.html)" in shown.source and "https://b.ipynb" in shown.source
    assert '<strong class="predict">Predict.</strong>' in shown.source


def test_the_speaker_has_the_answers():
    quiz = cell("slide", QUIZ.replace("question", "'What is it?'"), code=True)
    assert "Answer: 2. Yes: it is." in [c.source for c in slides.arrange([quiz])]


def test_a_short_deck_leaves_out_optional_slides():
    def sources(short):
        more = [cell("subslide", "## B", tags=["optional"]), cell("notes", "n")]
        cells = [cell("slide", "## A"), *more, cell("subslide", "c")]
        return [c.source for c in slides.arrange(cells, short)]

    assert sources(short=False) == ["## A", "## B", "n", '<p class="running">B</p>', "c"]
    assert sources(short=True) == ["## A", '<p class="running">B</p>', "c"]


# The page ------------------------------------------------------------------


def explorer(needs_kernel):
    """A notebook with one widget, and the state of a real one."""
    classes = ["attn-needs-kernel"] * needs_kernel
    data = {slides.VIEW: {"model_id": "m"}, "image/png": "QUJD", "text/plain": 'a "tree"'}
    code = cell("fragment", "secret", code=True, tags=["hide-input"])
    code.outputs = [new_output("display_data", data)]
    states = {"state": {"m": {"state": {"_dom_classes": classes}}}}
    metadata = {"widgets": {slides.STATE: states}}
    cells = [cell("slide", "# Look & see\n\nx"), code, cell("notes", "say it")]
    return new_notebook(cells=cells, metadata=metadata)


@pytest.fixture
def export(monkeypatch):
    end = {".js": "</script> <!--", "css": ""}
    monkeypatch.setattr(npm, "read", lambda *file: f"/* {file} {end[file[1][-3:]]} */".encode())
    return lambda needs_kernel: slides.export(explorer(needs_kernel), "07_name")


def test_a_deck_is_one_page_with_everything_inside(export):
    page = export(False)
    assert not re.search(r'(src|href)="(?!data:)', page) and "https://" not in page
    assert page.count("<section") == 2 and "<title>Look &amp; see</title>" in page
    assert "lesson 07" in page and '<aside class="notes">' in page and "secret" not in page


def test_a_title_slide_stands_in_front(export):
    export(False)
    page = slides.export(explorer(False), "07_name", words="Ada & Bob, 1 May")
    first = BeautifulSoup(page, "html.parser").section
    assert first.h1.text.strip("¶") == "Look & see" and "Ada & Bob, 1 May" in first.text


def test_no_script_ends_its_tag(export):
    page = export(False)
    assert page.count("<script") == page.count("</script>") and "<\\!--" in page


def test_an_explorer_without_kernel_is_live_or_a_picture(export):
    live, still = export(False), export(True)
    assert "requirejs" in live and slides.STATE in live and 'src="data' not in live
    assert "requirejs" not in still and slides.STATE not in still
    assert BeautifulSoup(still, "html.parser").img["alt"] == 'a "tree"'
    said = BeautifulSoup(still, "html.parser").select_one(".needs-kernel").text
    assert said == "In the notebook this explorer is live." and "image/png" in still


def test_ready_frames_need_no_kernel_and_the_others_do():
    q, k, v = torch.randn(4), torch.randn(8, 4), torch.randn(8, 2)
    stepper, explorer = BlockStepper(q, k, v, 4), RescalingExplorer()
    assert "attn-needs-kernel" not in stepper._dom_classes
    assert "attn-needs-kernel" in explorer._dom_classes


def test_a_picture_keeps_its_words(export):
    picture = {"image/png": "QUJD", "text/plain": 'two "curves"'}
    code = cell("fragment", "draw()", code=True)
    code.outputs = [new_output("display_data", picture)]
    page = slides.export(new_notebook(cells=[cell("slide", "# A"), code]), "07_name")
    assert BeautifulSoup(page, "html.parser").img["alt"] == 'two "curves"'


# Lessons as slides -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_plain_nbconvert_makes_slides_too(path):
    from nbconvert import SlidesExporter

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page, _ = SlidesExporter().from_filename(path)
    assert page.count("<section") > 10


def words(source):
    """What an audience reads: no heading, formula, code block or table."""
    source = re.sub(r"(?s)\$\$.*?\$\$|\$[^$]*\$|```.*?```|<p class=.*?</p>", " ", source)
    return re.sub(r"(?m)^#.*$|^\|.*$|^- |\]\([^)]*\)|<[^>]*>", " ", source).split()


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_slide_has_40_words_12_lines_and_one_picture_at_most(path):
    texts, lines, pictures = 0, 0, 0
    for c in slides.arrange(nbformat.read(path, 4).cells):
        if c.metadata.slideshow.slide_type in ("slide", "subslide"):
            texts, lines, pictures = 0, 0, 0
        if c.cell_type == "code":
            shown = "hide-input" not in c.metadata.get("tags", [])
            lines += shown * sum(bool(line.strip()) for line in c.source.splitlines())
            pictures += sum("image/png" in o.get("data", {}) for o in c.outputs)
        elif c.metadata.slideshow.slide_type != "notes":
            texts += len(words(c.source))
        assert texts <= 40 and lines <= 12 and pictures <= 1, (c.source, texts, lines, pictures)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_the_teachers_plan_counts_the_slides(path):
    plan = (notebooks.NOTEBOOKS / "README.md").read_text()
    row = re.search(rf"(?m)^\| {path.stem[:2]} [^|]*\| (\d+) \| (\d+) \|", plan)
    for short, said in zip((False, True), row.groups()):
        cells = slides.arrange(nbformat.read(path, 4).cells, short)
        assert sum(kind in ("slide", "subslide") for kind in kinds(cells)) == int(said)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_mark_at_the_start_of_a_line_stands_alone(path):
    cells = nbformat.read(path, 4).cells  # or Markdown would leave its line as it is
    assert not [c.source for c in cells if re.search("(?m)^<!-- /?notes -->.", c.source)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_deck_has_10_to_30_slides(path):
    cells = slides.arrange(nbformat.read(path, 4).cells)
    assert 10 <= sum(k in ("slide", "subslide") for k in kinds(cells)) <= 30
