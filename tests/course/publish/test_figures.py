"""Every picture in figures/ is what its command draws."""

from pathlib import Path

from attnlib.course.publish import figures

ROOT = Path(__file__).parents[3]


def test_committed_pictures_are_what_the_command_draws(tmp_path):
    drawn = figures.draw_all(tmp_path)
    committed = {p.name for p in (ROOT / "figures").iterdir() if p.is_file()}
    assert {p.name for p in drawn} == committed
    for path in drawn:
        assert path.read_bytes() == (ROOT / "figures" / path.name).read_bytes(), path.name
