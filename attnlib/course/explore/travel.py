"""How much travels? Choose a call, a bench and a tile; the tile's walk is counted. Lesson 11."""

import ipywidgets as w
import torch

from attnlib.course.draw.shapes import figure, svg
from attnlib.course.draw.travel import SIZE, Travel, describe_travel, draw_travel
from attnlib.course.explore.base import FRAME, Explorer, in_line, say
from attnlib.programs import key_loads, law, paper_tile, queries_outside, run, textbook
from attnlib.roofline import Roof, flops

BYTES = 2  # of a number: 16 bits


class HowMuchTravels(Explorer):
    """Choose N, d, the bench's M and a tile; `found` is what it takes and carries."""

    def __init__(self, roof: Roof):
        self.roof = roof
        self.N = _powers(9, 16, 8192, "tokens N")
        self.d = _powers(4, 8, 64, "head size d")
        sizes = [(f"{2**i} KiB", 1024 * 2**i) for i in range(4, 10)]
        self.M = w.SelectionSlider(options=sizes, value=65536, description="bench M")
        self.b = _powers(3, 11, 128, "queries b")
        self.c = _powers(3, 11, 64, "keys c")
        self.paper = w.Button(description="b = M / 4d", tooltip="the paper's choice of queries")
        self.paper.on_click(self._take_papers)
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "326px"}), w.HTML()
        controls = (self.N, self.d, self.M, self.b, self.c)
        for control in controls:
            control.observe(self._show, "value")
        self._show()
        children = [in_line(*controls, self.paper), self.numbers, self.picture]
        picture = figure(draw_travel(self.found, roof, self._call()), SIZE)
        super().__init__(children, picture, f"How much travels? {self.text}")

    def _take_papers(self, button):
        b = paper_tile(self.M.value, self.d.value, BYTES)
        self.b.value = min(self.b.options, key=lambda x: abs(x - b))

    def _show(self, change=None):
        N, d, M, b, c = (x.value for x in (self.N, self.d, self.M, self.b, self.c))
        self.found = walk(N, d, M, b, c)
        self.text = describe_travel(self.found)
        self.picture.value = svg(
            draw_travel(self.found, self.roof, self._call()), SIZE, self.text, "t"
        )
        self.numbers.value = say(self.text)

    def _call(self) -> str:
        return f"a head of N = {self.N.value:,}, d = {self.d.value}, 16 bits"


def walk(N: int, d: int, M: int, b: int, c: int) -> Travel:
    """A walk of tiles of b queries and c keys: its peak by running four of its tiles, what
    it carries by the law."""
    b, c = min(b, N), min(c, N)
    q, k = (torch.empty(min(2 * n, N), d, dtype=torch.float16, device="meta") for n in (b, c))
    peak = run(queries_outside, q, k, k, b, c).peak
    parts = 2 * b * d * BYTES, c * d * BYTES, b * c * BYTES
    rest = peak - sum(parts)
    moved, standard = (law(f, N, d, b, c, BYTES) for f in (queries_outside, textbook))
    keys = key_loads(N, d, b, BYTES)
    return Travel(b, c, M, (*parts, rest), keys, moved, standard, flops(N, d))


def _powers(first: int, last: int, value: int, description: str) -> w.SelectionSlider:
    options = [2**i for i in range(first, last + 1)]
    return w.SelectionSlider(options=options, value=value, description=description)
