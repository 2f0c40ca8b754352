"""Time and problems of a call."""

import pytest
import torch

from attnlib import StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.course.measure import clock


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
