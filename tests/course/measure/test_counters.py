"""What ncu prints is read right, and a machine without it says so."""

import pytest
import torch

from attnlib.course.measure import counters, report, sections
from attnlib.course.measure.ceilings import measure_roofline, roof
from attnlib.course.measure.jobs import Job

COLUMNS = '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream",'
COLUMNS += '"Block Size","Grid Size","Device","CC","Section Name",'
COLUMNS += '"Metric Name","Metric Unit","Metric Value"'


def launch(n, name, *values):
    """The lines of one launch, as `ncu --csv` prints them."""
    where = (
        f'"{n}","77","python3","127.0.0.1","{name}","1","7","(128, 1, 1)","(64, 1, 1)","0","9.0"'
    )
    return [
        f'{where},"Command line profiler metrics","{metric}","{unit}","{value}"'
        for metric, (value, unit) in zip(counters.METRICS, values)
    ]


TEXT = "\n".join(
    [
        "==PROF== Connected to process 77 (/usr/bin/python3.11)",
        '==PROF== Profiling "gemm" - 0: 0%....50%....100% - 3 passes',
        "the program's own words",
        "==PROF== Disconnected from process 77",
        COLUMNS,
        *launch(0, "gemm<a, b>", ("33,554,432", "byte"), ("1024", "byte"), ("2.5", "Kbyte")),
        *launch(1, "softmax(float *, int)", ("10", "byte"), ("20", "byte"), ("30", "byte")),
        *launch(2, "gemm<a, b>", ("1", "Mbyte"), ("0", "byte"), ("500", "byte")),
    ]
)


def test_kernels_of_one_name_are_added_up_in_the_order_of_their_launch():
    gemm, softmax = counters.parse(TEXT)
    assert gemm == {
        "kernel": "gemm<a, b>",
        "launches": 2,
        "dram_read": 34_554_432,
        "dram_written": 1024,
        "l2": 3000,
    }
    assert softmax["kernel"] == "softmax(float *, int)" and softmax["l2"] == 30


def test_without_a_table_there_are_no_kernels():
    assert counters.parse("==ERROR== ERR_NVGPUCTRPERM - no permission") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be counters here")
def test_where_there_is_no_ncu_it_says_so_and_stores_nothing(capsys):
    assert sections.SECTIONS["counters"]() == []
    assert "NVIDIA's ncu" in capsys.readouterr().err


HALF = Job("standard", dtype=torch.bfloat16, heads=16, d=128)


@pytest.mark.parametrize(
    "core, passes", [("standard", 4), ("flash", 18), ("compiled", 5), ("SDPA", 2)]
)
def test_the_prediction_is_so_many_trips_of_the_scores_and_little_else(core, passes):
    scores = 16 * 8192 * 8192 * 2  # bytes
    trips = counters.predicted(HALF._replace(core=core, block=4096), 8192) / scores
    assert passes < trips < passes + 1.1


def test_a_row_of_counters_is_shown_beside_its_prediction():
    row = HALF.row(8192) | {"predicted": 2 * 10**9, "least": 10**9, "kernels": counters.parse(TEXT)}
    shown = report.summary({"machine": {}, "date": "", "command": "", "counters": [row]})
    assert "softmax" in shown and "2.00" in shown


def test_the_ceilings_are_a_product_and_a_read(monkeypatch):
    rows = measure_roofline()
    assert {r["ceiling"] for r in rows} == {"product", "read"}
    here = roof(rows, "float32")
    assert here.speed > 1e8 and here.bandwidth > 1e7  # a thousandth of a slow laptop's
    fastest = min(r["ms"] for r in rows if r["ceiling"] == "read")
    assert here.bandwidth == pytest.approx(rows[-1]["bytes"] / fastest * 1e3)
