"""Recordings, and their rows as text."""

import json

import pytest

from attnlib.course.measure import recordings, report, sections
from attnlib.course.measure.jobs import Job

RECORDINGS = sorted(recordings.RUNS.glob("*.json"))
CALLS = set(sections.USUAL) - {"exp"}  # its rows are no calls of a core


def test_there_is_a_recording_of_a_gpu_and_of_a_cpu():
    assert {"h100" in p.stem for p in RECORDINGS} == {True, False}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_a_recording_says_where_when_and_how(path):
    recording = json.loads(path.read_text())
    assert recording["machine"]["device"] and recording["machine"]["torch"]
    assert recording["date"] and recording["command"].startswith("python -m attnlib.course")
    assert set(sections.USUAL) <= set(recording)
    assert report.summary(recording)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_every_row_says_which_call_it_is(path):
    recording = json.loads(path.read_text())
    for row in [row for name in CALLS for row in recording[name]]:
        job = Job.of(row)
        known = job.row(row["N"]) | {key: row[key] for key in ("backend",) if key in row}
        assert known.items() <= row.items()
        assert (job.block is not None) == (job.core in ("flash", "compiled"))
        assert ("backend" in row) == (job.core == "SDPA")


def test_the_tries_on_imitated_cards_ended_as_predicted():
    fits = recordings.load("h100")["fits"]
    assert len(fits) >= 16 and all(r["fits"] == r["ran"] for r in fits)
    assert all(Job.of(r).peak(r["N"]) < r["needed"] - r["context"] for r in fits)


def test_the_gpu_recording_agrees_with_every_prediction():
    memory = recordings.load("h100")["memory"]
    both = [r for r in memory if r["predicted"] and r.get("measured")]
    assert len(both) >= 40 and all(r["predicted"] == r["measured"] for r in both)
    largest = [r for r in memory if r["N"] == max(x["N"] for x in memory)]
    ran = {(r["core"], r["mode"]): "problem" not in r for r in largest}
    assert not ran["standard", "forward"] and ran["flash", "forward"] and ran["flash", "training"]


def test_this_machine_predicts_the_recorded_bytes():
    memory = recordings.load("h100")["memory"]
    rows = [r for r in memory if r["N"] <= 4096 and r["predicted"]]
    assert len(rows) >= 20
    assert all(Job.of(r).peak(r["N"]) == r["measured"] for r in rows)


def test_save_and_load_are_inverse(tmp_path, monkeypatch):
    recording = {"machine": {"device": "Test (card) 1"}, "memory": [{"N": 1}, {"N": 2}], "fits": []}
    path = recordings.save(recording, tmp_path)
    assert path.name == "test_card_1.json"
    monkeypatch.setattr(recordings, "RUNS", tmp_path)
    assert recordings.load("test_card") == recording
    with pytest.raises(FileNotFoundError, match="no recording of 'h200'"):
        recordings.load("h200")


def test_only_a_recording_by_this_machine_and_torch_takes_another_section(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "RUNS", tmp_path / "none")
    monkeypatch.setitem(sections.SECTIONS, "fits", lambda: [{"core": "new"}])
    assert recordings.earlier(tmp_path) is None
    made = {"command": "c", "date": "long ago", "machine": recordings.machine(), "time": [1]}
    recordings.save(made, tmp_path)
    again = recordings.record(["fits"], recordings.earlier(tmp_path))
    assert again["fits"] == [{"core": "new"}] and again["time"] == [1]
    assert again["date"] == "long ago" and "then measure fits on 20" in again["command"]
    recordings.save(made | {"machine": made["machine"] | {"torch": "1.0"}}, tmp_path)
    assert recordings.earlier(tmp_path) is None


def test_without_a_gpu_lessons_replay_and_say_so(monkeypatch):
    monkeypatch.setenv("ATTNLIB_REPLAY", "1")
    assert recordings.source().startswith("Replayed: NVIDIA H100")
    assert recordings.section("memory") == recordings.load("h100")["memory"]


def test_a_table_shows_a_problem_where_a_number_is_missing():
    rows = [{"core": "a", "ms": 1.25}, {"core": "b", "ms": None, "problem": "out of memory"}]
    lines = report.table(rows, core="core", ms=report.ms()).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["core", "ms"],
        ["a", "1.25"],
        ["b", "out of memory"],
    ]


def test_a_name_is_made_of_fields():
    row = {"core": "flash", "block": 1024, "window": 64, "kv_heads": 2}
    assert report.name_of(row) == "flash 1024, window 64, 2 key heads"
    assert report.name_of({"core": "SDPA", "block": None, "backend": "flash"}) == "SDPA flash"


def test_a_summary_of_some_sections_shows_no_rows_of_others():
    recording = recordings.load("h100")
    printed = report.summary(recording, ["fits"])
    assert "Imitated cards" in printed and "Peak memory" not in printed
