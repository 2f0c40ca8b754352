"""Every picture of figures/, drawn again from the recordings; the bytes are stable."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from attnlib.course.draw.charts import draw_peak_memory
from attnlib.course.draw.style import RC
from attnlib.course.measure import recordings

FIGURES = Path(__file__).parents[3] / "figures"


def draw_all(folder: Path = FIGURES) -> list[Path]:
    """Draw every picture of figures/ from the recordings; the bytes are stable."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        return [_save(draw(), folder / f"{name}.svg") for name, draw in PICTURES.items()]


def _readme_picture() -> Figure:
    recording = recordings.load()
    fig, ax = plt.subplots(figsize=(8, 3.5), layout="constrained")
    memory = recording["memory"]
    rows = [r for r in memory if r["dtype"] == "float32" and r["mode"] == "forward"]
    rows = [r for r in rows if r["core"] != "compiled"]
    draw_peak_memory(rows, ax)
    ax.set_title("Same answer, without the N × N matrix")
    where = recording["machine"]["device"]
    ax.set_xlabel(f"sequence length N   (8 heads of 64, float32; {where}, {recording['date']})")
    return fig


PICTURES = {"peak_memory": _readme_picture}


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path
