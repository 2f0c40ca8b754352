"""Will it fit? The explorer says what the jobs count."""

import pytest

from attnlib.course.explore import WillItFit
from attnlib.course.measure.jobs import SLACK, Job
from attnlib.memory import GIB


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("N", [1024, 65536, 2**22])
def test_the_explorer_says_the_bytes_that_the_job_needs(mode, N):
    explorer = WillItFit(context=GIB // 2)
    explorer.mode.value, explorer.N.value, explorer.card.value = mode, N, 80
    for core, bytes_ in explorer.needs.items():
        assert bytes_ == Job(core, mode).needed(N, GIB // 2)
        assert explorer.fits[core] == (bytes_ <= 80 * GIB)
        assert f"{core} needs {bytes_:,} bytes" in explorer.picture.value


def test_at_the_end_of_a_card_the_explorer_does_not_guess():
    explorer = WillItFit(context=0)
    explorer.context = 8 * GIB - explorer.needs["flash"] - SLACK // 2
    explorer.N.value, explorer.N.value = 1024, 16384
    assert explorer.fits == {"standard": False, "flash": None}
