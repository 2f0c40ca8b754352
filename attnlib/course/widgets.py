"""Explorers: pictures of real traces that move.

Every explorer shows a meaningful state before any click, keeps its height, and
carries a PNG of that state for GitHub and for a notebook that nobody trusts yet.
Steps that are known beforehand lie ready in a `Stack`, linked in the browser:
they work in an exported page, without kernel and without network.
"""

import io
import re
from html import escape

import ipywidgets as w
import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from attnlib import SoftmaxState
from attnlib.course import steps
from attnlib.course.inputs import alice_qkv, alice_tokens

FRAME = {"width": "900px", "height": "400px", "overflow": "hidden"}


class Explorer(w.VBox):
    """A box of widgets with a sentence for its text and a picture for its fallback.

    One that answers without Python says `needs_kernel = False` and stays live in
    exported slides, where the others show their picture.
    """

    needs_kernel = True

    def __init__(self, children, picture: Figure, text: str):
        super().__init__(children, layout={"width": "920px"})
        self._png, self._text = steps.png(picture), text
        if self.needs_kernel:
            self.add_class("attn-needs-kernel")

    def __repr__(self):
        return self._text

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/plain": self._text, "image/png": self._png}


class Stepper(Explorer):
    """Ready frames, one a step: Play, Previous, Next, or the arrow keys.

    `frames` holds a list of (SVG, its sentence) for every choice, all of one
    length; `step` is what one frame is called.
    """

    needs_kernel = False

    def __init__(self, frames: dict[str, list[tuple[str, str]]], step: str, picture, text):
        last = max(map(len, frames.values())) - 1
        self.play = w.Play(min=0, max=last, interval=1200, description="Play")
        self.slider = w.IntSlider(min=0, max=last, description=step, readout=False)
        w.jslink((self.play, "value"), (self.slider, "value"))
        controls = w.HBox([w.HTML(_arrows(step)), self.slider, self.play])
        controls.add_class("attn-stepper")
        stacks = [self._stack(pictures) for pictures in frames.values()]
        self.choice = w.ToggleButtons(options=list(frames))
        every = w.Stack(stacks, selected_index=0)
        every.add_class("attn-frames")
        w.jslink((self.choice, "index"), (every, "selected_index"))
        choices = [self.choice] if len(frames) > 1 else []
        super().__init__([*choices, controls, every], picture, text)

    def _stack(self, pictures):
        frames = [w.HTML(say(text) + svg, layout=FRAME) for svg, text in pictures]
        stack = w.Stack(frames, selected_index=0)
        w.jslink((self.slider, "value"), (stack, "selected_index"))
        return stack


class BlockStepper(Stepper):
    """One query's row, block by block."""

    def __init__(self, q, k, v, block_size: int, labels=None):
        self.trace = steps.trace_row(q, k, v, block_size)
        numbers = range(len(self.trace.states))
        figures = [steps.draw_block_step(self.trace, n, labels) for n in numbers]
        texts = [steps.describe_step(self.trace, n) for n in numbers]
        frames = [(_svg(figure, text), text) for figure, text in zip(figures, texts)]
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
        picture = steps.draw_rescaling(self.trace, "scores, and the reference m of each block")
        super().__init__(children, picture, f"Rescaling explorer: {self.text}")

    def _show(self, change=None):
        alice = self.name.value == "Alice"
        for control in (self.layer, self.head, self.token):
            control.disabled = not alice
        place = self.layer.value, self.head.value, self.token.value
        s = steps.example_scores(self.name.value, *place) / self.temperature.value
        v = alice_qkv(place[0])[2][place[1]] if alice else torch.eye(len(s))
        size, threshold = self.block_size.value, self.threshold.value
        self.trace = trace = steps.trace_scores(s, v, size, threshold)
        self.error = steps.relative_error(trace, v)
        self.text = (
            f"{len(trace.states)} blocks, {trace.rescales} rescaled; "
            f"m = {trace.m[-1]:.2f}, l = {trace.l[-1]:.4g}"
        )
        labels = alice_tokens() if alice else None
        self.picture.value = steps.svg_rescaling(trace, self.text, labels)
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
        tree = steps.bracketing(self.kind.value, len(self.leaves), self.seed)
        self.root = steps.fold_tree(tree, self.leaves)
        exact = steps.fold_tree(tree, [SoftmaxState(*(x.double() for x in s)) for s in self.leaves])
        self.error = (self.root.l.double() / exact.l - 1).abs().max().item()
        m, l = self.root.m.item(), self.root.l.item()
        self.text = f"{self.kind.value}: the root is m = {m:.2f}, l = {l:.5f}"
        self.figure = steps.draw_merge_tree(tree, self.leaves, "each node: m, l")
        self.picture.value = _svg(self.figure, self.text)
        self.numbers.value = say(f"{self.text}; rounding error of l {self.error:.1e}")


class Quiz(w.VBox):
    """A question to answer before running on: `choices` maps an answer to feedback;
    the right one's feedback starts with "Yes". Answers without a kernel."""

    def __init__(self, question: str, choices: dict[str, str]):
        self.question, self.choices = question, choices
        heading = w.HTML(f"<b>Predict.</b> {escape(question)}")
        self.answers = w.ToggleButtons(options=list(choices), index=None)
        self.answers.style.button_width = "auto"
        feedback = [w.HTML(say(text)) for text in choices.values()]
        self.feedback = w.Stack(feedback, layout={"min_height": "32px"})
        w.jslink((self.answers, "index"), (self.feedback, "selected_index"))
        super().__init__([heading, self.answers, self.feedback])
        self.add_class("attn-quiz")

    def __repr__(self):
        return f"Predict. {self.question}  " + "  |  ".join(self.choices)

    def _repr_mimebundle_(self, **kwargs):
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": repr(self)}


# Previous and Next press the slider's own arrow keys: they need no kernel.
_PRESS = (
    "this.closest('.attn-stepper').querySelector('.noUi-handle').dispatchEvent("
    "new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
)


def _arrows(step: str) -> str:
    return "".join(
        f'<button type="button" class="jupyter-button" aria-label="{name} {step}" '
        f'onclick="{_PRESS.format(key=key)}">{label}</button> '
        for name, label, key in (
            ("Previous", "◀ Previous", "ArrowLeft"),
            ("Next", "Next ▶", "ArrowRight"),
        )
    )


def eight_blocks() -> list[SoftmaxState]:
    """Eight states of 12 random keys each, one query."""
    g = torch.Generator().manual_seed(0)
    s, v = 3 * torch.randn(8, 1, 12, generator=g), torch.randn(8, 12, 2, generator=g)
    return [SoftmaxState.of(s_j, v_j) for s_j, v_j in zip(s, v)]


def say(text: str) -> str:
    style = "height: 1.6em; line-height: 1.6em; font-size: 15px; white-space: nowrap"
    return f'<div style="{style}" aria-live="polite">{escape(text)}</div>'


def _svg(figure: Figure, text: str) -> str:
    """The figure as inline SVG with real text and a name for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "attnlib"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"(\d\.\d)\d+", r"\1", buffer.getvalue())  # a tenth of a point will do
    # matplotlib's style sheet says "*": inline it would restyle the whole page, slowly.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    name = f'<svg role="img" aria-label="{escape(text)}" stroke-linejoin="round" '
    return svg[svg.index("<svg") :].replace("<svg ", name, 1)
