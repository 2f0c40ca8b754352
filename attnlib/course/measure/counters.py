"""The hardware's own books: bytes that a GPU's counters saw, beside those we counted.

NVIDIA's `ncu` runs a small child process, this file, which makes one call. It counts
each kernel alone and from cold caches. Lesson 11.
"""

import csv
import json
import shutil
import subprocess
import sys

import torch

from attnlib.course.measure.jobs import Job
from attnlib.programs import law, queries_outside
from attnlib.roofline import Roof, flops
from attnlib.trips import trips

METRICS = {
    "dram__bytes_read.sum": "dram_read",
    "dram__bytes_write.sum": "dram_written",
    "lts__t_bytes.sum": "l2",  # what passes the L2 cache, whoever asks
}
UNITS = {"byte": 1, "Kbyte": 10**3, "Mbyte": 10**6, "Gbyte": 10**9, "Tbyte": 10**12}
NCU = ("ncu", "--csv", "--print-units", "base", "--clock-control", "none")
NCU += ("--profile-from-start", "off", "--metrics", ",".join(METRICS))
QUERIES = 128  # that torch's flash kernel keeps on the bench, at d = 64 and 128


def measure_counters() -> list[dict]:
    """Bytes of every kernel of each core, by the hardware, at 8k tokens of 16 heads of 128.
    Needs a GPU and `ncu`; says where one is missing."""
    if not torch.cuda.is_available() or not shutil.which("ncu"):
        print("no counters: they need a GPU and NVIDIA's ncu on the PATH", file=sys.stderr)
        return []
    half = Job("flash", dtype=torch.bfloat16, heads=16, d=128)
    blocks = {"standard": None, "flash": 2048, "compiled": 4096, "SDPA": None}
    jobs = [half._replace(core=core, block=block) for core, block in blocks.items()]
    return [counter_row(job, 8192) for job in jobs]


def counter_row(job: Job, N: int) -> dict:
    """One call: `predicted` bytes between its kernels' benches and what is behind, `least`
    if everything came and went once, and its `kernels` as the counters saw them."""
    row = job.row(N) | {"predicted": predicted(job, N), "least": job.inputs(N) + job.results(N)}
    child = [*NCU, sys.executable, "-m", __name__, json.dumps(job.row(N))]
    done = subprocess.run(child, capture_output=True, text=True, timeout=900)
    kernels = parse(done.stdout)
    if done.returncode or not kernels:
        return row | {"kernels": kernels, "problem": _problem(done.stdout + done.stderr)}
    return row | {"kernels": kernels}


def predicted(job: Job, N: int) -> int:
    """Bytes that a call should carry: of eager cores each operator's, of fused ones the law's."""
    q, k, v = job.tensors(N, "meta")
    size, heads, d = q.element_size(), job.batch * job.heads, job.d
    if job.core == "SDPA":
        return heads * law(queries_outside, N, d, QUERIES, QUERIES, size)
    b, sums = min(job.block or N, N), 4  # bytes of a number in m, l and o
    tiles, products = heads * (N // b) ** 2, (3 * size + 2 * sums) * b * d  # q, k, v in; o in, out
    if job.core == "compiled":
        # A tile of scores out and in, in and out, and in; the second product out and in.
        return tiles * (5 * size * b * b + products + 2 * size * b * d)
    counted = sum(trip.read + trip.written for trip in trips(job.run, q, k, v))
    if job.core == "flash" and size < sums:
        # Its two products are no operators on the meta device: scores out, weights in.
        counted += tiles * ((sums + size) * b * b + products)
    return counted


def under_roof(roof: Roof, rows: list[dict]) -> list[dict]:
    """Timed rows with the `GB` they carry as predicted, their `intensity`, and in TFLOP/s
    what the roof allows and what each `does`. `most` is a fused kernel's intensity if a
    cache served all it can."""
    placed = []
    for row in rows:
        job, N = Job.of(row), row["N"]
        work, moved = job.batch * job.heads * flops(N, job.d), predicted(job, N)
        found = {"GB": moved / 1e9, "intensity": work / moved, "does": work / row["ms"] / 1e9}
        found["roof"] = roof.at(work / moved) / 1e12
        if job.core == "SDPA":
            found["most"] = work / (job.inputs(N) + job.results(N))
        placed.append(row | found)
    return placed


def parse(text: str) -> list[dict]:
    """Kernels in the order of their first launch, from what `ncu --csv` prints: a line for
    each metric of each launch, below a header and between lines of ncu's own."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches = {}
    for row in csv.DictReader(line for line in lines[start:] if line.startswith('"')):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        if row["Metric Name"] in METRICS:
            number = float(row["Metric Value"].replace(",", ""))
            launch[METRICS[row["Metric Name"]]] = round(number * UNITS[row["Metric Unit"]])
    kernels = {}
    for launch in launches.values():
        kernel = kernels.setdefault(launch["kernel"], {"kernel": launch["kernel"], "launches": 0})
        kernel["launches"] += 1
        for name in METRICS.values():
            kernel[name] = kernel.get(name, 0) + launch[name]
    return list(kernels.values())


def _problem(text: str) -> str:
    said = [line for line in text.splitlines() if line.startswith(("==ERROR==", "==WARNING=="))]
    return (said or ["ncu saw no kernel"])[0]


def call_once(row: dict) -> None:
    """What ncu watches: the second call of a row's job, the first compiles and loads."""
    job, N = Job.of(row), row["N"]
    tensors = job.tensors(N)
    job.run(*tensors)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    job.run(*tensors)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    call_once(json.loads(sys.argv[1]))
