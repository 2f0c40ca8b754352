"""A figure on a page: as a PNG, as inline SVG, shown with its words."""

import base64
import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a PNG whose text is `alt`, for who cannot see it."""
    from IPython.display import display  # a machine that measures may lack it

    display({"image/png": png(figure), "text/plain": alt}, raw=True)


def png(figure: Figure) -> str:
    """The figure as a PNG in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def svg(figure: Figure, text: str) -> str:
    """The figure as inline SVG with real text and a name for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "attnlib"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"(\d\.\d)\d+", r"\1", buffer.getvalue())  # a tenth of a point will do
    # matplotlib's style sheet says "*": inline it would restyle the whole page, slowly.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    name = f'<svg role="img" aria-label="{escape(text)}" stroke-linejoin="round" '
    return svg[svg.index("<svg") :].replace("<svg ", name, 1)
