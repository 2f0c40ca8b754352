"""What fits: the frontier, and a paper's table."""

from attnlib.course.measure import frontier
from attnlib.course.measure.jobs import SLACK, Job
from attnlib.memory import GIB


def test_the_frontier_is_the_last_that_fits():
    job, context = Job("standard"), GIB // 2
    (row,) = frontier.frontier(job, context, cards=(8,))
    N = row["standard"]
    assert job.needed(N, context) <= 8 * GIB - SLACK < job.needed(N + 1024, context)
    assert row["flash"] > 50 * N


def test_every_printed_cell_is_explained_by_its_closed_form():
    rows = frontier.table_21()
    assert len(rows) == 16
    assert all(r["verdict"].startswith("explained") for r in rows)
    assert [r["ours"] for r in rows if (r["core"], r["N"]) == ("standard", 4096)] == [16832]
