"""The classroom: inputs, recordings, reports, pictures, and the one door."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord, attention_oracle
from attnlib.course.__main__ import main
from attnlib.course.draw import charts
from attnlib.course.inputs import alice_qkv, alice_tokens, make_qkv
from attnlib.course.measure import clock, jobs, judge, recordings, report, sections
from attnlib.course.publish import figures, notebooks
from attnlib.memory import forward, forward_backward, live_bytes, predicted_peak

ROOT = Path(__file__).parents[3]


# Inputs --------------------------------------------------------------------


def test_alice_is_as_harsh_as_her_readme_says():
    q, k, _ = alice_qkv(0, torch.float64)
    s = q @ k.mT / 32**0.5
    assert q.shape == (12, 471, 32) and len(alice_tokens()) == 471
    assert 78 < s.max() < 80 and -68 < s.min() < -66
    assert s.half().exp().isinf().any()


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"layer must be one of \[0, 5\], got 3"):
        alice_qkv(3)


def test_inputs_repeat_by_seed():
    a, b, c = (make_qkv(2, 3, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and not torch.equal(a[0], c[0])


# Measuring -----------------------------------------------------------------

TINY = jobs.Setup(torch.float32, 2, 8, (16, 32))


def test_a_contest_gives_a_median_to_each():
    rows = sections.time_rows(TINY, 64, "causal")
    assert [r["core"] for r in rows] == ["standard", "flash 16", "flash 32", "SDPA flash"]
    assert all(r["ms"] > 0 and r["N"] == 64 for r in rows)


def test_a_failing_contestant_is_a_row():
    def broken():
        raise RuntimeError("no kernel image\nand more")

    rows = clock.contest({"fine": lambda: None, "broken": broken})
    assert rows["fine"]["ms"] >= 0
    assert rows["broken"] == {"ms": None, "problem": "RuntimeError: no kernel image"}


def test_cpu_time_of_every_core_and_mask_leaves_the_threads_alone():
    threads, masks = torch.get_num_threads(), {"none": {}, "causal": {"causal": True}}
    ms = clock.cpu_ms({"standard": StdAttentionCord(8)}, masks, *make_qkv(2, 64, 8))
    assert set(ms) == {("standard", "none"), ("standard", "causal")} and min(ms.values()) > 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("can't allocate memory: 9")],
)
def test_out_of_memory_is_a_problem_and_no_crash(error):
    def fails():
        raise error

    assert clock.attempt(fails) == (None, "out of memory")


def test_memory_rows_are_exact():
    row = sections.memory_row(TINY, "standard", "forward", 64)
    assert row["predicted"] == row["measured"] == 2 * 2 * 64 * 64 * 4


def test_a_verdict_names_what_is_wrong():
    q, k, v = make_qkv(2, 9, 4)
    o, _ = attention_oracle(q, k, v)
    standard = StdAttentionCord(4)(q, k, v)
    assert judge.judge(standard, o, standard)[0] == "agrees"
    assert judge.judge(1.01 * standard, o, standard)[0].startswith("differs")
    assert judge.judge(standard / 0, o, standard) == ("not finite", None)
    assert judge.judge(standard[0], o, standard)[0].startswith("shape (9, 4), expected (2, 9, 4)")
    assert judge.judge(None, o, standard) == ("not a tensor but NoneType", None)


KERNELS = """
import os, time, torch
def good(q, k, v, causal=False):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
def wrong(q, k, v, causal=False): return good(1.1 * q, k, v, causal)
def raises(q, k, v, causal=False): raise IndexError("off by one")
def crashes(q, k, v, causal=False): os.abort()
def exits(q, k, v, causal=False): raise SystemExit(0)
def spoils(q, k, v, causal=False):
    o = good(q, k, v)
    v.fill_(1)
    return o
def widens(q, k, v, causal=False): return good(q, k, v, causal).double()
def hangs(q, k, v, causal=False): time.sleep(600)
"""


@pytest.mark.parametrize(
    "name, said",
    [
        ("good", "agrees"),
        ("wrong", "differs"),
        ("raises", "IndexError: off by one"),
        ("crashes", "the process died"),
        ("exits", "SystemExit: 0"),
        ("spoils", "changes its inputs"),
        ("widens", "torch.float64 on"),
        ("hangs", "no answer in 8 s"),
    ],
)
def test_a_readers_kernel_is_a_row_whatever_it_does(name, said, tmp_path, monkeypatch):
    (tmp_path / "kernels.py").write_text(KERNELS)
    monkeypatch.chdir(tmp_path)
    rows = judge.measure_kernel(f"kernels:{name}", timeout=8 if name == "hangs" else 60)
    assert rows and all((r.get("verdict") or r["problem"]).startswith(said) for r in rows)
    assert said in report.kernel_table(rows)


@pytest.mark.parametrize("target", ["nonsense", "no_such_module:f", "math:no_such", "math:pi"])
def test_a_wrong_target_is_named_at_once(target, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["measure", "--with", target])
    assert stop.value.code == 2 and target in capsys.readouterr().err


# Recordings ----------------------------------------------------------------

RECORDINGS = sorted(recordings.RUNS.glob("*.json"))


def test_there_is_a_recording_of_a_gpu_and_of_a_cpu():
    assert {"h100" in p.stem for p in RECORDINGS} == {True, False}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_a_recording_says_where_when_and_how(path):
    recording = json.loads(path.read_text())
    assert recording["machine"]["device"] and recording["machine"]["torch"]
    assert recording["date"] and recording["command"].startswith("python -m attnlib.course")
    assert set(sections.SECTIONS) <= set(recording)
    assert report.summary(recording)


def test_the_gpu_recording_agrees_with_every_prediction():
    memory = recordings.load("h100")["memory"]
    both = [r for r in memory if r["predicted"] and r.get("measured")]
    assert len(both) >= 40 and all(r["predicted"] == r["measured"] for r in both)
    largest = [r for r in memory if r["N"] == max(x["N"] for x in memory)]
    ran = {(r["core"].split()[0], r["mode"]): "problem" not in r for r in largest}
    assert not ran["standard", "forward"] and ran["flash", "forward"] and ran["flash", "training"]


def test_this_machine_predicts_the_recorded_bytes():
    memory = recordings.load("h100")["memory"]
    rows = [r for r in memory if r["N"] <= 4096 and r["predicted"]]
    assert len(rows) >= 20
    for r in rows:
        training, d = r["mode"] == "training", r["shape"][-1]
        core = StdAttentionCord(d)
        if r["core"].startswith("flash"):
            core = FlashAttentionCore(d, int(r["core"].split()[1]))
        dtype, n = getattr(torch, r["dtype"]), 4 if training else 3
        inputs = make_qkv(*r["shape"], n=n, dtype=dtype, device="meta")
        fn = (forward_backward if training else forward)(core)
        assert predicted_peak(fn, *inputs) == r["measured"], r


def test_save_and_load_are_inverse(tmp_path, monkeypatch):
    recording = {"machine": {"device": "Test (card) 1"}, "memory": [{"N": 1}, {"N": 2}], "fits": []}
    path = recordings.save(recording, tmp_path)
    assert path.name == "test_card_1.json"
    monkeypatch.setattr(recordings, "RUNS", tmp_path)
    assert recordings.load("test_card") == recording
    with pytest.raises(FileNotFoundError, match="no recording of 'h200'"):
        recordings.load("h200")


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


# Pictures and notebooks ----------------------------------------------------


def test_committed_pictures_are_what_the_command_draws(tmp_path):
    drawn = figures.draw_all(tmp_path)
    committed = {p.name for p in (ROOT / "figures").iterdir() if p.is_file()}
    assert {p.name for p in drawn} == committed
    for path in drawn:
        assert path.read_bytes() == (ROOT / "figures" / path.name).read_bytes(), path.name


def test_bands_add_up_to_what_is_alive_and_tell_namesakes_apart():
    timeline = live_bytes(forward_backward(StdAttentionCord(8)), *make_qkv(2, 16, 8, n=4))
    names = {"bmm (2, 16, 16)": ("s", "dp"), "_softmax": "p"}
    bands = charts._bands(timeline, names)
    alive = [event.live for event in timeline.events]
    assert set(bands) == {"s", "dp", "p", "rest"}
    assert (sum(bands.values())[:-1] * charts.MIB == alive).all()
    assert not (bands["s"] * bands["dp"]).any()  # one is freed long before the other


def test_the_door_finds_lessons_by_number_and_names_unknown_ones(capsys):
    assert notebooks.lessons(["08"]) == notebooks.lessons(["08_two_cores_on_gpu.ipynb"])
    for name in ("99", "/elsewhere/00_start_here.ipynb", "08.5"):
        with pytest.raises(SystemExit):
            main(["run", name])
        assert f"no lesson '{name}'" in capsys.readouterr().err


def test_normal_form_keeps_ids_and_tags_and_drops_the_rest():
    import nbformat

    cell = nbformat.v4.new_code_cell("1", id="kept")
    cell.metadata = nbformat.from_dict({"tags": ["a"], "execution": {"t": "1"}, "collapsed": True})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"state": {}}
    normal = notebooks.normalise(notebook)
    assert normal.cells[0].id == "kept" and normal.cells[0].metadata == {"tags": ["a"]}
    assert "widgets" not in normal.metadata


def test_setup_cell_prints_the_one_command_where_attnlib_is_missing(tmp_path):
    import nbformat

    cell = next(c for c in nbformat.read(notebooks.lessons()[0], 4).cells if c.cell_type == "code")
    code = "import sys; sys.modules['attnlib'] = None\n" + cell.source
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode != 0 and "%pip install -e .." in ran.stdout


def test_measure_writes_a_recording_and_prints_ratios(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sections, "setups", lambda: [TINY])
    monkeypatch.setattr(sections, "sizes", lambda setup: [64])
    rows = sections.time_rows(TINY, 64, "forward")
    monkeypatch.setitem(sections.SECTIONS, "blocks", lambda: rows)
    assert main(["measure", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    assert set(sections.SECTIONS) <= set(json.loads(path.read_text()))
    printed = capsys.readouterr().out
    assert "vs standard" in printed and "vs SDPA" in printed and path.name in printed
    monkeypatch.setattr(recordings, "RUNS", tmp_path)
    monkeypatch.setitem(sections.SECTIONS, "fits", lambda: [{"core": "new"}])
    again = recordings.record(sections=["fits"])
    assert again["fits"] == [{"core": "new"}] and again["time"] == recordings.load("cpu")["time"]
    assert again["command"].endswith("measure, then measure fits")


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["measure", "fist"])
    assert "no section fist; there are errors, memory" in capsys.readouterr().err


def test_readme_has_both_commands_and_ci_finds_the_test_one():
    readme = (ROOT / "README.md").read_text()
    for name, last in (("open", "00_start_here.ipynb"), ("test", "--dist loadfile")):
        command = readme.split(f"<!-- command: {name} -->\n```sh\n")[1].split("\n```")[0]
        assert (
            "\n" not in command and command.startswith("python3 -m venv") and command.endswith(last)
        )
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
