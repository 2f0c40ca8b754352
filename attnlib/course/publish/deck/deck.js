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
  Reveal.on("slidechanged", () => document.activeElement.blur());
  document.body.dataset.ready = "yes";
}

// In an explorer, its keys are its own; PageUp and PageDown always turn the page.
function keyboardCondition(event) {
  const at = document.activeElement;
  return !at.closest(".noUi-handle, select") &&
    !(at.closest("button, summary") && [" ", "Enter"].includes(event.key));
}

addEventListener("keydown", event => {
  if (!["PageUp", "PageDown"].includes(event.key) || !event.target.closest(".noUi-handle")) return;
  event.stopPropagation();
  event.key == "PageDown" ? Reveal.next() : Reveal.prev();
}, true);

addEventListener("load", start);
