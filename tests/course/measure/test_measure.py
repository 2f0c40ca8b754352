"""Sections, and the door to them."""

import json

import pytest
import torch

from attnlib.course.__main__ import main
from attnlib.course.measure import jobs, recordings, report, sections
from attnlib.course.measure.jobs import Job

TINY = Job("flash", heads=2, d=8, block=16)


def test_a_contest_gives_a_median_to_each():
    rows = sections.time_rows(jobs.rivals(TINY._replace(mode="causal"), 64, (16, 32)), 64)
    called = [(r["core"], r["block"]) for r in rows]
    assert called == [("standard", None), ("flash", 16), ("flash", 32), ("SDPA", None)]
    assert all(r["ms"] > 0 and r["N"] == 64 and r["mode"] == "causal" for r in rows)


def test_memory_rows_are_exact():
    row = sections.memory_row(TINY._replace(core="standard"), 64)
    assert row["predicted"] == row["measured"] == 2 * 2 * 64 * 64 * 4


def test_both_exponentials_meet_every_kind_of_input():
    rows = sections.measure_exp()
    assert {r["function"] for r in rows} == {"exp", "exp2"} and len(rows) == 8
    assert all(r["ms"] > 0 for r in rows)


def test_measure_writes_a_recording_and_prints_ratios(tmp_path, monkeypatch, capsys):
    for name in ("errors", "step", "grouped", "exp", "timelines", "fits"):
        monkeypatch.setitem(sections.SECTIONS, name, list)
    monkeypatch.setattr(sections, "course_jobs", lambda: [TINY])
    monkeypatch.setattr(sections, "sizes", lambda job: [64])
    monkeypatch.setitem(sections.SECTIONS, "blocks", lambda: sections.time_rows([TINY], 64))
    assert main(["measure", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    assert set(sections.USUAL) <= set(json.loads(path.read_text()))
    printed = capsys.readouterr().out
    assert "vs standard" in printed and "vs SDPA" in printed and path.name in printed


def test_measure_leaves_the_committed_recordings_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "BUILD", tmp_path / "build")
    monkeypatch.setattr(recordings, "RUNS", tmp_path / "runs")
    monkeypatch.setitem(sections.SECTIONS, "exp", list)
    assert main(["measure", "exp"]) == 0 and (tmp_path / "build").is_dir()
    assert not (tmp_path / "runs").exists()


def test_a_part_is_not_committed_without_the_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recordings, "RUNS", tmp_path)
    with pytest.raises(SystemExit):
        main(["measure", "exp", "--commit"])
    assert "no recording of this machine" in capsys.readouterr().err


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["measure", "fist"])
    assert "no section fist; there are errors, memory" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_heads_in_groups_take_what_is_predicted():
    rows = sections._with_peaks(sections.time_rows([TINY._replace(kv_heads=1)], 64))
    assert all(r["predicted"] == r["measured"] for r in rows)


def test_a_bill_ends_in_the_sum_of_its_lines():
    bill = {("bmm", "out"): 2, ("bmm", "in"): 2, ("amax", "in"): 4.0}
    lines = [line.split() for line in report.bill_table({"standard": bill}).splitlines()]
    assert lines[1:] == [
        ["standard", "bmm", "2", "2", "4"],
        ["standard", "amax", "4", "0", "4"],
        ["standard", "all", "6", "2", "8"],
    ]
