"""The bytes of a whole training step, without a GPU."""

import pytest
import torch

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.measure import training
from attnlib.memory import live_bytes, predicted_peak

SMALL = {"width": 32, "heads": 4, "layers": 2}
CORES = {"standard": StdAttentionCord(8), "flash": FlashAttentionCore(8, 16)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "SIZE", SMALL)
    monkeypatch.setattr(training, "CORES", CORES)


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
    def on(device):
        return lambda: training.second_step(CORES[name], 100, device)

    counted, counters = (
        live_bytes(on("cpu")).peak,
        512 * sum(1 for _ in training.TinyGPT(CORES[name], 70, **SMALL).parameters()),
    )
    predicted = predicted_peak(on("meta"))
    # On a CPU the optimiser's step counters and the tokens count as well, and softmax's
    # backward has no temporary of its own.
    assert 0 <= abs(predicted - counted) <= counters + 8 * 512 + 4 * 4 * 100 * 100


def test_the_flash_cores_largest_context_is_on_a_line():
    low, middle, high = (
        training.step_bytes(training.windowed("flash"), n * 64) for n in (8, 12, 16)
    )
    assert high - middle == middle - low > 0


def test_a_context_that_fits_is_the_last_that_fits(monkeypatch):
    monkeypatch.setattr(training, "SLACK", 0)
    card, rest = 200 * 2**20, 2 * training.CUBLAS_WORKSPACE
    for core in CORES:
        N = training.largest_context(core, card, 0)
        fits, next_one = (training.step_bytes(training.windowed(core), n) for n in (N, N + 256))
        assert fits <= card - rest < next_one


def test_tokens_and_losses_are_those_of_the_book():
    loss = training.second_step(CORES["standard"], 32, "cpu")
    assert loss.ndim == 0 and 3 < loss < 5 and torch.isfinite(loss)
