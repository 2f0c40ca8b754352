"""The course's look: one colour, one role.

Standard attention has the colour of the scores it keeps, the flash core that of its
state (m, l), torch's SDPA is grey.
"""

import functools
import os

import matplotlib as mpl
from matplotlib import pyplot as plt

Q, K, V, S, ML, O = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
GREY = "#666666"
LETTERS = {"q": Q, "k": K, "v": V, "s": S, "p": "#A34F83", "m": ML, "l": ML, "o": O}
STYLE = {
    "standard": {"color": S, "marker": "s", "linestyle": "-"},
    "flash": {"color": ML, "marker": "o", "linestyle": "-"},
    "compiled": {"color": "#7A3000", "marker": "D", "linestyle": "-."},
    "SDPA": {"color": GREY, "marker": "^", "linestyle": "--"},
}
LABEL = {
    "standard": "StdAttentionCord",
    "flash": "FlashAttentionCore",
    "compiled": "compiled step",
    "SDPA": "torch SDPA",
}
RC = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "attnlib",
    "savefig.dpi": 110,
}


def use_style() -> None:
    """The course's look for every figure drawn from now on; slides ask for more dots."""
    plt.rcParams.update(RC)
    if dpi := os.environ.get("ATTNLIB_DPI"):
        plt.rcParams.update({"figure.dpi": dpi, "savefig.dpi": dpi})


STEP_RC = {"font.size": 11, "axes.titlesize": 12, "axes.grid": False}
PAIR = (S, LETTERS["p"])  # neighbouring blocks alternate between these two


def styled(draw):
    """draw in the course's look, whatever the notebook has set."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with mpl.rc_context(RC | STEP_RC):
            return draw(*args, **kwargs)

    return styled
