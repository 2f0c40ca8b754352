"""The bytes of a whole training step, without a GPU."""

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.measure import training
from attnlib.memory import live_bytes, predicted_peak, round_up

SMALL = {"width": 32, "heads": 4, "layers": 1}
CORES = {"standard": StdAttentionCord(8), "flash": FlashAttentionCore(8, 64)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "SIZE", SMALL)
    monkeypatch.setattr(training, "CORES", CORES)
    monkeypatch.setattr(training, "BLOCK", 64)


def test_attention_alone_grows_by_the_square():
    def growth(core):
        a, b = (training.stack_bytes(CORES[core], N)["attention"] for N in (256, 1024))
        return b / a

    assert growth("standard") > 14 and growth("flash") < 4.5


def test_the_parts_of_the_stack_add_up():
    for core in CORES.values():
        parts = training.stack_bytes(core, 128)
        assert sum(parts.values()) == training.step_bytes(core, 128)
        assert min(parts.values()) > 0


@pytest.mark.parametrize("name", CORES)
def test_a_prediction_is_what_a_step_on_this_cpu_takes(name, monkeypatch):
    book = training.read_book()
    monkeypatch.setattr(training, "read_book", lambda: book)  # it is no part of the step

    def on(device):
        return lambda: training.second_step(CORES[name], 100, device)

    # On the CPU the book is read again, where the meta step has empty tokens.
    counted = live_bytes(on("cpu")).peak - round_up(8 * len(book[0]))
    assert counted == predicted_peak(on("meta")) - round_up(8 * 101)


def test_the_flash_cores_largest_context_is_on_a_line():
    core = training.windowed("flash")
    low, middle, high = (training.step_bytes(core, n * 64) for n in (8, 12, 16))
    assert high - middle == middle - low > 0


@pytest.mark.slow
def test_a_context_that_fits_is_the_last_that_fits(monkeypatch):
    monkeypatch.setattr(training, "SLACK", 0)
    rest = 2 * training.CUBLAS_WORKSPACE
    card = rest + 12 * 2**20
    for core in CORES:
        N = training.largest_context(core, card, 0)
        fits, next_one = (training.step_bytes(training.windowed(core), n) for n in (N, N + 256))
        assert fits <= card - rest < next_one


def test_tokens_and_losses_are_those_of_the_book():
    loss = training.second_step(CORES["standard"], 32, "cpu")
    assert loss.ndim == 0 and 3 < loss < 5 and torch.isfinite(loss)
