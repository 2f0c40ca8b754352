"""A whole training step: parameters, gradients, optimiser, activations, attention.

`step_bytes` predicts its peak on the meta device, `measured_step` measures it. The
model is lesson 10's; SIZE is the one that the recordings are about.
"""

import gc
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.gpt import TinyGPT, adamw, read_book, step, train, write
from attnlib.course.measure.clock import attempt, result
from attnlib.course.measure.machine import capacity, context_bytes, imitate_card
from attnlib.course.measure.ways import measure_ways
from attnlib.memory import CUBLAS_WORKSPACE, GIB, MIB, predicted_peak

SIZE = {"width": 256, "heads": 4, "layers": 4}
D, BLOCK, VOCABULARY = 64, 1024, 70
CONTEXTS = (1024, 2048, 4096, 8192, 16384)
CARDS = (8, 24, 80)  # GiB
SLACK = 256 * MIB  # the end of a card, where fragments decide


def sdpa(q, k, v, causal=False):
    """torch's own, by its memory-efficient backend, which takes float32."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def no_attention(q, k, v, causal=False):
    """What is left of a step where every token keeps its own value."""
    return v


CORES = {"standard": StdAttentionCord(D), "flash": FlashAttentionCore(D, BLOCK), "SDPA": sdpa}


def second_step(attention: Callable, N: int, device, batch: int = 1, before=lambda: None):
    """Build the model, step twice on the first N characters of the book, calling
    `before` in between: from the second step on, the optimiser has its state."""
    with torch.device(device):
        model = TinyGPT(attention, VOCABULARY, **SIZE)
    optimiser = adamw(model)
    if torch.device(device).type == "meta":
        tokens = torch.empty(batch, N + 1, dtype=torch.long, device=device)
    else:
        book = read_book()[0]  # read again from the start where N is longer
        tokens = book.repeat(N // len(book) + 1)[: N + 1].to(device).expand(batch, N + 1)
    step(model, optimiser, tokens)
    before()
    return step(model, optimiser, tokens)


def step_bytes(attention: Callable, N: int, batch: int = 1) -> int:
    """Bytes at the peak of a training step on N characters, everything included."""
    return predicted_peak(partial(second_step, attention, N, "meta", batch))


def stack_bytes(attention: Callable, N: int) -> dict[str, int]:
    """The same in parts: what the parameters take with their gradients and AdamW's two
    averages, what the activations add, and what attention adds to both."""
    with torch.device("meta"):
        model = TinyGPT(no_attention, VOCABULARY, **SIZE)
    weights = 4 * sum(-(-p.nbytes // 512) * 512 for p in model.parameters())
    without, whole = step_bytes(no_attention, N), step_bytes(attention, N)
    return {"parameters": weights, "activations": without - weights, "attention": whole - without}


def measured_step(attention: Callable, N: int, batch: int = 1) -> tuple[int, float, float]:
    """Peak in bytes, beyond cuBLAS's workspaces, seconds and loss of a step on this GPU."""
    second_step(attention, 16, "cuda")  # takes the workspaces
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    base, started = torch.cuda.memory_allocated(), []

    def before():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started.append(time.perf_counter())

    loss = second_step(attention, N, "cuda", batch, before).item()
    return torch.cuda.max_memory_allocated() - base, time.perf_counter() - started[0], loss


def measure_training() -> list[dict]:
    """Rows of five kinds: step, context, book, curve and ways. Needs a GPU, for minutes."""
    if not torch.cuda.is_available():
        return []
    kinds = {
        "step": measure_steps,
        "context": measure_contexts,
        "book": measure_book,
        "curve": measure_curves,
        "ways": measure_ways,
    }
    return [{"kind": kind} | row for kind, measure in kinds.items() for row in measure()]


def measure_steps() -> list[dict]:
    """A step's peak, predicted and measured, and its seconds, over the context."""
    rows = []
    for N in CONTEXTS:
        for core, attention in CORES.items():
            row = {"core": core, "N": N}
            row["predicted"] = None if core == "SDPA" else step_bytes(attention, N)
            row |= _tried(attention, N)
            rows.append(row)
    return rows


def measure_book() -> list[dict]:
    """One step whose context is the whole book, and what standard attention would need."""
    N = len(read_book()[0]) - 1
    if not torch.cuda.is_available():
        return []
    return [
        {"core": "flash", "N": N, "block": 4096} | _tried(FlashAttentionCore(D, 4096), N),
        {"core": "SDPA", "N": N} | _tried(sdpa, N),
        {"core": "standard", "N": N, "predicted": step_bytes(CORES["standard"], N)},
    ]


def largest_context(core: str, card: int, context: int) -> int:
    """The largest context, in steps of 256, whose training step fits a card of bytes.

    Standard attention's bytes are asked for, N by N. The flash core's grow in step with
    N, so two short contexts tell all of them.
    """
    room = card - context - 2 * CUBLAS_WORKSPACE - SLACK
    if core == "flash":
        low, high = (step_bytes(windowed(core), N) for N in (8 * BLOCK, 16 * BLOCK))
        slope = (high - low) / (8 * BLOCK)
        return int((room - low) / slope + 8 * BLOCK) // 256 * 256
    low, high = 0, 1
    while step_bytes(CORES[core], 256 * high) <= room:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = step_bytes(CORES[core], 256 * middle) <= room
        low, high = (middle, high) if fits else (low, middle)
    return 256 * low


def windowed(core: str) -> Callable:
    """The core, where it can with a window, which bounds the walk and not the memory."""
    return CORES[core] if core == "standard" else partial(CORES[core], window=BLOCK)


def measure_contexts() -> list[dict]:
    """The largest context that trains on imitated cards, and one that should not: tried."""
    rows, own = [], capacity()
    for gib in CARDS:
        card = min(gib * GIB, own)
        imitate_card(card if gib * GIB < own else None)
        for core in ("standard", "flash"):
            fits = largest_context(core, card, context_bytes())
            for N in (fits, int(1.05 * fits) // 256 * 256 + 256):
                row = {"core": core, "card": gib * GIB, "N": N, "fits": fits == N}
                row |= _tried(windowed(core), N)
                rows.append(row | {"ran": "problem" not in row})
    imitate_card(None)
    return rows


def measure_curves(steps: int = 600, N: int = 512, batch: int = 16) -> list[dict]:
    """A longer run with every core from one seed: losses, seconds a step, its text."""
    text, characters = read_book()
    rows, cores = [], CORES | {"flash": FlashAttentionCore(D, N // 4)}  # ten tiles a head
    for core, attention in cores.items():
        torch.manual_seed(0)
        model = TinyGPT(attention, VOCABULARY, **SIZE).cuda()
        losses = train(model, text, steps, N=N, batch=batch, lr=1e-3)
        next(losses)  # kernels are loaded
        torch.cuda.synchronize()
        started = time.perf_counter()
        curve = [round(loss, 6) for loss in losses]
        row = {"core": core, "N": N, "batch": batch, "steps": steps, "losses": curve}
        row["seconds"] = (time.perf_counter() - started) / len(curve)
        written = write(model, text[:40], 400)
        rows.append(row | {"text": "".join(characters[i] for i in written)})
    return rows


def _tried(attention, N) -> dict:
    found, problem = attempt(measured_step, attention, N)
    peak, seconds, loss = found or (None, None, None)
    return result(problem, measured=peak, seconds=seconds, loss=loss)
