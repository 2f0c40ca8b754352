"""Will it fit? The bytes of one call of each core beside a card, exactly. Lesson 08."""

import ipywidgets as w
import torch

from attnlib.course.draw.fit import PEAK, SIZE, Need, describe_fit, draw_fit
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.explore.base import FRAME, Explorer, in_line, say
from attnlib.course.measure.frontier import CARDS, SLACK, Job
from attnlib.memory import CUBLAS_WORKSPACE, GIB

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        self.mode = w.Dropdown(options=("forward", "training"), description="call")
        cards = [(f"{gib} GiB", gib) for gib in CARDS]
        self.card = w.Dropdown(options=cards, description="card")
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "294px"}), w.HTML()
        controls = (self.N, self.batch, self.heads, self.d, self.block, self.dtype)
        controls += (self.card, self.mode)
        for control in controls:
            control.observe(self._show, "value")
        self._show()
        children = [in_line(*controls), self.numbers, self.picture]
        picture, text = figure(self._draw(), SIZE), f"Will it fit? {self.text}"
        super().__init__(children, picture, text)

    @property
    def needs(self) -> dict[str, int]:
        return {core: need.bytes for core, need in self.found.items()}

    @property
    def fits(self) -> dict[str, bool | None]:
        return {core: need.fits for core, need in self.found.items()}

    def _show(self, change=None):
        sizes = {name: getattr(self, name).value for name in ("heads", "d", "block", "batch")}
        N, self.found = self.N.value, {}
        for core in PEAK:
            job = Job(core, self.mode.value, self.dtype.value, **sizes)
            results, rest = job.results(N), self.context + CUBLAS_WORKSPACE
            parts = job.inputs(N), results, job.peak(N) - results, rest
            self.found[core] = Need(parts, _fits(sum(parts), self.card.value * GIB))
        self.text = describe_fit(self.found)
        self.picture.value = svg(self._draw(), SIZE, self.text, "fit")
        self.numbers.value = say(self.text)

    def _draw(self):
        dtype = str(self.dtype.value).removeprefix("torch.")
        call = f"N = {self.N.value:,}, {self.heads.value} heads of {self.d.value}, {dtype}"
        return draw_fit(self.found, f"{call}, {self.mode.value}", self.card.value * GIB)


def _fits(need: int, card: int) -> bool | None:
    return None if card - SLACK < need <= card else need <= card


def _powers(first: int, last: int, value: int, description: str) -> w.SelectionSlider:
    options = [2**i for i in range(first, last + 1)]
    return w.SelectionSlider(options=options, value=value, description=description)
