"""Inputs for lessons, tests and measurements: Gaussian ones, and real ones."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ALICE = Path(__file__).parent / "data" / "alice_minilm_qkv.npz"


def make_qkv(
    *shape: int, n: int = 3, dtype=torch.float32, device="cpu", seed: int = 0
) -> tuple[Tensor, ...]:
    """n Gaussian tensors of one shape, usually q, k, v (..., N, d).

    The same seed gives the same numbers on the same kind of device. On "meta"
    they have no numbers, and take no memory.
    """
    if torch.device(device).type == "meta":
        return tuple(torch.empty(shape, dtype=dtype, device=device) for _ in range(n))
    generator = torch.Generator(device).manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(n))


def alice_qkv(layer: int = 0, dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (12, 471, 32) of MiniLM's layer 0 (harsh logits) or 5 (mild)."""
    stored = _alice()
    layers = stored["layers"].tolist()
    if layer not in layers:
        raise ValueError(f"layer must be one of {layers}, got {layer!r}")
    i = layers.index(layer)
    return tuple(torch.from_numpy(stored[name][i]).to(dtype) for name in "qkv")


def alice_tokens() -> list[str]:
    """The 471 word pieces of the text, for labels."""
    return _alice()["tokens"].tolist()


def example_scores(name: str, layer=0, head=0, token=0) -> Tensor:
    """Scores (M,) to explore: "Alice", "Gaussian", "ramp up", "ramp down", "one spike"."""
    if name == "Alice":
        q, k, _ = alice_qkv(layer)
        return k[head] @ q[head, token] * k.shape[-1] ** -0.5
    x = torch.linspace(-4, 4, 96)
    noise = torch.randn(96, generator=torch.Generator().manual_seed(1))
    made = {"Gaussian": 2 * noise, "ramp up": x, "ramp down": -x, "one spike": 0.3 * noise}
    if name not in made:
        raise ValueError(f"name must be 'Alice' or one of {list(made)}, got {name!r}")
    s = made[name]
    if name == "one spike":
        s[61] = 6.0
    return s


@cache
def _alice() -> dict[str, np.ndarray]:
    with np.load(ALICE) as stored:
        return {name: stored[name] for name in stored.files}
