"""Patches: what a slip of a line says, what it changes, and when it is refused."""

import inspect

import pytest

from attnlib.course.exercises.patches import patched, read_slips

BIAS = 3


def shifted(x):
    y = x + BIAS  # a comment
    return 2 * y


def changes(*lines):
    (slip,) = read_slips("\n".join(["name: when", *lines]))
    return slip.changes


def test_a_patched_function_runs_in_the_place_of_the_right_one():
    wrong = patched(shifted, changes("- x + BIAS", "+ x - BIAS"), "wrong")
    assert (shifted(5), wrong(5), wrong.__name__) == (16, 4, "wrong")


def test_a_patched_function_carries_its_source():
    wrong = patched(shifted, changes("- 2 * y", "+ y"), "wrong")
    assert inspect.getsource(wrong) == inspect.getsource(shifted).replace("2 * y", "y").replace(
        "shifted", "wrong"
    )


def test_lines_are_left_out_and_added_where_the_patch_says_so():
    wrong = patched(shifted, changes("- y = x + BIAS", "+ y = x", "+ y = y - 1"), "wrong")
    assert wrong(5) == 8
    with pytest.raises(NameError):
        patched(shifted, changes("- y = x + BIAS"), "wrong")(5)


@pytest.mark.parametrize("old", ["x - BIAS", "y"])
def test_a_patch_that_does_not_apply_exactly_once_is_refused(old):
    with pytest.raises(ValueError, match=r"stands [02] times in shifted"):
        patched(shifted, changes(f"- {old}", "+ 1"), "wrong")


def test_the_head_of_a_slip_is_name_fact_section_and_words():
    text = """
    one, M16, shown, order of loops: what: comes
        out
    - a
    + b

    two: else
    - c
    """
    one, two = read_slips(text)
    assert one == ("one", "M16", "order of loops", True, "what: comes out", [("a", ["b"])])
    assert two == ("two", "", None, False, "else", [("c", [])])
