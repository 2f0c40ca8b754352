"""Right kernels pass in whatever way they are right; wrong ones are told why."""

from multiprocessing import Pipe
from pathlib import Path

import judged_kernels as kernels
import pytest

from attnlib.course.__main__ import main
from attnlib.course.measure import judge

SHAPES = [(2, 2, 70, 32)]  # ragged, and of a d that is not 64
COMPILED = (kernels.flex, kernels.aot_eager)
RIGHT = [pytest.param(f, marks=[pytest.mark.slow] * (f in COMPILED)) for f in kernels.RIGHT]


def rows_of(kernel, dtypes=("float32",), **options):
    said = list(judge.verdicts(kernel, dtypes, SHAPES, **options))
    return [case | row for case, row in zip(said[::2], said[1::2])]


@pytest.mark.filterwarnings("ignore")  # flex_attention asks to be compiled
@pytest.mark.parametrize("kernel", RIGHT, ids=lambda f: f.__name__)
def test_a_kernel_that_is_right_in_another_way_passes(kernel):
    rows = rows_of(kernel, backward=kernel is kernels.textbook)
    assert judge.status(rows) == 0 and len(rows) >= 20
    assert all(r["error"] <= r["allowed"] for r in rows if r["verdict"] == "right")


@pytest.mark.parametrize("kernel", kernels.WRONG, ids=lambda f: f.__name__)
def test_a_wrong_kernel_is_told_its_mistake(kernel):
    dtypes = ("bfloat16",) if kernel is kernels.carries else ("float32",)
    rows = rows_of(kernel, dtypes, backward=kernel is kernels.no_gradient)
    first = next(row for row in rows if judge.wrong(row))
    assert judge.status(rows) == 1
    assert first.get("why", first["verdict"]) == kernels.WRONG[kernel]


@pytest.mark.parametrize("kernel", kernels.RUDE, ids=lambda f: f.__name__)
def test_whatever_a_kernel_does_is_a_row(kernel):
    rows = rows_of(kernel)
    assert rows[0]["verdict"].startswith(kernels.RUDE[kernel]) and judge.status(rows) == 1


def test_a_wrong_row_says_input_answers_and_mistake():
    row = next(r for r in rows_of(kernels.top_left) if judge.wrong(r))
    text = judge.line(row)
    assert "k (2, 2, 140, 32)" in text and "causal=True" in text and "known mistake" in text
    assert f"came {row['came']:.6g}, right is {row['expected']:.6g}" in text


def test_a_peak_that_nobody_sees_is_not_called_zero():
    times = [judge._timed(f, {}, 64)["says"] for f in (kernels.in_a_thread, kernels.online)]
    assert "peak not seen" in times[0] and "MiB" in times[1] and "peak 0.0" not in times[1]


def test_a_crash_is_the_last_row(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    (row,) = judge.judge("judged_kernels:crashes", shapes=SHAPES)
    assert row["case"] == "N 70" and row["verdict"] == "the process died, exit status -6"


def test_a_hang_is_the_last_row():
    here, _there = Pipe()
    assert judge._receive(here, None, 0.01) == {"verdict": "no answer in 0.01 s", "last": True}


def test_ctrl_c_ends_with_a_row():
    class Interrupted:
        def poll(self, seconds):
            raise KeyboardInterrupt

    assert judge._receive(Interrupted(), None, 1) == {"verdict": "stopped by Ctrl-C", "last": True}


@pytest.mark.parametrize("target", ["nonsense", "no_such_module:f", "math:no_such", "math:pi"])
def test_what_cannot_be_used_is_named(target):
    with pytest.raises(ValueError, match=target):
        judge.load_kernel(target)


def test_the_door_says_by_its_status_what_came_out(monkeypatch, capsys):
    said = {"case": "N 7", "verdict": "right"}
    for row, status in ((said, 0), (said | {"verdict": "o is wrong"}, 1)):
        monkeypatch.setattr(judge, "judge", lambda *_, row=row, **__: [row])
        assert main(["judge", "a:b"]) == status
    assert "1 of 1 cases wrong; gradients not asked for" in capsys.readouterr().out
    unusable = {"case": "import", "verdict": "'a:b' cannot be imported", "unusable": True}
    monkeypatch.setattr(judge, "judge", lambda *_, **__: [unusable])
    assert main(["judge", "a:b"]) == 2


@pytest.mark.parametrize("wrong", [["--shapes", "1x2"], ["--dtypes", "float8"]])
def test_a_wrong_option_is_named(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["judge", "a:b", *wrong])
    assert stop.value.code == 2 and wrong[1] in capsys.readouterr().err
