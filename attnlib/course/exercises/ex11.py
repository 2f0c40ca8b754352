"""Exercises of lesson 11: a count by pencil, a tile, an argument, a place under a roof."""

import bisect

import torch

from attnlib.course.exercises.task import Task, cases_of
from attnlib.programs import law, queries_outside, run, tiles
from attnlib.roofline import Roof, flops
from attnlib.traffic import BenchFull

# 1. Count before you run -----------------------------------------------------

shelves = Task("shelves_carried", "Count before you run", "programs")


def on_the_machine(N, d, b, c):
    x = torch.empty(N, d, device="meta")
    return {
        name: shelf.moved for name, shelf in run(queries_outside, x, x, x, b, c).shelves.items()
    }


@shelves.cases
def _():
    return cases_of(
        on_the_machine,
        {
            "8 tokens of 4 numbers, tiles of 2": (8, 4, 2, 2),
            "4 queries, 2 keys at a time": (8, 4, 4, 2),
            "Alice: N = 471, tiles of 128 by 64": (471, 32, 128, 64),
            "a tile larger than the text": (10, 3, 64, 4),
            "eight queries, then two": (10, 3, 8, 4),
            "one query at a time": (20, 8, 1, 20),
        },
    )


@shelves.right("by pencil")
def shelves_by_pencil(N, d, b, c):
    tall = 4 * N * d
    keys = -(-N // b) * tall
    return {"q": tall, "k": keys, "v": keys, "o": tall}


shelves.slips(
    shelves_by_pencil,
    """
    shelves_keys_once, M11: k and v are taken to come once; they pass by for each block of queries
    - -(-N // b) * tall
    + tall

    shelves_blocks_of_keys: blocks of keys are counted; k passes by once for each block of queries
    - -(-N // b)
    + -(-N // c)

    shelves_whole_blocks: the last block is left out where it is a short one
    - -(-N // b)
    + N // b

    shelves_in_numbers: numbers are counted and not bytes
    - 4 * N * d
    + N * d

    shelves_queries_too: q is fetched for every tile; it lies on the bench for its row of tiles
    - {"q": tall
    + {"q": -(-N // c) * tall

    shelves_output_too: o comes and goes for every tile; with queries outside it leaves once
    - "o": tall}
    + "o": -(-N // c) * tall}
    """,
)


@shelves.right("by walking the tiles")
def shelves_by_walk(N, d, b, c):
    moved = dict.fromkeys("qkvo", 0)
    for rows in tiles(N, b):
        for name in "qo":
            moved[name] += 4 * d * (rows.stop - rows.start)
        for cols in tiles(N, c):
            for name in "kv":
                moved[name] += 4 * d * (cols.stop - cols.start)
    return moved


# 2. Choose the tile ------------------------------------------------------------

fitting = Task("queries_that_fit", "Choose the tile for a bench", "largest")


def accepted(M, d, c):
    """The largest b for which the bench does not refuse."""

    def refused(b):
        q, k = (torch.empty(2 * n, d, device="meta") for n in (b, c))
        try:
            run(queries_outside, q, k, k, b, c, M)
        except BenchFull:
            return True
        return False

    return bisect.bisect_left(range(1, M // (4 * d) + 2), True, key=refused)


@fitting.cases
def _():
    return cases_of(
        accepted,
        {
            "1 KiB, heads of 4, 4 keys": (2**10, 4, 4),
            "64 KiB, heads of 32, 16 keys": (2**16, 32, 16),
            "64 KiB, heads of 32, 128 keys": (2**16, 32, 128),
            "64 KiB, heads of 128, 16 keys": (2**16, 128, 16),
            "228 KiB, heads of 64, 64 keys": (228 * 1024, 64, 64),
        },
    )


@fitting.right("by pencil")
def fitting_by_pencil(M, d, c):
    numbers = M // 4
    a_query = d + d + c + 4
    return (numbers - c * d) // a_query


fitting.slips(
    fitting_by_pencil,
    """
    fitting_without_scores: the tile of scores is forgotten
    - d + d + c + 4
    + d + d + 4

    fitting_without_output: o is forgotten; it is summed up on the bench
    - d + d + c + 4
    + d + c + 4

    fitting_without_state: what each row has beside q, o and its scores is forgotten: four
        numbers
    - d + d + c + 4
    + d + d + c

    fitting_keys_and_values: keys and values are taken to lie there together; the keys leave
        before the values come
    - c * d
    + 2 * c * d

    fitting_without_keys: the keys are forgotten
    - (numbers - c * d)
    + numbers

    fitting_in_bytes: bytes are taken for numbers
    - M // 4
    + M

    fitting_the_papers, part: M / 4d is taken, which speaks of four tiles of b rows
    - (numbers - c * d) // a_query
    + numbers // (4 * d)
    """,
)


@fitting.right("by trying")
def fitting_by_trying(M, d, c):
    b = 1
    while 4 * ((b + 1) * (2 * d + c + 4) + c * d) <= M:
        b += 1
    return b


# 3. Find the wrong line ----------------------------------------------------------

argument = Task("flash_traffic", "Find the wrong line of an argument", "traffic")


@argument.cases
def _():
    def counted(N, d, M):
        return law(queries_outside, N, d, M // (4 * 4 * d), 1)

    return cases_of(
        counted,
        {
            "N = 8, d = 4, a bench for 2 queries": (8, 4, 2 * 64),
            "N = 4096, d = 64, 64 KiB": (4096, 64, 2**16),
            "N = 1000, a ragged last block": (1000, 32, 2**15),
            "d = 128, 228 KiB": (8192, 128, 228 * 1024),
            "one block holds all": (50, 16, 2**20),
        },
    )


@argument.right("k and v for each block of queries")
def argument_right(N, d, M):
    b = M // (4 * 4 * d)
    blocks = -(-N // b)
    keys = blocks * 2 * N * d
    rest = 2 * N * d
    return 4 * (keys + rest)


argument.slips(
    argument_right,
    """
    argument_keys_once, M11, shown: k and v are taken to come once; each block of queries needs
        them all
    - blocks * 2 * N * d
    + 2 * N * d

    argument_of_a_block: what one block of queries fetches is taken for what all do, or the
        rest for every block
    - rest = 2 * N * d
    + rest = blocks * 2 * N * d

    argument_keys_alone: k is counted and v is not
    - blocks * 2 * N * d
    + blocks * N * d

    argument_whole_blocks: the last block is left out where it is a short one, or a part of one
        is counted as a part
    - -(-N // b)
    + N // b

    argument_tiles: every tile is taken to fetch all keys; there are N / b of them in each row
    - blocks * 2 * N * d
    + blocks * blocks * 2 * N * d

    argument_in_numbers: numbers are counted and not bytes
    - 4 * (keys + rest)
    + keys + rest
    """,
)


@argument.right("block by block")
def argument_by_blocks(N, d, M):
    rows = tiles(N, M // 16 // d)
    return sum(8 * N * d + 8 * d * (min(r.stop, N) - r.start) for r in rows)


# 4. Place a kernel under the roof --------------------------------------------------

place = Task(
    "place_kernel",
    "Place a kernel under the roof",
    "rungs",
    parts=("intensity", "at_most"),
    tolerance=1e-6,
    points=3,
)


@place.cases
def _():
    def placed(N, d, b, speed, bandwidth):
        intensity = flops(N, d) / law(queries_outside, N, d, b, 1, 2)
        return intensity, Roof(speed, bandwidth).at(intensity)

    return cases_of(
        placed,
        {
            "a machine of 8 and 1, 4 tokens": (4, 2, 2, 8.0, 1.0),
            "an H100, 128 queries": (16384, 128, 128, 989e12, 3.35e12),
            "an H100, 512 queries": (16384, 64, 512, 989e12, 3.35e12),
            "a laptop, 16 queries": (1024, 64, 16, 1e11, 2e10),
            "a ragged last block": (1000, 64, 96, 989e12, 3.35e12),
        },
    )


@place.right("by pencil")
def place_by_pencil(N, d, b, speed, bandwidth):
    work = 4 * N * N * d
    blocks = -(-N // b)
    moved = 2 * (2 * N * d * blocks + 2 * N * d)
    intensity = work / moved
    return intensity, min(speed, intensity * bandwidth)


place.slips(
    place_by_pencil,
    """
    place_one_product: half of the operations are counted, one product or multiplications
        alone; or twice the bytes, four for a number that has two
    - 4 * N * N * d
    + 2 * N * N * d

    place_without_output: q and o are left out
    - (2 * N * d * blocks + 2 * N * d)
    + (2 * N * d * blocks)

    place_upside_down: bytes are divided by operations
    - work / moved
    + moved / work

    place_above: the larger limit is taken; a program must keep both
    - min(speed
    + max(speed

    place_road_alone: arithmetic has a limit too
    - min(speed, intensity * bandwidth)
    + intensity * bandwidth

    place_keys_once, M11: k and v are taken to come once
    - 2 * N * d * blocks
    + 2 * N * d
    """,
)


@place.right("by times")
def place_by_times(N, d, b, speed, bandwidth):
    work, moved = 4.0 * N * N * d, law(queries_outside, N, d, b, b, size=2)
    seconds = max(work / speed, moved / bandwidth)
    return work / moved, work / seconds
