"""The fold, to step through and to play with: a row, its rescaling, its tree of merges."""

from functools import cache

import ipywidgets as w
import torch
from torch import Tensor

from attnlib import SoftmaxState, online_attention
from attnlib.course.draw import fold as draw
from attnlib.course.draw import page, shapes
from attnlib.course.draw.fold import SIZE, Trace
from attnlib.course.explore.base import FRAME, Explorer, Stepper, in_line, say
from attnlib.course.inputs import alice_qkv, alice_tokens, example_scores
from attnlib.softmax import relative_error


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
        frames = [(page.svg(figure, text), text) for figure, text in zip(figures, texts)]
        last = len(frames) - 1
        text = f"Block stepper: {texts[last - 1]}"
        super().__init__({"": frames}, "block", figures[last - 1], text)


class RescalingExplorer(Explorer):
    """Choose the scores, the block size, a temperature and a lazy threshold."""

    def __init__(self):
        names = ("Alice", "Gaussian", "ramp up", "ramp down", "one spike")
        self.name = w.Dropdown(options=names, description="scores")
        self.layer = w.Dropdown(options=[("layer 0", 0), ("layer 5", 5)], description="layer")
        self.head = w.IntSlider(3, 0, 11, description="head", continuous_update=False)
        words = [(f"{n} {word}", n) for n, word in enumerate(alice_tokens())]
        self.token = w.Dropdown(options=words, value=211, description="query")
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
            control.observe(self._show, "value")
        self._show()
        children = [in_line(*controls), self.numbers, self.picture]
        picture = shapes.figure(draw.draw_rescaling(self.trace, self.labels), SIZE)
        super().__init__(children, picture, f"Rescaling explorer: {self.text}")

    def _show(self, change=None):
        alice = self.name.value == "Alice"
        for control in (self.layer, self.head, self.token):
            control.disabled = not alice
        place = self.layer.value, self.head.value, self.token.value
        s, v = _example(self.name.value, *place)
        s = s / self.temperature.value
        size, threshold = self.block_size.value, self.threshold.value
        self.trace = trace = trace_scores(s, v, size, threshold)
        exact = torch.softmax(s.double(), -1) @ v.double()
        self.error = relative_error(trace.states[-1].finalise()[0][0], exact)
        self.text = (
            f"{len(trace.states)} blocks, {trace.rescales} rescaled; "
            f"m = {trace.m[-1]:.2f}, l = {trace.l[-1]:.4g}"
        )
        self.labels = alice_tokens() if alice else None
        drawn = draw.draw_rescaling(trace, self.labels)
        self.picture.value = shapes.svg(drawn, SIZE, self.text, "rescaling")
        self.numbers.value = say(f"{self.text}; error against float64 {self.error:.1e}")


@cache
def _example(name, layer, head, token) -> tuple[Tensor, Tensor]:
    """Scores (M,) and values (M, D); a slider that leaves them alone need not wait for them."""
    s = example_scores(name, layer, head, token)
    return s, alice_qkv(layer)[2][head] if name == "Alice" else torch.eye(len(s))


def trace_tree(tree, leaves: list[SoftmaxState]) -> dict:
    """The state at every node of a bracketing, by `merge`: leaf numbers and nested pairs
    to states; the whole tree's is the root."""
    if isinstance(tree, int):
        return {tree: leaves[tree]}
    left, right = (trace_tree(child, leaves) for child in tree)
    return left | right | {tree: left[tree[0]].merge(right[tree[1]])}


def eight_blocks() -> list[SoftmaxState]:
    """Eight states of 12 random keys each, one query."""
    g = torch.Generator().manual_seed(0)
    s, v = 3 * torch.randn(8, 1, 12, generator=g), torch.randn(8, 12, 2, generator=g)
    return [SoftmaxState.of(s_j, v_j) for s_j, v_j in zip(s, v)]
