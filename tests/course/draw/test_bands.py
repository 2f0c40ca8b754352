"""A timeline as a picture: bands of tensors."""

from attnlib import StdAttentionCord
from attnlib.course.draw import charts
from attnlib.course.inputs import make_qkv
from attnlib.memory import MIB, forward_backward, live_bytes


def test_bands_add_up_to_what_is_alive_and_tell_namesakes_apart():
    timeline = live_bytes(forward_backward(StdAttentionCord(8)), *make_qkv(2, 16, 8, n=4))
    names = {"bmm (2, 16, 16)": ("s", "dp"), "_softmax": "p"}
    bands = charts._bands(timeline, names)
    alive = [event.live for event in timeline.events]
    assert set(bands) == {"s", "dp", "p", "rest"}
    assert (sum(bands.values())[:-1] * MIB == alive).all()
    assert not (bands["s"] * bands["dp"]).any()  # one is freed long before the other
