"""The decks as a lecture room has them: Chromium, no network, 1280 x 720.

Every lesson's, or those that ATTNLIB_DECKS names: ATTNLIB_DECKS="01 04" pytest -m browser
tests/course/publish/test_decks.py.
"""

import os
import re
import time

import nbformat
import pytest

from attnlib.course.publish import handout, notebooks, slides

pytestmark = pytest.mark.browser

CHOSEN = os.environ.get("ATTNLIB_DECKS", "").split()
LESSONS = [p.stem for p in notebooks.lessons(CHOSEN) if p.parent == notebooks.NOTEBOOKS]

LOOK = """() => {
  const slide = Reveal.getCurrentSlide(), page = slide.getBoundingClientRect();
  const seen = [...slide.querySelectorAll('*')].filter(
    e => !e.closest('.notes, mjx-assistive-mml') && e.checkVisibility());
  const cut = seen.filter(e => !e.closest('svg, .widget-hslider') && e.clientWidth && (
    e.getBoundingClientRect().right > page.right + 1 ||
    e.getBoundingClientRect().bottom > page.bottom + 1 ||
    e.matches('pre') && e.scrollWidth > e.clientWidth));
  const text = slide.cloneNode(true);
  text.querySelectorAll('.notes, pre, code, script, mjx-container').forEach(e => e.remove());
  const code = [...slide.querySelectorAll('.highlight pre')];
  return {
    title: slide.querySelector('h1, h2, h3, .running')?.textContent,
    high: slide.scrollHeight, wide: slide.scrollWidth,
    cut: cut.map(e => e.outerHTML.slice(0, 80)),
    body: seen.filter(
      e => e.matches('p:not(.running), li, pre, img, svg, table, .widget-box')).length,
    text: text.textContent,
    code: Math.min(...code.map(e => parseFloat(getComputedStyle(e).fontSize) * e.currentCSSZoom)),
  }
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    out = tmp_path_factory.mktemp("room") / "decks"
    start = time.perf_counter()
    files = [slides.write(path, out) for path in slides.prepare(LESSONS, out)]
    print(f"\n{len(files)} decks in {time.perf_counter() - start:.0f} s")
    return out


@pytest.fixture(scope="module", params=LESSONS)
def deck(chromium, decks, request):
    """A deck, opened and walked through: what each slide shows, and what went wrong."""
    path = (decks / f"{request.param}.html").resolve()
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 720})
    page, page.wrong = context.new_page(), []
    ours = ("data:", path.as_uri())
    page.on("request", lambda r: r.url.startswith(ours) or page.wrong.append(r.url))
    page.on("console", lambda m: m.type == "error" and page.wrong.append(m.text))
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    page.path, page.slides = path, []
    for _ in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate("while (Reveal.availableFragments().next) Reveal.nextFragment()")
        page.slides.append(page.evaluate(LOOK))
        page.evaluate("Reveal.next()")
    yield page
    context.close()


def test_the_folder_holds_the_decks_and_nothing_else(decks):
    assert {path.name for path in decks.iterdir()} == {f"{name}.html" for name in LESSONS}
    assert max(path.stat().st_size for path in decks.iterdir()) < 12e6


def test_it_asks_for_nothing_and_complains_of_nothing(deck):
    assert len(deck.slides) >= 10 and deck.wrong == []


def test_every_formula_is_rendered(deck):
    cells = slides.arrange(nbformat.read(notebooks.NOTEBOOKS / f"{deck.path.stem}.ipynb", 4).cells)
    source = " ".join(c.source for c in cells if c.cell_type == "markdown")
    formulas = re.findall(r"(?s)\$\$.+?\$\$|\$[^$]+\$", source)
    assert deck.locator("mjx-container").count() == len(formulas)
    assert not deck.locator("[data-mml-node='merror'], mjx-merror").count()
    assert not [s for s in deck.slides if re.search(r"\$|\\[([a-z]", s["text"])]


def test_no_slide_is_higher_or_wider_than_its_page(deck):
    assert not [s for s in deck.slides if s["high"] > 720 or s["wide"] > 1280 or s["cut"]]


def test_no_slide_is_empty(deck):
    assert all(s["title"] and s["body"] for s in deck.slides)


def test_code_is_readable_from_the_back_row(deck):
    assert not [s for s in deck.slides if s["code"] < 20]


def test_the_handout_has_a_page_for_each_slide(deck):
    pdf = handout.print_deck(deck.path, handout.chromium())
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) == len(deck.slides)


def test_the_handout_with_notes_has_more_pages(deck):
    pdf = handout.print_deck(deck.path, handout.chromium(), notes=True)
    assert pdf.name == f"{deck.path.stem}.notes.pdf"
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) > len(deck.slides)


def test_the_speaker_sees_notes(deck):
    deck.evaluate("Reveal.slide(0, 0)")
    with deck.expect_popup() as window:
        deck.keyboard.press("s")
    notes = "document.querySelector('.speaker-controls-notes .value').textContent"
    window.value.wait_for_function(f"{notes}.includes('you will be able to')")
    assert deck.wrong == []
    window.value.close()


def come_to(deck, selector):
    """The first such widget, its slide turned up and shown whole."""
    if not deck.locator(selector).count():
        pytest.skip(f"no {selector} in this deck")
    slide = f"document.querySelector('{selector}').closest('.page')"
    deck.evaluate(f"(({{h, v}}) => Reveal.slide(h, v, 99))(Reveal.getIndices({slide}))")
    return deck.evaluate("Reveal.getSlidePastCount()")


def test_a_stepper_steps_and_the_page_stays(deck):
    place = come_to(deck, ".attn-stepper")
    said = deck.locator(".attn-frames [aria-live]:visible").first
    texts = [said.inner_text()]
    deck.locator(".attn-stepper .noUi-handle:visible").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        deck.keyboard.press(key)
        texts.append(said.inner_text())
    assert len(set(texts)) == 3 and texts[1] == texts[3]
    assert deck.evaluate("Reveal.getSlidePastCount()") == place


def test_a_stepper_steps_by_mouse(deck):
    place = come_to(deck, ".attn-stepper")
    said = deck.locator(".attn-frames [aria-live]:visible").first
    before = said.inner_text()
    deck.locator(".attn-stepper button[aria-label^='Next']:visible").first.click()
    assert said.inner_text() != before and deck.evaluate("Reveal.getSlidePastCount()") == place


def test_page_down_leaves_an_explorer(deck):
    place = come_to(deck, ".attn-stepper")
    deck.locator(".attn-stepper .noUi-handle:visible").first.focus()
    deck.keyboard.press("PageDown")
    assert deck.evaluate("Reveal.getSlidePastCount()") == place + 1
    deck.keyboard.press("ArrowLeft")
    assert deck.evaluate("Reveal.getSlidePastCount()") == place


def test_a_quiz_answers_without_a_kernel(deck):
    come_to(deck, ".attn-quiz")
    deck.locator(".attn-quiz button:visible").first.click()
    assert deck.locator(".attn-quiz [aria-live]:visible").first.inner_text()
