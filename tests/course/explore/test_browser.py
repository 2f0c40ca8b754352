"""Explorers as people meet them: in JupyterLab, untrusted, and as an exported page.

Needs Chromium and the `browser` extra; `pytest -m browser -s` also prints how long
a step takes from key press to new picture, and keeps screenshots in build/.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import pytest
import torch

from attnlib.course.draw.fold import describe_step
from attnlib.course.explore import (
    BackwardWalk,
    TileWalk,
    WillItFit,
    trace_row,
    trace_scores,
    view_mask,
)
from attnlib.course.inputs import alice_qkv, example_scores
from attnlib.course.measure import recordings
from attnlib.course.publish import notebooks
from attnlib.masks import Mask

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[3]
SHOTS = ROOT / "build" / "screenshots"
FOLD, LESSON, MASKS = "03_one_fold", "04_rescaling_explorer", "07_masks_and_shapes"
RABBIT = 0, 3, 211  # layer, head and query of lesson 04's first row
WALK, CORES, BACKWARD = "06_flash_attention", "08_two_cores_on_gpu", "09_backward"
NPM = ("requirejs@2.3.7", "@jupyter-widgets/html-manager@1.0.14", "mathjax@2.7.9")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a copy of the notebooks, as a fresh clone has them: untrusted."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(notebooks.NOTEBOOKS, folder / "notebooks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # Every cell is rendered at once, so that tests need not scroll past them.
    for name, settings in (
        ("notebook-extension/tracker", '{"windowingMode": "none"}'),
        ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}'),
    ):
        path = folder / f"c/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(settings)
    home = {"JUPYTER_CONFIG_DIR": str(folder / "c"), "JUPYTER_DATA_DIR": str(folder / "d")}
    command = f"-m jupyterlab --allow-root --no-browser --port={port} --ServerApp.port_retries=0"
    command += " --IdentityProvider.token= --LabApp.news_url= --LabApp.check_for_updates_class="
    command += "jupyterlab.NeverCheckForUpdate"
    server = subprocess.Popen(
        [sys.executable, *command.split(), str(folder / "notebooks")],
        env=os.environ | home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.5)
    yield url
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="module")
def trace():
    q, k, v = alice_qkv(0)
    return trace_row(q[1, 467], k[1], v[1], 64)


def open_page(chromium, url, errors):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(url)
    return page


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def frame(text) -> str:
    """The selector of the visible picture that says `text`."""
    return f'svg[aria-label="{escape(text)}"]:visible'


def test_an_untrusted_clone_shows_pictures(chromium, lab):
    errors = []
    page = open_page(chromium, f"{lab}/lab/tree/{LESSON}.ipynb?reset", errors)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector(".jp-OutputArea-output img", timeout=60_000)
    page.wait_for_timeout(2000)
    images = page.query_selector_all(".jp-OutputArea-output img")
    images[0].scroll_into_view_if_needed()
    shot(page, "untrusted")
    assert len(images) == 2, "the explorer's PNG, and the chart"
    assert all(image.bounding_box()["width"] > 600 for image in images)
    assert "Predict." in page.inner_text(".jp-Notebook")
    page.close()


def run_lesson(chromium, lab, lesson, until):
    """The lesson's page, every cell run, once it shows `until`."""
    errors = []
    page = open_page(chromium, f"{lab}/lab/tree/{lesson}.ipynb?reset", errors)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector("text=| Idle", timeout=60_000)
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_selector(until, timeout=60_000)
    page.attn_errors = errors
    return page


@pytest.fixture(scope="module")
def page(chromium, lab):
    page = run_lesson(chromium, lab, LESSON, frame(explorer_text("Alice", 32, 0, RABBIT)))
    yield page
    page.close()


@pytest.fixture(scope="module")
def fold(chromium, lab, trace):
    page = run_lesson(chromium, lab, FOLD, frame(describe_step(trace, 0)))
    page.wait_for_selector("text=| Idle", timeout=60_000)
    yield page
    page.close()


def come_to(page, selector):
    page.locator(selector).first.scroll_into_view_if_needed()


def height(page, selector):
    return page.query_selector(selector).bounding_box()["height"]


def milliseconds(page, key, selector):
    """From a key press to the picture that answers it, by the page's own clock."""
    page.evaluate(
        """selector => { window.answered = new Promise(answer =>
            addEventListener('keydown', () => {
                const start = performance.now();
                const look = () => document.querySelector(selector)?.getClientRects().length
                    ? answer(performance.now() - start) : requestAnimationFrame(look);
                requestAnimationFrame(look);
            }, {once: true, capture: true})) }""",
        selector.removesuffix(":visible"),
    )
    page.keyboard.press(key)
    return page.evaluate("window.answered")


def step_through(page, control, said, name):
    """Slide from said[0]'s picture through all others and back, then 50 steps by the clock."""
    page.wait_for_selector(frame(said[0]))
    page.focus(f".widget-hslider:has-text('{control}') .noUi-handle")
    before = height(page, ".widget-html:has(svg):visible")
    ways = [("ArrowRight", said[1:]), ("ArrowLeft", said[-2::-1])]
    for key, texts in ways:
        for text in texts:
            page.keyboard.press(key)
            page.wait_for_selector(frame(text))
            assert height(page, ".widget-html:has(svg):visible") == before
    shot(page, name)
    turns = [(("ArrowRight", 1), ("ArrowLeft", 0))[n % 2] for n in range(50)]
    ms = statistics.median(milliseconds(page, key, frame(said[n])) for key, n in turns)
    print(f"\n{name}: median {ms:.0f} ms from key press to picture, 50 steps")


def block_stepper(page):
    """Controls and frames of lesson 03's second stepper; the first one sweeps."""
    return page.locator(".attn-stepper").nth(1), page.locator(".attn-frames").nth(1)


def test_the_stepper_steps_by_mouse_and_keyboard(fold, trace):
    controls, frames = block_stepper(fold)
    controls.scroll_into_view_if_needed()
    said = [describe_step(trace, n) for n in range(8)]
    fold.wait_for_selector(frame(said[0]))
    before = frames.bounding_box()["height"]
    controls.locator("[aria-label='Next block']").click()
    fold.wait_for_selector(frame(said[1]))
    controls.locator(".noUi-handle").focus()
    for n in range(2, 8):
        fold.keyboard.press("ArrowRight")
        fold.wait_for_selector(frame(said[n]))
        assert frames.bounding_box()["height"] == before
    shot(fold, "stepper")
    controls.locator("[aria-label='Previous block']").click()
    fold.wait_for_selector(frame(said[6]))
    controls.locator(".noUi-handle").focus()
    turns = [(("ArrowLeft", 5), ("ArrowRight", 6))[n % 2] for n in range(50)]
    ms = statistics.median(milliseconds(fold, key, frame(said[n])) for key, n in turns)
    print(f"\nstepper: median {ms:.0f} ms from key press to picture, 50 steps")


def test_the_stepper_plays(fold, trace):
    controls, _ = block_stepper(fold)
    controls.scroll_into_view_if_needed()
    controls.locator("button:has(.fa-play)").click()
    fold.wait_for_selector(frame(describe_step(trace, 7)), timeout=20_000)


def explorer_text(name, block_size, threshold=0.0, place=()):
    s = example_scores(name, *place)
    trace = trace_scores(s, s[:, None], block_size, threshold)
    return (
        f"{len(trace.states)} blocks, {trace.rescales} rescaled; "
        f"m = {trace.m[-1]:.2f}, l = {trace.l[-1]:.4g}"
    )


def test_the_explorer_keeps_what_the_lesson_promises(page):
    come_to(page, "select:has(option:text-is('layer 5'))")
    page.wait_for_selector("svg[aria-label*='5 rescaled'] >> text=“watch”")
    page.focus(".widget-hslider:has-text('threshold') .noUi-handle")
    for key, threshold in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        page.wait_for_selector(frame(explorer_text("Alice", 32, threshold, RABBIT)))
    layer = page.locator("select:has(option:text-is('layer 5'))")
    layer.select_option(label="layer 5")
    page.wait_for_selector("svg[aria-label*=' 0 rescaled'] >> text=“[CLS]”")
    layer.select_option(label="layer 0")


def test_the_explorer_shows_what_the_library_computes(page):
    come_to(page, "select:has(option:text-is('ramp up'))")
    select = page.locator("select:has(option:text-is('ramp up'))")
    for name in ("ramp down", "Gaussian", "one spike", "ramp up"):
        select.select_option(label=name)
        page.wait_for_selector(frame(explorer_text(name, 32)))
    page.focus(".widget-hslider:has-text('block size') .noUi-handle")
    for size in (16, 8):
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(frame(explorer_text("ramp up", size)))
    step_through(page, "threshold", [explorer_text("ramp up", 8, n) for n in range(17)], "explorer")


def test_a_quiz_answers(page):
    come_to(page, "button:text-is('an early maximum')")
    page.focus("button:text-is('an early maximum')")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Yes: then no later block beats it")


def test_nothing_complained_in_the_console(page):
    assert not [e for e in page.attn_errors if "favicon" not in e]


def test_an_exported_page_steps_without_kernel_and_network(chromium, trace, tmp_path):
    from nbconvert import HTMLExporter

    npm = shutil.which("npm")
    if npm is None:
        assert os.environ.get("CI") != "true", "npm is missing"
        pytest.skip("npm is missing")
    command = [npm, "install", "--silent", "--prefix", str(tmp_path), *NPM]
    subprocess.run(command, check=True, capture_output=True)
    modules = (tmp_path / "node_modules").as_uri()
    exporter = HTMLExporter(
        require_js_url=f"{modules}/requirejs/require.js",
        widget_renderer_url=f"{modules}/@jupyter-widgets/html-manager/dist/embed-amd.js",
        mathjax_url=f"{modules}/mathjax/MathJax.js?config=TeX-AMS-MML_SVG-full,Safe",
        embed_images=True,
    )
    notebook = notebooks.execute(notebooks.lessons([FOLD])[0])
    html = tmp_path / "lesson.html"
    html.write_text(exporter.from_notebook_node(notebook)[0])
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.goto(html.as_uri())
    page.wait_for_selector(".attn-stepper .noUi-handle", timeout=60_000)
    controls, _ = block_stepper(page)
    controls.locator("[aria-label='Next block']").click()
    page.wait_for_selector(frame(describe_step(trace, 1)))
    controls.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(frame(describe_step(trace, 2)))
    shot(page, "exported")
    context.close()


def test_the_tile_walk_steps_under_every_mask(chromium, lab):
    q, k, v = (x[1] for x in alice_qkv(0))
    walks = TileWalk(q, k, v, 128, row=369, word="“well”", window=128).walks
    said = {mask: [walk.describe(n) for n in range(16)] for mask, walk in walks.items()}
    page = run_lesson(chromium, lab, WALK, frame(said["every key"][0]))
    page.wait_for_selector("text=| Idle", timeout=120_000)  # a later cell turns its controls
    come_to(page, ".attn-stepper")
    for mask, texts in said.items():
        page.click(f"button:text-is('{mask}')")
        step_through(page, "tile", texts, f"tile walk, {mask}")
    page.click("[aria-label='Next tile']")
    page.wait_for_selector(frame(texts[1]))
    assert not [e for e in page.attn_errors if "favicon" not in e]
    page.close()


def test_the_backward_walk_steps_in_both_orders(chromium, lab):
    x = torch.zeros(32, 32)  # what it says depends on the tiles alone
    walks = BackwardWalk(x, x, x, x, 8).walks
    said = {order: [walk.describe(n) for n in range(16)] for order, walk in walks.items()}
    page = run_lesson(chromium, lab, BACKWARD, frame(said["keys outside"][0]))
    come_to(page, ".attn-stepper")
    for order, texts in said.items():
        page.click(f"button:text-is('{order}')")
        step_through(page, "tile", texts, f"backward walk, {order}")
    assert not [e for e in page.attn_errors if "favicon" not in e]
    page.close()


def test_the_mask_explorer_follows_its_sliders(chromium, lab):
    def said(Nq, padded=0):
        key_mask = torch.arange(16) < 16 - padded
        return view_mask(Mask(Nq, 16, True, None, key_mask), 4).describe()

    page = run_lesson(chromium, lab, MASKS, frame(said(16)))
    come_to(page, ".widget-hslider:has-text('queries Nq')")
    step_through(page, "queries Nq", [said(Nq) for Nq in range(16, 25)], "mask explorer")
    step_through(page, "padded keys", [said(16, n) for n in range(17)], "padded keys")
    assert not [e for e in page.attn_errors if "favicon" not in e]
    page.close()


def test_the_fit_explorer_follows_its_sliders(chromium, lab, monkeypatch):
    monkeypatch.setenv("ATTNLIB_REPLAY", "1")
    explorer = WillItFit(recordings.context())
    said = []
    for N in (2**i for i in range(14, 23)):
        explorer.N.value = N
        said.append(explorer.text)
    page = run_lesson(chromium, lab, CORES, frame(said[0]))
    come_to(page, ".widget-hslider:has-text('tokens N')")
    step_through(page, "tokens N", said, "fit explorer")
    assert not [e for e in page.attn_errors if "favicon" not in e]
    page.close()
