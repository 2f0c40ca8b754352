"""Peak memory of a call: predicted without a device, measured on one.

1. `live_bytes`       run a call and keep book of every tensor that lives: exact on
                      CPU tensors and, with nothing computed, on meta tensors.
2. `predicted_peak`   the same on meta copies of the arguments: what the call will
                      take on a GPU that this machine need not have. `stretched_peak`
                      walks a short sequence for a long one.
3. `measured_peak`    what CUDA's allocator says the call took; `measured_timeline`
                      when.

All count the bytes beyond the arguments, results included, each tensor rounded
up to 512 as CUDA's allocator does. The books see tensors that PyTorch's
operators return, in the thread that calls. Compiled code and fused kernels
allocate out of their sight: those can only be measured. Lessons 05 and 08.
"""

import copy
import os
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from attnlib.books import Bookkeeper, Event, Timeline, round_up, tensors_in

MIB, GIB = 2**20, 2**30
CUBLAS_WORKSPACE = 32 * MIB  # stays allocated after the first product on Hopper
BLOCKS_TOO_LARGE = (
    "the peak may come out up to 1 MiB a tensor too high: set PYTORCH_CUDA_ALLOC_CONF="
    "expandable_segments:True before the first CUDA tensor"
)


def live_bytes(fn: Callable, *args) -> Timeline:
    """Run fn(*args) and record when each tensor it makes is born and freed.

    Tensors that fn did not make are free of charge. Not for CUDA tensors,
    whose kernels allocate scratch space unseen: raises ValueError, use
    `measured_timeline`.
    """
    if any(x.is_cuda for x in tensors_in((fn, args))):
        raise ValueError("args has a CUDA tensor; use measured_timeline or predicted_timeline")
    return _timeline(Bookkeeper(), fn, *args)


def predicted_timeline(fn: Callable, *args) -> Timeline:
    """`live_bytes` of fn on meta copies of its tensor arguments: nothing is computed and
    no memory is used, whatever their size. What fn makes on the CPU is no GPU's, and free.

    Modules, fn itself or arguments, are copied with parameters on the meta device; a
    tensor that fn holds otherwise is a ValueError. CUDA's autocast counts where torch
    sees CUDA; elsewhere use the CPU's, whose dtype the cores follow as well.
    """
    fn, *args = tree_map_only((Tensor, nn.Module), _meta_like, (fn, *args))
    return _timeline(Bookkeeper("meta"), fn, *args)


def predicted_peak(fn: Callable, *args) -> int:
    """Bytes that fn(*args) will take at its peak on a GPU, beyond its arguments.

    The arguments may be on any device, meta included.
    """
    return predicted_timeline(fn, *args).peak


def stretched_peak(fn: Callable, *args, n: int, N: int) -> int:
    """`predicted_peak` of fn at N rows, walked with arguments of n rows, n prime.

    n must exceed every other size. Then a tensor of c n^k bytes has the factor n from
    its rows alone, and c N^k bytes at N. A loop over tiles repeats what its first few
    do, so where these fit in n rows, the peak is that of the walk over N, exactly.
    """
    args = tree_map_only(Tensor, _meta_like, args)
    books = Bookkeeper("meta", lambda nbytes: round_up(_stretched(nbytes, n, N)))
    return _timeline(books, fn, *args).peak


def _stretched(nbytes: int, n: int, N: int) -> int:
    return N * _stretched(nbytes // n, n, N) if nbytes and nbytes % n == 0 else nbytes


def measured_peak(fn: Callable, *args) -> int:
    """Bytes that fn(*args) took at its peak on the current GPU, beyond what was
    allocated before. Runs fn twice: the first call makes cuBLAS take its
    workspace. Raises RuntimeError without a GPU, where CUDA would answer 0.

    With PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True these are the bytes asked
    for, in steps of 512. Without, the allocator hands out blocks of up to 1 MiB more
    and counts them whole: a warning says so.
    """
    if not _expandable_segments():
        warnings.warn(BLOCKS_TOO_LARGE, stacklevel=2)
    base = _warm_up(fn, *args)
    torch.cuda.reset_peak_memory_stats()
    fn(*args)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - base


def measured_timeline(fn: Callable, *args) -> Timeline:
    """The timeline of fn(*args) from the history of CUDA's own allocator."""
    _warm_up(fn, *args)
    torch.cuda.memory._record_memory_history(context=None, max_entries=1_000_000)
    try:
        result = fn(*args)
        torch.cuda.synchronize()
        trace = torch.cuda.memory._snapshot()["device_traces"]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    del result
    events, live = [], 0
    for entry in trace[torch.cuda.current_device()]:
        sign = {"alloc": 1, "free_completed": -1}.get(entry["action"], 0)
        size = sign * round_up(entry["size"])
        live += size
        if size:
            events.append(Event(size, live, f"block of {abs(size)} B"))
    return Timeline(events)


def bytes_needed(fn: Callable, *args, context: int) -> int:
    """Bytes a card must have for fn(*args): arguments, predicted peak, cuBLAS's
    workspace, and the `context` that CUDA takes before the first tensor."""
    storages = {x.untyped_storage()._cdata: x.untyped_storage() for x in tensors_in((fn, args))}
    inputs = sum(round_up(storage.nbytes()) for storage in storages.values())
    return inputs + predicted_peak(fn, *args) + CUBLAS_WORKSPACE + context


def forward(core: Callable, **options) -> Callable:
    """fn(q, k, v): one call of an attention core without gradients."""

    def run(q, k, v):
        with torch.no_grad():
            return core(q, k, v, **options)

    return run


def forward_backward(core: Callable, **options) -> Callable:
    """fn(q, k, v, do): a core's output and the gradients of q, k and v.

    do (..., Nq, dv) is the gradient that comes back from the layers above.
    """

    def run(q, k, v, do):
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        o = core(q, k, v, **options)
        return o, *torch.autograd.grad(o, (q, k, v), do)

    return run


def _timeline(books: Bookkeeper, fn: Callable, *args) -> Timeline:
    with books:
        result = fn(*args)
    events = list(books.events)  # before the result is freed
    del result
    return Timeline(events)


def _warm_up(fn, *args) -> int:
    if not torch.cuda.is_available():
        raise RuntimeError("there is no GPU to measure; predicted_peak and live_bytes need none")
    fn(*args)
    torch.cuda.synchronize()
    time.sleep(0.05)  # the backward thread lets go of its last gradients a moment late
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def _expandable_segments() -> bool:
    settings = (os.environ.get(f"PYTORCH_{name}", "") for name in ("CUDA_ALLOC_CONF", "ALLOC_CONF"))
    return any("expandable_segments:true" in setting.lower() for setting in settings)


def _meta_like(x: Tensor | nn.Module) -> Tensor | nn.Module:
    if isinstance(x, nn.Module):  # deepcopy takes what memo holds for copied already
        tensors = {id(t): _meta_like(t) for t in (*x.parameters(), *x.buffers())}
        return copy.deepcopy(x, tensors)
    meta = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    if isinstance(x, nn.Parameter):
        return nn.Parameter(meta, x.requires_grad)
    return meta.requires_grad_(x.requires_grad)
