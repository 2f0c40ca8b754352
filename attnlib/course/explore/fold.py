"""The fold, to step through and to play with: a row, its rescaling, a tree of merges."""

import ipywidgets as w
import torch
from torch import Tensor

from attnlib import SoftmaxState, online_attention
from attnlib.course.draw import fold as draw
from attnlib.course.draw.fold import Trace
from attnlib.course.draw.page import svg
from attnlib.course.explore.base import FRAME, Explorer, Stepper, say
from attnlib.course.inputs import alice_qkv, alice_tokens, example_scores
from attnlib.softmax import bracketing, fold_tree, relative_error


def trace_row(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Trace:
    """The trace of one query q (d,) against k (M, d), v (M, D), by the library's loop."""
    states = list(online_attention(q[None], k, v, block_size))
    return Trace(k @ q * q.shape[-1] ** -0.5, block_size, states)


def trace_scores(s: Tensor, v: Tensor, block_size: int, threshold: float = 0.0) -> Trace:
    """The same from scores s (M,) and values v (M, D), with a lazy threshold."""
    state, states = SoftmaxState.identity(s[None], v), []
    for s_j, v_j in zip(s[None].split(block_size, -1), v.split(block_size, -2)):
        state = state.lazy_merge(SoftmaxState.of(s_j, v_j), threshold)
        states.append(state)
    return Trace(s, block_size, states)


class BlockStepper(Stepper):
    """One query's row, block by block."""

    def __init__(self, q, k, v, block_size: int, labels=None):
        self.trace = trace_row(q, k, v, block_size)
        numbers = range(len(self.trace.states))
        figures = [draw.draw_block_step(self.trace, n, labels) for n in numbers]
        texts = [draw.describe_step(self.trace, n) for n in numbers]
        frames = [(svg(figure, text), text) for figure, text in zip(figures, texts)]
        last = len(frames) - 1
        text = f"Block stepper: {texts[last - 1]}"
        super().__init__({"": frames}, "block", figures[last - 1], text)


class RescalingExplorer(Explorer):
    """Choose the scores, the block size, a temperature and a lazy threshold."""

    def __init__(self):
        names = ("Alice", "Gaussian", "ramp up", "ramp down", "one spike")
        self.name = w.Dropdown(options=names, description="scores")
        self.layer = w.Dropdown(options=[("layer 0", 0), ("layer 5", 5)], description="layer")
        self.head = w.IntSlider(1, 0, 11, description="head", continuous_update=False)
        words = [(f"{n} {word}", n) for n, word in enumerate(alice_tokens())]
        self.token = w.Dropdown(options=words, value=369, description="query")
        sizes = [2**i for i in range(3, 8)]
        self.block_size = w.SelectionSlider(options=sizes, value=32, description="block size")
        self.temperature = w.FloatLogSlider(
            1, base=2, min=-2, max=2, step=0.5, description="temperature"
        )
        self.threshold = w.FloatSlider(0, min=0, max=16, step=1, description="threshold")
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "375px"}), w.HTML()
        controls = (self.name, self.layer, self.head, self.token, self.block_size)
        controls += (self.temperature, self.threshold)
        for control in controls:
            control.style.description_width = "90px"
            control.observe(self._show, "value")
        self._show()
        rows = [w.HBox(controls[:3]), w.HBox(controls[3:5]), w.HBox(controls[5:])]
        children = [*rows, self.numbers, self.picture]
        steps = f"{self.trace.rescales} of {len(self.trace.states) - 1} steps"
        title = f"The maximum m rose in {steps}, and all before was rescaled"
        picture = draw.draw_rescaling(self.trace, title)
        super().__init__(children, picture, f"Rescaling explorer: {self.text}")

    def _show(self, change=None):
        alice = self.name.value == "Alice"
        for control in (self.layer, self.head, self.token):
            control.disabled = not alice
        place = self.layer.value, self.head.value, self.token.value
        s = example_scores(self.name.value, *place) / self.temperature.value
        v = alice_qkv(place[0])[2][place[1]] if alice else torch.eye(len(s))
        size, threshold = self.block_size.value, self.threshold.value
        self.trace = trace = trace_scores(s, v, size, threshold)
        exact = torch.softmax(s.double(), -1) @ v.double()
        self.error = relative_error(trace.states[-1].finalise()[0][0], exact)
        self.text = (
            f"{len(trace.states)} blocks, {trace.rescales} rescaled; "
            f"m = {trace.m[-1]:.2f}, l = {trace.l[-1]:.4g}"
        )
        labels = alice_tokens() if alice else None
        self.picture.value = draw.svg_rescaling(trace, self.text, labels)
        self.numbers.value = say(f"{self.text}; error against float64 {self.error:.1e}")


class MergeTree(Explorer):
    """Eight blocks and a bracketing of them: every root is the same state."""

    def __init__(self, leaves: list[SoftmaxState] | None = None):
        self.leaves = leaves or eight_blocks()
        kinds = ("balanced", "left fold", "right fold", "shuffled")
        self.kind = w.ToggleButtons(options=kinds, description="bracketing")
        self.shuffle = w.Button(description="Shuffle again", icon="random")
        self.picture, self.numbers = w.HTML(layout=FRAME | {"height": "375px"}), w.HTML()
        self.seed = 0
        self.kind.observe(self._show, "value")
        self.shuffle.on_click(self._shuffle)
        self._show()
        children = [self.kind, self.shuffle, self.numbers, self.picture]
        super().__init__(children, self.figure, f"Merge tree: {self.text}")

    def _shuffle(self, button):
        self.seed += 1
        if self.kind.value == "shuffled":
            self._show()
        else:
            self.kind.value = "shuffled"

    def _show(self, change=None):
        tree = bracketing(self.kind.value, len(self.leaves), self.seed)
        self.root = fold_tree(tree, self.leaves)
        exact = fold_tree(tree, [SoftmaxState(*(x.double() for x in s)) for s in self.leaves])
        self.error = (self.root.l.double() / exact.l - 1).abs().max().item()
        m, l = self.root.m.item(), self.root.l.item()
        self.text = f"{self.kind.value}: the root is m = {m:.2f}, l = {l:.5f}"
        self.figure = draw.draw_merge_tree(
            tree, self.leaves, "Whatever the brackets, one root (each node: m, l)"
        )
        self.picture.value = svg(self.figure, self.text)
        self.numbers.value = say(f"{self.text}; rounding error of l {self.error:.1e}")


def eight_blocks() -> list[SoftmaxState]:
    """Eight states of 12 random keys each, one query."""
    g = torch.Generator().manual_seed(0)
    s, v = 3 * torch.randn(8, 1, 12, generator=g), torch.randn(8, 12, 2, generator=g)
    return [SoftmaxState.of(s_j, v_j) for s_j, v_j in zip(s, v)]
