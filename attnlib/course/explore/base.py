"""What explorers are made of.

Every explorer shows a meaningful state before any click, keeps its height, and
carries a PNG of that state for GitHub and for a notebook that nobody trusts yet.
Steps that are known beforehand lie ready in a `Stack`, linked in the browser:
they work in an exported page, without kernel and without network.
"""

from html import escape

import ipywidgets as w
from matplotlib.figure import Figure

from attnlib.course.draw.page import png

FRAME = {"width": "900px", "height": "400px", "overflow": "hidden"}


class Explorer(w.VBox):
    """A box of widgets with a sentence for its text and a picture for its fallback.

    One that answers without Python says `needs_kernel = False` and stays live in
    exported slides, where the others show their picture.
    """

    needs_kernel = True

    def __init__(self, children, picture: Figure, text: str):
        super().__init__(children, layout={"width": "920px"})
        self._png, self._text = png(picture), text
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


def in_line(*controls: w.Widget) -> w.GridBox:
    """Controls in three columns, each name as wide as the others."""
    for control in controls:
        control.style.description_width = "100px"
        control.layout.width = "auto"
    columns = {"grid_template_columns": "repeat(3, 296px)", "grid_gap": "2px 8px"}
    return w.GridBox(controls, layout=columns)


class Quiz(w.VBox):
    """A question to answer before running on: `choices` maps an answer to feedback;
    the right one's feedback starts with "Yes". Answers without a kernel."""

    def __init__(self, question: str, choices: dict[str, str]):
        self.question, self.choices = question, choices
        right = _right(choices)
        heading = w.HTML(f"{_answered(right)}<b>Predict.</b> {escape(question)}")
        self.answers = w.ToggleButtons(options=list(choices), index=None)
        self.answers.style.button_width = "auto"
        feedback = [w.HTML(say(text)) for text in choices.values()]
        self.feedback = w.Stack(feedback, layout={"min_height": "32px"})
        w.jslink((self.answers, "index"), (self.feedback, "selected_index"))
        super().__init__([heading, self.answers, self.feedback])
        self.add_class("attn-quiz")
        self.add_class(f"attn-right-{right}")

    def __repr__(self):
        return f"Predict. {self.question}  " + "  |  ".join(self.choices)

    def _repr_mimebundle_(self, **kwargs):
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": repr(self)}


def _right(choices: dict[str, str]) -> int:
    right = [n for n, text in enumerate(choices.values()) if text.startswith("Yes")]
    if len(right) != 1:
        raise ValueError(f"choices must have one feedback that starts with Yes, got {choices}")
    return right[0]


def _answered(right: int) -> str:
    """The answer that is chosen: the right one green with a tick, any other red with a cross."""
    chosen = ".attn-quiz button.mod-active"
    good = f".attn-right-{right} button:nth-of-type({right + 1}).mod-active"
    return (
        "<style>"
        + "".join(
            f"{which} {{ background: {color} !important; color: white !important; }} "
            f"{which}::before {{ content: '{sign} '; }} "
            for which, color, sign in (
                (chosen, "#a34700", "✗"),
                (f"{good}.mod-active", "#007a59", "✓"),
            )
        )
        + "</style>"
    )


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


def say(text: str) -> str:
    style = "height: 1.6em; line-height: 1.6em; font-size: 15px; white-space: nowrap"
    return f'<div style="{style}" aria-live="polite">{escape(text)}</div>'
