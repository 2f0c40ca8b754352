"""What goes with each exercise of Part IV, why it is fast: as in `guides.py`."""

from attnlib.course.exercises.guides import Guide

FAST = {
    "shelves_carried": Guide(
        5,
        1,
        "Follow one key: how often does it come to the bench until all queries have seen it?",
        "471 queries in blocks of 128: how many blocks, the short one included?",
    ),
    "queries_that_fit": Guide(
        15,
        2,
        "List what lies on the bench while a tile is folded, each with its shape.",
        "When the values come, are the keys still needed? And what of the scores?",
    ),
    "flash_traffic": Guide(
        10,
        1,
        "Ask of each line for one block of queries, then for all of them.",
        "Which of the four tensors must be whole on the bench, to be fetched only once?",
    ),
    "place_kernel": Guide(
        15,
        2,
        "A product of n x r with r x m has how many multiplications, and how many additions?",
        "Which of the two limits is met first, and on which side of the ridge?",
    ),
}
