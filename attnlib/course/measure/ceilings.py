"""This machine's two ceilings: its fastest product, and its fastest read. Lesson 11."""

import torch

from attnlib.course.measure.clock import contest
from attnlib.course.measure.machine import device_type
from attnlib.roofline import Roof

# An H100 (SXM) by its data sheet, dense products; float32 without tensor cores.
DATA_SHEET = "https://www.nvidia.com/en-us/data-center/h100/"
H100 = {"bfloat16": Roof(989e12, 3.35e12), "float32": Roof(67e12, 3.35e12)}


def measure_roofline(device: str | None = None) -> list[dict]:
    """Medians of a large product in float32, on a GPU in bfloat16 too, and of programs
    that only read."""
    device, rows = device or device_type(), []
    n, numbers = (8192, 2**30) if device == "cuda" else (1024, 2**26)
    for dtype in (torch.float32, torch.bfloat16)[: 1 + (device == "cuda")]:
        a = torch.randn(n, n, device=device).to(dtype)
        timed = contest({"product": torch.matmul}, a, a)["product"]
        name = str(dtype).removeprefix("torch.")
        rows.append({"ceiling": "product", "dtype": name, "n": n, "flops": 2 * n**3} | timed)
    x = torch.ones(numbers, device=device)
    for name, timed in contest({"sum": torch.sum, "amax": torch.amax}, x).items():
        rows.append({"ceiling": "read", "by": name, "bytes": x.nbytes} | timed)
    return rows


def roof(rows: list[dict], dtype: str) -> Roof:
    """The roof that these rows measured; of several that read, the fastest counts."""
    speeds = [r["flops"] / r["ms"] for r in rows if r.get("dtype") == dtype and r["ms"]]
    reads = [r["bytes"] / r["ms"] for r in rows if r["ceiling"] == "read" and r["ms"]]
    return Roof(1e3 * max(speeds), 1e3 * max(reads))
