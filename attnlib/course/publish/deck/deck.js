// Typeset, bring the explorers to life, fit every slide to its page, then start.
const PAGE = {width: 1280, height: 720};

const isWide = pre => pre.scrollWidth > pre.clientWidth;

function fits(slide) {
  return slide.scrollHeight <= PAGE.height && slide.scrollWidth <= PAGE.width;
}

// As large as fits, up to a fifth more. What is too high puts results beside their
// code; then pictures give way, down to 280 px; then everything but the heading.
// A sentence that is too wide wraps; a table, or what is still too wide, gets smaller.
function fit(slide) {
  const pres = [...slide.querySelectorAll("pre")];
  for (const pre of pres.filter(isWide))
    if (pre.textContent.trim().split("\n").length < 3) pre.style.whiteSpace = "pre-wrap";
  const zoom = z => slide.style.setProperty("--zoom", z.toFixed(2));
  slide.classList.toggle("beside", !fits(slide));
  for (let px = 480; px >= 280 && !fits(slide); px -= 20)
    slide.style.setProperty("--picture", `${px}px`);
  let z = 1.2;
  for (zoom(z); z > 0.5 && !(fits(slide) && (z < 1 || !pres.some(isWide))); z -= 0.02) zoom(z);
  for (const pre of pres.filter(isWide))
    pre.style.fontSize = `${22 * pre.clientWidth / pre.scrollWidth - 0.1}px`;
}

// Widgets come in by and by: wait until no more do.
async function stillness() {
  const count = () => document.querySelectorAll(".jupyter-widgets *").length;
  for (let before = -1; before != count();) {
    before = count();
    await new Promise(done => setTimeout(done, 250));
  }
}

// A stepper's frames are fragments, so that a clicker steps through them and then goes on:
// for each but the first an empty one at the end of the cell. What the slide shows of them
// moves the slider, and the slider, whoever moves it, what the slide shows of them.
const handleOf = stepper => stepper.querySelector(".noUi-handle");
const framesOf = new Map(), moving = new Set();
const shown = stepper => framesOf.get(stepper).filter(e => e.matches(".visible")).length;
const value = handle => Number(handle.getAttribute("aria-valuenow"));

function makeFragments(stepper) {
  const last = Number(handleOf(stepper).getAttribute("aria-valuemax"));
  framesOf.set(stepper, Array.from({length: last}, () => {
    const frame = document.createElement("span");
    frame.className = "fragment attn-frame";
    return frame;
  }));
  stepper.closest(".jp-Cell").append(...framesOf.get(stepper));
  new MutationObserver(() => tellSlide(stepper))
    .observe(handleOf(stepper), {attributeFilter: ["aria-valuenow"]});
}

function tellSlide(stepper) {
  const n = value(handleOf(stepper));
  if (moving.has(stepper) || n == shown(stepper)) return;
  if (Reveal.getCurrentSlide()?.contains(stepper))
    Reveal.navigateFragment(Number(framesOf.get(stepper)[0].dataset.fragmentIndex) + n - 1);
}

// One frame after the other: a widget that is gone before it came is an error to its library.
async function tellSlider(stepper) {
  if (moving.has(stepper)) return;
  moving.add(stepper);
  for (let ahead; ahead = shown(stepper) - value(handleOf(stepper));) {
    const key = ahead > 0 ? "ArrowRight" : "ArrowLeft";
    handleOf(stepper).dispatchEvent(new KeyboardEvent("keydown", {key}));
    for (let n = 0; n < 2; n++) await new Promise(requestAnimationFrame);
  }
  moving.delete(stepper);
}

const tellSliders = () => framesOf.forEach((frames, stepper) => tellSlider(stepper));

async function start() {
  await MathJax.startup.promise;
  await MathJax.typesetPromise();
  // The speaker's window has no style sheet that would hide these.
  document.querySelectorAll(".notes mjx-assistive-mml").forEach(e => e.remove());
  if (window.require) {
    MathJax.Hub = {Queue: ([,, element]) => MathJax.typesetPromise([element])}; // as widgets ask
    const embed = await new Promise(done =>
      require(["@jupyter-widgets/html-manager/dist/libembed-amd"], done));
    await embed.renderWidgets();
    await stillness();
  }
  await document.fonts.ready;
  const pages = document.querySelectorAll(".slides > section > section");
  pages.forEach(page => page.classList.add("page"));
  document.querySelectorAll(".page .attn-stepper").forEach(makeFragments);
  document.body.classList.add("measuring");
  pages.forEach(fit);
  document.body.classList.remove("measuring");
  const printing = /print-pdf/.test(location.search);
  const ready = new Promise(done => Reveal.on(printing ? "pdf-ready" : "ready", done));
  Reveal.initialize({
    ...PAGE, margin: 0, center: false, transition: "none", controls: false, slideNumber: "c/t",
    navigationMode: "linear", hash: true, pdfMaxPagesPerSlide: 1,
    pdfSeparateFragments: false, plugins: [RevealNotes], keyboardCondition,
  });
  await ready;
  for (const event of ["slidechanged", "fragmentshown", "fragmenthidden"])
    Reveal.on(event, tellSliders);
  Reveal.on("slidechanged", () => document.activeElement.blur());
  document.body.dataset.ready = "yes";
}

// A control keeps the keys that it answers to; all others are the clicker's. PageUp and
// PageDown are always the clicker's, and after a click of the mouse every key is.
function keyboardCondition(event) {
  const at = document.activeElement;
  return !(at.closest(".noUi-handle") && /^(Arrow|Home|End)/.test(event.key)) &&
    !at.closest("select") &&
    !(at.closest("button, summary") && [" ", "Enter"].includes(event.key));
}

addEventListener("keydown", event => {
  if (!["PageUp", "PageDown"].includes(event.key) || !event.target.closest(".noUi-handle")) return;
  event.stopPropagation();
  event.key == "PageDown" ? Reveal.next() : Reveal.prev();
}, true);

addEventListener("click", event => {
  if (event.detail) event.target.closest("button")?.blur(); // not one by keyboard
});

addEventListener("load", start);
