"""The mask explorer: `view_mask` asks `attnlib.masks`, and keeps what it says."""

import ipywidgets as w
import torch

from attnlib.course.draw.masks import SIZE, MaskView, draw_mask
from attnlib.course.draw.shapes import figure, svg
from attnlib.course.explore.base import FRAME, Explorer, in_line, say
from attnlib.masks import Mask, visible


def view_mask(mask: Mask, block_size: int) -> MaskView:
    """What the library's mask shows, hides and skips; a key_mask must be (Nk,)."""
    see = visible(mask.Nq, mask.Nk, causal=mask.causal, window=mask.window)  # (Nq, Nk)
    padded = torch.zeros(mask.Nk, dtype=torch.bool)
    if mask.key_mask is not None:
        padded = ~mask.key_mask
    tiles = [tile for _, row in mask.tile_rows(block_size) for tile in row]
    computed = {(tile.rows.start, tile.cols.start) for tile in tiles}
    every = [tile for _, row in Mask(mask.Nq, mask.Nk).tile_rows(block_size) for tile in row]
    return MaskView(
        see & ~padded,
        padded,
        full=[tile for tile in tiles if not tile.partial],
        partial=[tile for tile in tiles if tile.partial],
        skipped=[tile for tile in every if (tile.rows.start, tile.cols.start) not in computed],
    )


class MaskExplorer(Explorer):
    """Choose sizes, masks and a block size; see which tiles are computed."""

    def __init__(self):
        self.Nq = w.IntSlider(16, 1, 32, description="queries Nq")
        self.Nk = w.IntSlider(16, 0, 32, description="keys Nk")
        self.block_size = w.IntSlider(4, 1, 40, description="block size")
        self.causal = w.Checkbox(True, description="causal")
        windows = [("none", 0), *((str(n), n) for n in range(1, 33))]
        self.window = w.SelectionSlider(options=windows, value=0, description="window")
        self.padded = w.IntSlider(0, 0, 32, description="padded keys")
        self.side = w.Dropdown(options=["left", "right"], value="right", description="on the")
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "392px"}), w.HTML()
        controls = (self.Nq, self.Nk, self.block_size, self.padded, self.side, self.window)
        controls += (self.causal,)
        for control in controls:
            control.observe(self._show, "value")
        self._show()
        picture = figure(draw_mask(self.view), SIZE)
        children = [in_line(*controls), self.numbers, self.picture]
        super().__init__(children, picture, f"Mask explorer: {self.text}")

    def _show(self, change=None):
        Nk, window = self.Nk.value, self.window.value or None
        self.causal.disabled = window is not None  # which implies it
        seen = torch.arange(Nk) >= self.padded.value
        key_mask = seen if self.side.value == "left" else seen.flip(0)
        self.mask = Mask(self.Nq.value, Nk, self.causal.value, window, key_mask)
        self.view = view_mask(self.mask, self.block_size.value)
        self.text = self.view.describe()
        self.picture.value = svg(draw_mask(self.view), SIZE, self.text, "mask")
        self.numbers.value = say(self.text.partition(";")[0])  # who sees nothing stands below
