"""The loop, given to compilers: each rung leaves less of it to Python."""

import os

import torch

# Without a card Triton interprets: it reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
