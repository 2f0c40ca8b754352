"""Weights and weighted values of blocks, as bars that add up. Lesson 03."""

from fractions import Fraction

from matplotlib.figure import Figure
from torch import Tensor

from attnlib.course.draw.style import LETTERS, PAIR, styled

Block = tuple[int, Tensor, Tensor]  # its number, weights p (n,), values v (n,)


def said(size: float) -> str:
    """A number as a pencil writes it: 1.5, and 1/4 of what is below 1."""
    return f"{Fraction(size)}" if size < 1 else f"{size:g}"


@styled
def draw_join(panels: dict[str, list[Block]], title: str) -> Figure:
    """The sums l = sum p and o = sum p v of each panel's blocks, a bar each at one scale.

    A bar has a piece for every key with its number on it, in the colour of its block,
    and its sum at its end.
    """
    figure = Figure(figsize=(8, 2.9), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    longest = max(sum((p @ v).item() for _, p, v in blocks) for blocks in panels.values())
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for ax, (name, blocks) in zip(axes, panels.items()):
        sums, terms = {1: 0.0, 0: 0.0}, {1: [], 0: []}
        for number, p, v in blocks:
            for weight, value in zip(p.tolist(), v.tolist()):
                for y, size in ((1, weight), (0, weight * value)):
                    ax.barh(y, size, 0.6, sums[y], color=PAIR[number], edgecolor="white")
                    terms[y].append(said(size))
                    if size >= 1:
                        style = {"color": "white", "ha": "center", "va": "center"}
                        ax.text(sums[y] + size / 2, y, f"{size:g}", **style)
                    sums[y] += size
        for y, total in sums.items():
            ax.text(total + 0.2, y, f"{total:g}", va="center", weight="bold")
            if any("/" in term for term in terms[y]):  # slivers, too thin for a number
                ax.text(0, y + 0.36, " + ".join(terms[y]), va="bottom")
        ax.set(yticks=(1, 0), ylim=(-0.6, 1.75))
        ax.set(xticks=range(0, int(longest) + 1, 2), xlim=(0, 1.18 * longest))
        ax.set_yticklabels(("l", "o"), fontsize=13)
        ax.set_title(name, fontsize=12)
        for label, letter in zip(ax.get_yticklabels(), "lo"):
            label.set_color(LETTERS[letter])
    return figure
