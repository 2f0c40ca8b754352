"""This machine: what it is, what it has, and whether lessons measure on it."""

import os
import platform
import sys
from functools import cache
from pathlib import Path

import torch

from attnlib import FlashAttentionCore, StdAttentionCord
from attnlib.course.inputs import make_qkv
from attnlib.memory import GIB, forward, forward_backward

# Without it, a small tensor may sit down in a large freed block, and what fits in
# bytes does not fit in pieces. Read when the first CUDA tensor is made.
if sys.platform == "linux":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def measuring() -> bool:
    """Whether lessons measure here: there is a GPU and ATTNLIB_REPLAY is not 1."""
    return torch.cuda.is_available() and os.environ.get("ATTNLIB_REPLAY") != "1"


def machine_card() -> str:
    """This machine in a few lines: processor, GPU or none, versions."""
    here = machine()
    lines = [f"processor  {cpu_name()}, {torch.get_num_threads()} threads used"]
    if torch.cuda.is_available():
        gib = here["memory"] / GIB
        lines.append(f"GPU        {here['device']}, {gib:.0f} GiB: lessons measure on it")
    else:
        lines.append("GPU        none: lessons replay a recording, and say so")
    lines.append(f"versions   Python {here['python']}, torch {here['torch']}")
    return "\n".join(lines)


def machine() -> dict:
    """What a reader needs to know of where a number came from."""
    card = {"device": cpu_name(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        card = {
            "device": torch.cuda.get_device_name(),
            "memory": torch.cuda.get_device_properties(0).total_memory,
            "context": context_bytes(),
        }
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return card | versions


def context_bytes() -> int:
    """Bytes that CUDA takes on this card for itself: its context and loaded kernels."""
    _load_kernels()
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


@cache
def _load_kernels() -> None:
    # CUDA loads a kernel when it is first called: some 136 MiB for what the cores need.
    for dtype in (torch.float32, torch.float16):
        for core in (StdAttentionCord(64), FlashAttentionCore(64, 1024)):
            q, k, v, do = make_qkv(1, 8, 1500, 64, n=4, dtype=dtype, device="cuda")
            forward_backward(core)(q, k, v, do)
            forward(core, window=1000)(q, k, v)
    torch.cuda.synchronize()


def capacity() -> int:
    """Bytes that this machine, or the card it imitates, has for everything."""
    if not torch.cuda.is_available():
        return _available_ram()
    gib = os.environ.get("ATTNLIB_CARD_GIB")
    return imitate_card(int(float(gib) * GIB) if gib else None)


def imitate_card(memory: int | None) -> int:
    """Let PyTorch use no more than a card of this many bytes has; None: all."""
    total = torch.cuda.get_device_properties(0).total_memory
    usable = total if memory is None else memory - context_bytes()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, usable / total))
    return memory or total


def cpu_name() -> str:
    model = _proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"CPU {model}"


def _available_ram() -> int:
    available = _proc("meminfo", "MemAvailable")
    # Where there is no such file, take it for a modest laptop.
    return int(available.split()[0]) * 1024 if available else 8 * GIB


def _proc(file: str, field: str) -> str:
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return ""
    found = [line.partition(":")[2] for line in lines if line.startswith(field)]
    return found[0].strip() if found else ""
