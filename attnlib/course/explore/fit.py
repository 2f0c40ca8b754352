"""Will it fit? The bytes of one call of each core beside a card, exactly. Lesson 08."""

import ipywidgets as w
import torch

from attnlib.course.draw import shapes
from attnlib.course.draw.style import GREY, ML, O, Q, S
from attnlib.course.explore.base import FRAME, Explorer, say
from attnlib.course.measure.frontier import CARDS, SLACK, Job
from attnlib.memory import CUBLAS_WORKSPACE, GIB

SIZE = 880, 250  # pixels
LEFT, BAR = 130, 600  # of a card that is just full
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PEAK = {"standard": S, "flash": ML}
SAYS = {True: "fits", False: "does not fit", None: "too close to call"}


class WillItFit(Explorer):
    """Choose a call and a card; `context` is what CUDA takes of it, in bytes.

    `needs` are the bytes that each core needs, `fits` says whether the card has them:
    True, False, or None within a SLACK of its end, where nobody can say.
    """

    def __init__(self, context: int):
        self.context = context
        sizes = [(f"{2**i}k" if i < 10 else f"{2**i // 1024}M", 1024 * 2**i) for i in range(13)]
        self.N = w.SelectionSlider(options=sizes, value=16384, description="tokens N")
        self.batch = _powers(0, 6, 1, "batch")
        self.heads = _powers(0, 7, 8, "heads")
        self.d = _powers(4, 8, 64, "head size d")
        self.block = _powers(7, 13, 2048, "block size")
        self.dtype = w.Dropdown(options=DTYPES, description="dtype")
        self.mode = w.ToggleButtons(options=("forward", "training"), description="call")
        cards = [(f"{gib} GiB", gib) for gib in CARDS]
        self.card = w.Dropdown(options=cards, description="card")
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "258px"}), w.HTML()
        sliders = (self.N, self.batch, self.heads, self.d, self.block)
        for control in (*sliders, self.dtype, self.mode, self.card):
            control.style.description_width = "90px"
            control.observe(self._show, "value")
        self._show()
        rows = [w.HBox(sliders[:3]), w.HBox([*sliders[3:], self.dtype])]
        rows.append(w.HBox([self.card, self.mode]))
        picture = shapes.figure(self._draw(), SIZE)
        super().__init__([*rows, self.numbers, self.picture], picture, f"Will it fit? {self.text}")

    def _show(self, change=None):
        sizes = {name: getattr(self, name).value for name in ("heads", "d", "block", "batch")}
        N, self.parts = self.N.value, {}
        for core in PEAK:
            job = Job(core, self.mode.value, self.dtype.value, **sizes)
            results, rest = job.results(N), self.context + CUBLAS_WORKSPACE
            self.parts[core] = job.inputs(N), results, job.peak(N) - results, rest
        self.needs = {core: sum(parts) for core, parts in self.parts.items()}
        self.fits = {core: _fits(need, self.card.value * GIB) for core, need in self.needs.items()}
        self.text = "; ".join(
            f"{core} needs {need:,} bytes: {SAYS[self.fits[core]]}"
            for core, need in self.needs.items()
        )
        self.picture.value = shapes.svg(self._draw(), SIZE, self.text, "fit")
        self.numbers.value = say(self.text)

    def _draw(self):
        """A bar for each core, in parts; the dashed line is the end of the card."""
        card = self.card.value * GIB
        for core, top in (("standard", 40), ("flash", 130)):
            x, need = LEFT, self.needs[core]
            yield shapes.Text(LEFT - 12, top + 30, core, "end", PEAK[core], True)
            for part, color in zip(self.parts[core], (Q, O, PEAK[core], GREY)):
                right = min(x + BAR * part / card, 840)
                yield shapes.box(x, top, right - x, 44, color)
                x = right
            if x == 840:  # there is more than the page is wide
                yield shapes.Area([(840, top), (862, top + 22), (840, top + 44)], PEAK[core])
            words = f"{need / GIB:,.2f} GiB: {SAYS[self.fits[core]]}"
            yield shapes.Text(LEFT, top + 63, words, bold=not self.fits[core])
        dtype = str(self.dtype.value).removeprefix("torch.")
        job = f"N = {self.N.value:,}, {self.heads.value} heads of {self.d.value}, {dtype}"
        yield shapes.Text(LEFT, 20, f"{job}, {self.mode.value}")
        yield shapes.box(LEFT + BAR - 1, 26, 3, 190, "black")
        yield shapes.Text(LEFT + BAR, 20, f"the card ends: {self.card.value} GiB", "middle")
        yield from self._explain()

    def _explain(self):
        words = ("inputs", "results", "matrices", "tile and sums", "workspace and context")
        for x, word, color in zip((0, 90, 180, 285, 425), words, (Q, O, S, ML, GREY)):
            yield shapes.box(LEFT + x, 228, 14, 14, color)
            yield shapes.Text(LEFT + x + 20, 241, word)


def _fits(need: int, card: int) -> bool | None:
    return None if card - SLACK < need <= card else need <= card


def _powers(first: int, last: int, value: int, description: str) -> w.SelectionSlider:
    options = [2**i for i in range(first, last + 1)]
    return w.SelectionSlider(options=options, value=value, description=description)
