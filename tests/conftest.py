"""Notebooks replay their recordings under test, whatever machine this is."""

import os

os.environ.setdefault("ATTNLIB_REPLAY", "1")
