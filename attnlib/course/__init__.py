"""What the notebooks need to show, check and export; nothing that teaches the maths."""

# PLACEHOLDER: the course has no public address yet. After a change here, renew what
# quotes it: README, and the first cells (`notebooks.write_hints()` in publish).
HOME = "https://example.org/attnlib.git"


def start() -> None:
    """A lesson's first call: fixed seed, two threads, the course's look."""
    import torch

    from attnlib.course.draw.style import use_style

    torch.manual_seed(0)
    torch.set_num_threads(2)
    use_style()
