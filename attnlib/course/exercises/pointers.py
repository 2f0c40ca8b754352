"""Where the lessons explain: a link to a cell, with the heading that stands there now."""

import functools
import json
from html import escape
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"

# key: (lesson, id of a cell that starts with a heading)
SECTIONS = {
    "overflow": ("01_safe_softmax", "01-10"),
    "maximum": ("01_safe_softmax", "01-20"),
    "names": ("01_safe_softmax", "01-25"),
    "nothing": ("01_safe_softmax", "01-35"),
    "pasted": ("02_decomposed_softmax", "02-04"),
    "remember": ("02_decomposed_softmax", "02-10"),
    "factor": ("02_decomposed_softmax", "02-14"),
    "true": ("02_decomposed_softmax", "02-25"),
    "classic": ("02_decomposed_softmax", "02-36"),
    "many": ("02_decomposed_softmax", "02-41"),
    "state": ("03_one_fold", "03-04"),
    "merge": ("03_one_fold", "03-09"),
    "order": ("03_one_fold", "03-13"),
    "tree": ("03_one_fold", "03-29"),
    "values": ("03_one_fold", "03-34"),
    "rounding": ("03_one_fold", "03-39"),
    "lag": ("04_rescaling_explorer", "04-52"),
    "row": ("04_rescaling_explorer", "04-04"),
    "growth": ("04_rescaling_explorer", "04-15"),
    "sqrt": ("05_standard_attention", "05-15"),
    "four": ("05_standard_attention", "05-20"),
    "alive": ("05_standard_attention", "05-23"),
    "training": ("05_standard_attention", "05-34"),
    "law": ("05_standard_attention", "05-39"),
    "loop": ("06_flash_attention", "06-04"),
    "division": ("06_flash_attention", "06-09"),
    "order of loops": ("06_flash_attention", "06-15"),
    "core": ("06_flash_attention", "06-21"),
    "buffer": ("06_flash_attention", "06-24"),
    "tiles": ("07_masks_and_shapes", "07-09"),
    "fewer": ("07_masks_and_shapes", "07-18"),
    "padding": ("07_masks_and_shapes", "07-52"),
    "blind": ("07_masks_and_shapes", "07-26"),
    "scale": ("07_masks_and_shapes", "07-52"),
    "heads": ("07_masks_and_shapes", "07-52"),
    "same": ("08_two_cores_on_gpu", "08-06"),
    "memory": ("08_two_cores_on_gpu", "08-10"),
    "fits": ("08_two_cores_on_gpu", "08-18"),
    "cost": ("08_two_cores_on_gpu", "08-27"),
    "pencil": ("09_backward", "09-04"),
    "two numbers": ("09_backward", "09-08"),
    "backward": ("09_backward", "09-12"),
    "outside": ("09_backward", "09-30"),
    "empty": ("09_backward", "09-37"),
    "lse": ("09_backward", "09-40"),
    "next": ("10_tiny_gpt", "10-04"),
    "gpt": ("10_tiny_gpt", "10-07"),
    "part": ("10_tiny_gpt", "10-15"),
    "fills": ("10_tiny_gpt", "10-25"),
    "trains": ("10_tiny_gpt", "10-31"),
    "programs": ("11_traffic", "11-14"),
    "traffic": ("11_traffic", "11-20"),
    "largest": ("11_traffic", "11-24"),
    "roof": ("11_traffic", "11-35"),
    "rungs": ("11_traffic", "11-39"),
}


def words(section: str) -> str:
    """A section in words; the lesson alone where its notebook is not at hand."""
    lesson, cell = SECTIONS[section]
    heading = headings(lesson).get(cell)
    return f"lesson {lesson[:2]}" + (f", “{heading}”" if heading else "")


def link(section: str) -> str:
    """A link from an exercise notebook to a section of a lesson, as HTML."""
    lesson, cell = SECTIONS[section]
    heading = headings(lesson).get(cell, "")
    target = f"../{lesson}.ipynb" + (f"#{heading.replace(' ', '-')}" if heading else "")
    return f'<a href="{escape(target)}">{escape(words(section))}</a>'


@functools.cache
def headings(lesson: str) -> dict[str, str]:
    """The headings of a lesson by the ids of their cells; none where there is no lesson."""
    try:
        cells = json.loads((NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return {}
    sources = {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"}
    return {
        cell: source.partition("\n")[0].lstrip("#").strip()
        for cell, source in sources.items()
        if source.startswith("#")
    }
