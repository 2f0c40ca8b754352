"""Pictures of training: curves that should be one, what fills a card, how far a step sees."""

from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

from attnlib.course.draw.style import GREY, LABEL, STYLE, O, styled

PARTS = {"parameters": GREY, "activations": O}  # attention has the colour of its core
HATCH = {"parameters": "", "activations": "..", "attention": "//"}
BOOKS = 2.1  # as many fit the picture's width; a longer bar has an arrow


@styled
def draw_curves(curves: dict[str, list], title: str) -> Figure:
    """Losses over the step, a curve a core, and beside them how far each is from the first;
    what is equal to the last digit has no point there."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = next(iter(curves))
    for core, losses in curves.items():
        color = STYLE[core]["color"]
        wide = {"linewidth": 5, "alpha": 0.45} if core == first else {"linewidth": 1.2}
        left.plot(range(len(losses)), losses, color=color, label=LABEL[core], **wide)
        gaps = [(n, abs(a - b)) for n, (a, b) in enumerate(zip(losses, curves[first])) if a != b]
        if core != first and gaps:
            look = {**STYLE[core], "linestyle": "", "markersize": 3.5}
            right.plot(*zip(*gaps), **look)
    left.set(xlabel="step", ylabel="loss, nats a character", ylim=(0, None))
    right.set(xlabel="step", ylabel="distance from the first", yscale="log", ylim=(1e-8, 1))
    right.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1])
    right.minorticks_off()
    for ax in (left, right):
        ax.grid(visible=True)
        ax.set_xlim(0, len(curves[first]))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


@styled
def draw_stack(stacks: dict[str, dict], measured: dict[str, dict], title: str) -> Figure:
    """Bytes of a training step over its context N: stacks[core][N][part], a panel a core at
    one scale, then the last core enlarged; dots are measured[core][N]."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    *panels, last = figure.subplots(1, len(stacks) + 1)
    for ax, (core, stack) in zip(panels, stacks.items()):
        _bars(ax, core, stack, measured[core])
        ax.set_title(LABEL[core])
        ax.set_ylim(0, 1.08e-9 * max(sum(s.values()) for x in stacks.values() for s in x.values()))
    _bars(last, core, stack, measured[core])
    times = panels[0].get_ylim()[1] / last.get_ylim()[1]
    last.set_title(f"enlarged {times:.0f} times")
    panels[0].set_ylabel("bytes of a step, in 10⁹")
    panels[-1].set_xlabel("context N, in 1024 characters")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    attention = tuple(ax.containers[2] for ax in panels)  # each core in its colour
    handles = [*last.containers[:2], attention, last.lines[0]]
    look = {"ncols": 4, "frameon": False, "fontsize": 11, "handlelength": 3}
    look["handler_map"] = {tuple: HandlerTuple(ndivide=None, pad=0)}
    figure.legend(handles, [*HATCH, "measured on the GPU"], loc="outside lower center", **look)
    return figure


def _bars(ax, core, stack, measured) -> None:
    places, bottom = range(len(stack)), [0.0] * len(stack)
    for part, hatch in HATCH.items():
        heights = [parts[part] / 1e9 for parts in stack.values()]
        color = PARTS.get(part, STYLE[core]["color"])
        ax.bar(places, heights, bottom=bottom, color=color, hatch=hatch, edgecolor="white")
        bottom = [a + b for a, b in zip(bottom, heights)]
    dots = [measured[N] / 1e9 for N in stack]
    ax.plot(places, dots, "o", color="black", markersize=5)
    ax.set_xticks(places, [str(N // 1024) for N in stack])


@styled
def draw_reach(reach: dict[str, dict], chapters: dict[str, int], book: int, title: str) -> Figure:
    """How far into a book of so many characters the context of one step goes: reach[core][card]
    characters, a bar each; `chapters` says where each starts."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    ax = figure.subplots()
    rows = [(core, card, N) for core, cards in reach.items() for card, N in cards.items()]
    for y, (core, _, N) in enumerate(rows):
        color, end = STYLE[core]["color"], min(N, BOOKS * book)
        ax.barh(y, end, color=color, height=0.62)
        words = f"{N:,} = " + (f"{N / book:.1f} books" if book < N else f"{N / book:.0%}")
        inside = end > 0.5 * book  # where its words would cross the end of the book
        ax.annotate(
            words + (" →" if end < N else ""),
            (end, y),
            (-6 if inside else 6, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else "black",
            fontweight="bold" if inside else "normal",
        )
    look = {"textcoords": "offset points", "va": "center", "ha": "right"}
    for n, words in (1, "one book"), (2, "two books"):
        ax.axvline(n * book, color="black", linewidth=2, zorder=2.5 - n)  # the second behind bars
        ax.annotate(words, (n * book, -0.62), (-6, 0), **look)
    ax.set_xticks([*chapters.values()], [*chapters])
    ax.set_yticks(range(len(rows)), [f"{LABEL[core]}, {card}" for core, card, _ in rows])
    ax.set(xlim=(0, BOOKS * book), ylim=(len(rows) - 0.4, -1), xlabel="chapters")
    ax.xaxis.set_label_coords(0.24, -0.13)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure
