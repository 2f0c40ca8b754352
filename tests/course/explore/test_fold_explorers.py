"""The rescaling explorer and the tree of merges: pictures of real traces."""

import pytest
import torch

from attnlib.course.draw.fold import draw_rescaling, draw_tops, draw_tree
from attnlib.course.draw.shapes import Area, Path, Text
from attnlib.course.draw.style import ML
from attnlib.course.explore import Quiz, eight_blocks, trace_scores, trace_tree
from attnlib.softmax import bracketing, fold_tree

KINDS = ("balanced", "left fold", "right fold", "shuffled")


def words(shapes):
    return [shape for shape in shapes if type(shape) is Text]


@pytest.mark.parametrize("threshold", [0, 4, 16])
def test_the_title_counts_the_steps_that_rescale(threshold):
    s = torch.linspace(-4, 4, 96)
    trace = trace_scores(s, s[:, None], 8, threshold)
    (title,) = [t.words for t in words(draw_rescaling(trace)) if t.bold and t.y == 18]
    assert f"{trace.rescales} of 11" in title if trace.rescales else "never" in title


def test_factors_are_drawn_as_tall_as_they_are():
    s = torch.tensor([0.0, 1.0, 3.0, 2.0])
    trace = trace_scores(s, s[:, None], 1)
    red = [a for a in draw_rescaling(trace) if type(a) is Area and a.look.fill == ML]
    tall = [max(y for _, y in a.corners) - min(y for _, y in a.corners) for a in red]
    assert [t / tall[-1] for t in tall] == pytest.approx(trace.factors[1:])


@pytest.mark.parametrize("top", [0, 40, 95])
def test_a_label_never_lies_over_the_numbers_of_the_axis(top):
    s = torch.zeros(96)
    s[top] = 5.0
    labels = [f"w{n}" for n in range(96)]
    shapes = words(draw_rescaling(trace_scores(s, s[:, None], 8), labels))
    (label,) = [t for t in shapes if t.words == f"“w{top}”"]
    (number,) = [t for t in shapes if t.words == "5.0"]
    width = 10 * len(label.words)
    left = label.x - width * {"start": 0, "middle": 0.5, "end": 1}[label.anchor]
    assert number.anchor == "end" and number.x <= left and left + width <= 880


def test_every_row_has_a_dot_at_the_key_of_its_largest_score():
    tops = torch.tensor([[0, 2, 2], [1, 0, 2]])  # two heads, three queries
    (ax,) = draw_tops({"a claim": tops}).axes
    dots = [tuple(map(int, dot)) for group in ax.collections for dot in group.get_offsets()]
    assert sorted(dots) == sorted((key, n) for row in tops.tolist() for n, key in enumerate(row))


@pytest.mark.parametrize("kind", KINDS)
def test_the_trees_states_are_those_of_the_fold(kind):
    leaves, tree = eight_blocks(), bracketing(kind)
    states = trace_tree(tree, leaves)
    assert len(states) == 15
    assert all(torch.equal(x, y) for x, y in zip(states[tree], fold_tree(tree, leaves)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_joins_every_node_to_both_its_parts(kind):
    leaves, tree = eight_blocks(), bracketing(kind)
    shapes = draw_tree(tree, trace_tree(tree, leaves))
    assert len([s for s in shapes if type(s) is Path]) == 14
    assert len([s for s in shapes if type(s) is Area]) == 15


def test_no_two_boxes_of_a_tree_overlap():
    for kind in KINDS:
        tree = bracketing(kind)
        boxes = [s for s in draw_tree(tree, trace_tree(tree, eight_blocks())) if type(s) is Area]
        for n, one in enumerate(boxes):
            for other in boxes[:n]:
                (l, t), (r, b) = one.corners[0], one.corners[2]
                (L, T), (R, B) = other.corners[0], other.corners[2]
                assert max(l, L) >= min(r, R) or max(t, T) >= min(b, B), kind


def test_a_quiz_knows_its_right_answer():
    quiz = Quiz("?", {"a": "No.", "b": "Yes: so it is.", "c": "No."})
    assert {"attn-quiz", "attn-right-1"} <= set(quiz._dom_classes)
    for choices in ({"a": "No."}, {"a": "Yes.", "b": "Yes."}):
        with pytest.raises(ValueError, match="choices"):
            Quiz("?", choices)
