"""The decks as a lecture room has them: Chromium, no network, 1280 x 720.

Every lesson's, or those that ATTNLIB_DECKS names: ATTNLIB_DECKS="01 04" pytest -m browser
tests/course/publish/test_decks.py.
"""

import os
import re

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
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("room") / "decks"


@pytest.fixture(scope="module", params=LESSONS)
def deck(chromium, out, request):
    """A deck, opened and walked through: what each slide shows, and what went wrong."""
    (lesson,) = slides.prepare([request.param], out)
    path = slides.write(lesson, out).resolve()
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
        page.wait_for_function("moving.size == 0")
        page.slides.append(page.evaluate(LOOK))
        page.evaluate("Reveal.next()")
    yield page
    context.close()


def test_a_deck_is_one_file_that_a_stick_can_carry(deck):
    assert deck.path.stat().st_size < 12e6
    assert {path.suffix for path in deck.path.parent.iterdir()} <= {".html", ".pdf"}


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
    """The first such widget, its slide turned up: shown, and if a stepper, at its start."""
    if not deck.locator(selector).count():
        pytest.skip(f"no {selector} in this deck")
    slide = f"document.querySelector('{selector}').closest('.page')"
    deck.evaluate(f"(({{h, v}}) => Reveal.slide(h, v, 99))(Reveal.getIndices({slide}))")
    if selector == ".attn-stepper":
        first = f"{slide}.querySelector('.attn-frame').dataset.fragmentIndex"
        deck.evaluate(f"Reveal.navigateFragment({first} - 1)")
        assert now(deck) == 0
    return deck.evaluate("Reveal.getSlidePastCount()")


def now(deck) -> int:
    """The frame that the visible stepper shows, once it has come to rest."""
    deck.wait_for_function("moving.size == 0")
    handle = deck.locator(".attn-stepper .noUi-handle:visible").first
    return int(float(handle.get_attribute("aria-valuenow")))


def last(deck) -> int:
    handle = deck.locator(".attn-stepper .noUi-handle:visible").first
    return int(float(handle.get_attribute("aria-valuemax")))


def past(deck) -> int:
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
    assert past(deck) == place


@pytest.mark.parametrize("key", ["PageDown", "ArrowRight", " "])
def test_a_clicker_steps_through_the_frames_and_then_goes_on(deck, key):
    place, shown = come_to(deck, ".attn-stepper"), []
    for _ in range(last(deck)):
        deck.keyboard.press(key)
        shown.append(now(deck))
        assert past(deck) == place
    assert shown == list(range(1, last(deck) + 1))
    while deck.evaluate("Reveal.availableFragments().next"):  # what else the slide holds back
        deck.keyboard.press(key)
    deck.keyboard.press(key)
    assert past(deck) == place + 1


def test_a_clicker_steps_back(deck):
    place = come_to(deck, ".attn-stepper")
    for key, frame in (("PageDown", 1), ("PageDown", 2), ("PageUp", 1), ("PageUp", 0)):
        deck.keyboard.press(key)
        assert now(deck) == frame and past(deck) == place


def test_after_a_click_on_next_the_arrow_goes_on_with_the_frames(deck):
    place = come_to(deck, ".attn-stepper")
    deck.locator(".attn-stepper button[aria-label^='Next']:visible").first.click()
    assert now(deck) == 1 and past(deck) == place
    for frame, key in ((2, "ArrowRight"), (3, " "), (4, "PageDown")):
        deck.keyboard.press(key)
        assert now(deck) == min(frame, last(deck)) and past(deck) == place


def test_after_the_slider_was_pulled_the_clicker_goes_on_from_there(deck):
    place = come_to(deck, ".attn-stepper")
    deck.locator(".attn-stepper .noUi-handle:visible").first.focus()
    deck.keyboard.press("End")
    assert now(deck) == last(deck)
    deck.keyboard.press("PageUp")
    assert now(deck) == last(deck) - 1 and past(deck) == place


def test_who_comes_back_to_a_stepper_finds_its_last_frame(deck):
    place = come_to(deck, ".attn-stepper")
    deck.evaluate("Reveal.next()")
    deck.evaluate(f"while (Reveal.getSlidePastCount() == {place}) Reveal.next()")
    deck.keyboard.press("PageUp")
    assert past(deck) == place and now(deck) == last(deck)


def test_a_deck_is_walked_by_one_key(deck):
    deck.evaluate("Reveal.slide(0, 0)")
    total, presses = deck.evaluate("Reveal.getTotalSlides()"), 0
    while past(deck) < total - 1 and presses < 500:
        deck.keyboard.press("PageDown")
        presses += 1
    frames = deck.evaluate("document.querySelectorAll('.attn-frame').length")
    assert past(deck) == total - 1 and presses >= total - 1 + frames - 30
    assert deck.wrong == []


def test_a_quiz_answers_without_a_kernel_and_lets_space_go_on(deck):
    come_to(deck, ".attn-quiz")
    deck.locator(".attn-quiz button:visible").first.click()
    said = deck.locator(".attn-quiz [aria-live]:visible").first
    answer = said.inner_text()
    before = deck.evaluate("JSON.stringify(Reveal.getIndices())")
    deck.keyboard.press(" ")
    assert answer and deck.evaluate("JSON.stringify(Reveal.getIndices())") != before


def test_a_right_answer_does_not_look_like_a_wrong_one(deck):
    come_to(deck, ".attn-quiz")
    looks = {}
    for button in deck.locator(".attn-quiz:visible").first.locator("button").all():
        button.click()
        said = deck.locator(".attn-quiz [aria-live]:visible").first.inner_text()
        style = (
            "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e, '::before').content]"
        )
        looks.setdefault(said.startswith("Yes"), set()).add(tuple(button.evaluate(style)))
    (right,), (wrong,) = looks[True], looks[False]
    assert right[0] != wrong[0] and "✓" in right[1] and "✗" in wrong[1]
