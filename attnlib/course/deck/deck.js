// Typeset, bring the explorers to life, fit every slide to its page, then start.
const PAGE = {width: 1280, height: 720};

function fits(slide) {
  return slide.scrollHeight <= PAGE.height && slide.scrollWidth <= PAGE.width;
}

// What is too high puts results beside their code; then pictures give way, down to
// 280 px; then all of the slide gets smaller.
function fit(slide) {
  slide.classList.toggle("beside", !fits(slide));
  for (let px = 500; px >= 280 && !fits(slide); px -= 20)
    slide.style.setProperty("--picture", `${px}px`);
  for (let zoom = 0.98; zoom >= 0.5 && !fits(slide); zoom -= 0.02)
    slide.style.setProperty("--zoom", zoom);
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
  }
  await document.fonts.ready;
  document.querySelectorAll(".slides > section > section").forEach(fit);
  document.body.classList.add("fitted");
  await Reveal.initialize({
    ...PAGE, margin: 0, center: false, transition: "none", controls: false, slideNumber: "c/t",
    navigationMode: "linear", hash: true, pdfMaxPagesPerSlide: 1,
    pdfSeparateFragments: false, plugins: [RevealNotes], keyboardCondition,
  });
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
