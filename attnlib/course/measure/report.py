"""Rows of a recording as plain text, for lessons and the command line."""

from attnlib.memory import MIB


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


def pivot(rows: list[dict], row: str, column: str, cell) -> str:
    """A table with a line per value of key `row` and a column per value of `column`."""
    names = list(dict.fromkeys(r[column] for r in rows))
    lines = {}
    for r in rows:
        lines.setdefault(r[row], {row: r[row]})[r[column]] = cell(r)
    columns = {name: (lambda r, name=name: r.get(name)) for name in names}
    return table(list(lines.values()), **{row: row}, **columns)


def pick(rows: list[dict], **fields) -> list[dict]:
    """The rows whose fields have these values."""
    return [r for r in rows if all(r.get(key) == value for key, value in fields.items())]


def mib(key: str):
    """A column of bytes, shown in MiB."""
    return lambda row: _shown(row, key, lambda x: f"{x / MIB:,.1f}")


def gib(key: str):
    """A column of bytes, shown in GiB."""
    return lambda row: _shown(row, key, lambda x: f"{x / 2**30:g}")


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


def times_faster(rows: list[dict], peer: str):
    """A column: the time of the core whose name starts with `peer` over this row's,
    both from one contest."""
    contest = ("dtype", "N", "mode")

    def column(row):
        for other in rows:
            if other["core"].startswith(peer) and all(other[k] == row[k] for k in contest):
                both = other.get("ms") and row.get("ms")
                return f"{other['ms'] / row['ms']:.2f}" if both else "-"
        return "-"

    return column


def summary(recording: dict) -> str:
    """What `measure` prints: where, then time ratios, peaks and errors."""
    machine = ", ".join(f"{k} {v}" for k, v in recording["machine"].items())
    time, memory = recording["time"], recording["memory"]
    parts = [
        f"{machine}; {recording['date']}",
        "Time, and how many times as fast as standard attention and as SDPA\n"
        + table(
            time,
            dtype="dtype",
            N="N",
            mode="mode",
            core="core",
            ms=ms(),
            vs_standard=times_faster(time, "standard"),
            vs_SDPA=times_faster(time, "SDPA"),
        ),
        "Peak memory beyond the inputs, MiB\n"
        + table(
            memory,
            dtype="dtype",
            N="N",
            mode="mode",
            core="core",
            predicted=mib("predicted"),
            measured=mib("measured"),
        ),
        _agreement(memory),
        "Error against float64\n"
        + table(recording["errors"], dtype="dtype", input="input", core="core", error=error()),
        "Block size\n"
        + table(
            recording["blocks"],
            dtype="dtype",
            N="N",
            core="core",
            ms=ms(),
            peak_MiB=mib("predicted"),
        ),
    ]
    if recording["step"]:
        parts.append("The compiled step\n" + step_table(recording["step"]))
    if recording["fits"]:
        columns = {c: c for c in ("core", "mode", "N", "fits", "ran")}
        cards = table(recording["fits"], card_GiB=gib("card"), needs_MiB=mib("needed"), **columns)
        parts.append("Imitated cards\n" + cards)
    if "kernel" in recording:
        parts.append("Your kernel, beside standard attention\n" + kernel_table(recording["kernel"]))
    return "\n\n".join(parts)


def step_table(rows: list[dict]) -> str:
    """Rows of `measure_step`: time beside standard attention and SDPA, and the peak."""
    return table(
        rows,
        dtype="dtype",
        heads=heads,
        N="N",
        mode="mode",
        core="core",
        ms=ms(),
        vs_standard=times_faster(rows, "standard"),
        vs_SDPA=times_faster(rows, "SDPA"),
        peak_MiB=lambda row: mib("measured")(row | {"problem": "-"}),
    )


def kernel_table(rows: list[dict]) -> str:
    """Rows of `measure_kernel`."""

    def ratio(row):
        both = row.get("ms") and row.get("standard_ms")
        return f"{row['standard_ms'] / row['ms']:.2f}" if both else "-"

    return table(
        rows,
        kernel="core",
        dtype="dtype",
        N="N",
        causal="causal",
        verdict=lambda row: row.get("verdict") or row.get("problem"),
        error=lambda row: error()(row | {"problem": "-"}),
        ms=lambda row: ms()(row | {"problem": "-"}),
        vs_standard=ratio,
        peak_MiB=lambda row: mib("measured")(row | {"problem": "-"}),
    )


def _agreement(memory: list[dict]) -> str:
    both = [r for r in memory if r["predicted"] and r.get("measured")]
    equal = sum(r["predicted"] == r["measured"] for r in both)
    return f"predicted = measured, to the byte, in {equal} of {len(both)} rows that have both"


def _shown(row, key, show) -> str:
    value = row.get(key)
    return row.get("problem", "-") if value is None else show(value)


def _cell(row, column) -> str:
    value = column(row) if callable(column) else row.get(column)
    return "-" if value is None else str(value)
