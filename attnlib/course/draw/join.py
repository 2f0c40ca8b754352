"""Weights and weighted values of blocks, as bars that add up. Lesson 03."""

from matplotlib.figure import Figure
from torch import Tensor

from attnlib.course.draw.style import LETTERS, PAIR, styled

Block = tuple[int, Tensor, Tensor]  # its number, weights p (n,), values v (n,)


@styled
def draw_join(panels: dict[str, list[Block]], title: str) -> Figure:
    """The sums l = sum p and o = sum p v of each panel's blocks, a bar each at one scale.

    A bar has a piece for every key with its number on it, in the colour of its block,
    and its sum at its end.
    """
    figure = Figure(figsize=(8, 2.9), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for ax, (name, blocks) in zip(axes, panels.items()):
        sums = {1: 0.0, 0: 0.0}
        for number, p, v in blocks:
            for weight, value in zip(p.tolist(), v.tolist()):
                for y, size in ((1, weight), (0, weight * value)):
                    ax.barh(y, size, 0.6, sums[y], color=PAIR[number], edgecolor="white")
                    if size >= 1:
                        style = {"color": "white", "ha": "center", "va": "center"}
                        ax.text(sums[y] + size / 2, y, f"{size:g}", **style)
                    sums[y] += size
        for y, total in sums.items():
            ax.text(total + 0.2, y, f"{total:g}", va="center", weight="bold")
        ax.set(yticks=(1, 0), ylim=(-0.6, 1.6), xticks=(0, 2, 4, 6, 8), xlim=(0, 9.4))
        ax.set_yticklabels(("l", "o"), fontsize=13)
        ax.set_title(name, fontsize=12)
        for label, letter in zip(ax.get_yticklabels(), "lo"):
            label.set_color(LETTERS[letter])
    return figure
