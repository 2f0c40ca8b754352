"""Rows of a recording as plain text, for lessons and the command line."""

from attnlib.memory import GIB, MIB


def table(rows: list[dict], left=(), **columns) -> str:
    """Rows as aligned text; each column is a key of the rows or a function of one.

    Columns are aligned to the right, those in `left` to the left. What a row
    lacks shows as a dash, or as its `problem` where it has one.
    """
    lines = [[name.replace("_", " ") for name in columns]]
    for row in rows:
        lines.append([_cell(row, column) for column in columns.values()])
    widths = [max(map(len, column)) for column in zip(*lines)]
    sides = [str.ljust if name in left else str.rjust for name in columns]
    text = ["  ".join(f(c, w) for f, c, w in zip(sides, line, widths)) for line in lines]
    return "\n".join(map(str.rstrip, text))


def name_of(row: dict) -> str:
    """The core of a row as tables call it: "standard", "flash 1024", "SDPA efficient"."""
    name = " ".join(str(row[key]) for key in ("core", "block", "backend") if row.get(key))
    name += f", window {row['window']}" if row.get("window") else ""
    return name + (f", {row['kv_heads']} key heads" if row.get("kv_heads") else "")


def pick(rows: list[dict], **fields) -> list[dict]:
    """The rows whose fields have these values."""
    return [r for r in rows if all(r.get(key) == value for key, value in fields.items())]


def mib(key: str):
    """A column of bytes, shown in MiB."""
    return lambda row: _shown(row, key, lambda x: f"{x / MIB:,.1f}")


def gib(key: str):
    """A column of bytes, shown in GiB."""
    return lambda row: _shown(row, key, lambda x: f"{x / GIB:g}")


def ms(key: str = "ms"):
    """A column of milliseconds."""
    return lambda row: _shown(row, key, lambda x: f"{x:.3g}" if x < 100 else f"{x:,.0f}")


def heads(row: dict) -> str:
    """How many heads of which size, such as "8 x 64"."""
    _, heads, _, d = row["shape"]
    return f"{heads} x {d}"


def error(key: str = "error"):
    """A column of relative errors."""
    return lambda row: _shown(row, key, lambda x: f"{x:.1e}")


def times_faster(rows: list[dict], core: str):
    """A column: the time of that core over this row's, both from one contest."""
    contest = ("dtype", "N", "mode")
    times = {(r["core"], *(r[key] for key in contest)): r.get("ms") for r in rows}

    def column(row):
        other = times.get((core, *(row[key] for key in contest)))
        return f"{other / row['ms']:.2f}" if other and row.get("ms") else "-"

    return column


def peak(key: str = "measured"):
    """A column of MiB in a table whose problems stand elsewhere: a dash for none."""
    return lambda row: mib(key)(row | {"problem": "-"})


def bill_table(bills: dict[str, dict[tuple[str, str], float]]) -> str:
    """Bytes a score by (operator, "in" or "out"), a line an operator and one for all of a core."""
    rows = []
    for core, bill in bills.items():
        for op in dict.fromkeys(op for op, _ in bill):
            ways = {way: bill.get((op, way), 0) for way in ("in", "out")}
            rows.append({"core": core, "operator": op, "both": sum(ways.values())} | ways)
        ways = {way: sum(n for (_, w), n in bill.items() if w == way) for way in ("in", "out")}
        rows.append({"core": core, "operator": "all", "both": sum(ways.values())} | ways)
    sizes = {way: lambda row, way=way: f"{row[way]:g}" for way in ("in", "out", "both")}
    return table(rows, ("core", "operator"), core="core", operator="operator", **sizes)


def summary(recording: dict, sections=()) -> str:
    """What `measure` prints: where, then the rows of each section, or of some."""
    machine = ", ".join(f"{k} {v}" for k, v in recording["machine"].items())
    parts = [f"{machine}; {recording['date']}: {recording['command']}"]
    for name, (title, show) in SHOWN.items():
        if recording.get(name) and (not sections or name in sections):
            parts.append(f"{title}\n{show(recording[name])}")
    return "\n\n".join(parts)


CALL = {"dtype": "dtype", "N": "N", "mode": "mode", "core": name_of}


def step_table(rows: list[dict]) -> str:
    """Rows of `measure_step`: time beside standard attention and SDPA, and the peak."""
    return table(
        rows,
        dtype="dtype",
        heads=heads,
        N="N",
        mode="mode",
        core=name_of,
        ms=ms(),
        vs_standard=times_faster(rows, "standard"),
        vs_SDPA=times_faster(rows, "SDPA"),
        peak_MiB=peak(),
    )


def _time_table(rows: list[dict]) -> str:
    ratios = {f"vs_{core}": times_faster(rows, core) for core in ("standard", "SDPA")}
    return table(rows, **CALL, ms=ms(), **ratios)


def _memory_table(rows: list[dict]) -> str:
    both = [r for r in rows if r["predicted"] and r.get("measured")]
    equal = sum(r["predicted"] == r["measured"] for r in both)
    bytes_ = table(rows, **CALL, predicted=mib("predicted"), measured=mib("measured"))
    return (
        f"{bytes_}\n\n"
        f"predicted = measured, to the byte, in {equal} of {len(both)} rows that have both"
    )


def _error_table(rows: list[dict]) -> str:
    return table(rows, dtype="dtype", input="input", core=name_of, error=error())


def _block_table(rows: list[dict]) -> str:
    return table(rows, **CALL, ms=ms(), peak_MiB=peak("predicted"))


def _grouped_table(rows: list[dict]) -> str:
    return table(rows, heads=heads, **CALL, ms=ms(), peak_MiB=peak())


def _exp_table(rows: list[dict]) -> str:
    return table(rows, input="input", function="function", ms=ms())


def _fits_table(rows: list[dict]) -> str:
    columns = {"core": name_of, "mode": "mode", "N": "N", "fits": "fits", "ran": "ran"}
    return table(rows, card_GiB=gib("card"), needs_MiB=mib("needed"), **columns)


def _roofline_table(rows: list[dict]) -> str:
    return table(
        rows,
        ceiling="ceiling",
        dtype="dtype",
        by="by",
        ms=ms(),
        **{
            "TFLOP/s": lambda r: f"{r['flops'] / r['ms'] / 1e9:.3g}" if "flops" in r else "-",
            "TB/s": lambda r: f"{r['bytes'] / r['ms'] / 1e9:.3g}" if "bytes" in r else "-",
        },
    )


def counter_table(rows: list[dict]) -> str:
    """A line a kernel, GB at DRAM and at L2, below each call's sum and prediction."""
    lines, keys = [], ("dram_read", "dram_written", "l2")
    for row in rows:
        kernels = row["kernels"]
        whole = {key: sum(x[key] for x in kernels) for key in keys} if kernels else {}
        lines.append(row | whole | {"call": name_of(row)})
        lines += [{"call": f"  {x['launches']} x {x['kernel'][:40]}"} | x for x in kernels]
    columns = {key: _gb(key) for key in ("predicted", "least", *keys)}
    return table(lines, left=("call",), call="call", **columns)


def _gb(key: str):
    return lambda row: _shown(row, key, lambda x: f"{x / 1e9:.2f}")


SHOWN = {
    "time": ("Time, and how many times as fast as standard attention and as SDPA", _time_table),
    "memory": ("Peak memory beyond the inputs, MiB", _memory_table),
    "errors": ("Error against float64", _error_table),
    "blocks": ("Block size", _block_table),
    "step": ("The compiled step", step_table),
    "grouped": ("Query heads that share keys", _grouped_table),
    "exp": ("e^x and 2^x of a million numbers", _exp_table),
    "fits": ("Imitated cards", _fits_table),
    "roofline": ("The two ceilings", _roofline_table),
    "counters": ("GB that kernels carry: predicted, and by the GPU's own counters", counter_table),
}


def _shown(row, key, show) -> str:
    value = row.get(key)
    return row.get("problem", "-") if value is None else show(value)


def _cell(row, column) -> str:
    value = column(row) if callable(column) else row.get(column)
    return "-" if value is None else str(value)
