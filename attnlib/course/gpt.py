"""A character GPT of sixty lines, whose attention is an argument.

Pre-norm blocks (Radford et al. 2019) with rotary positions (Su et al. 2021), which
need no table of a fixed length: the same model reads 64 characters or a whole book.
`attention(q, k, v, causal=True)` is any core of this course, or torch's. Lesson 10.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOOK = Path(__file__).parent / "data" / "alice.txt"


class TinyGPT(nn.Module):
    """tokens (B, N) -> logits (B, N, vocabulary) of the next token at every place.

    `width` is split among `heads`; width / heads, the head size, must be even.
    """

    def __init__(
        self, attention: Callable, vocabulary: int, width: int = 64, heads: int = 2, layers: int = 2
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(attention, width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)  # (B, N, width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # (B, N, vocabulary)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (B, N, width) -> the same."""

    def __init__(self, attention: Callable, width: int, heads: int):
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of 2 heads, and heads is {heads}")
        self.attention, self.heads = attention, heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x))  # (B, N, 3 width)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k = rotate(q), rotate(k)  # (B, N, H, d)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))  # (B, H, N, d)
        o = self.attention(q, k, v, causal=True)  # (B, H, N, d)
        x = x + self.out(o.transpose(1, 2).flatten(-2))  # (B, N, width)
        return x + self.mlp(self.norm2(x))


def rotate(x: Tensor) -> Tensor:
    """Rotary positions: token n's pairs of numbers turned by n times a fixed angle each.

    x (B, N, H, d) -> the same. The product of two rotated vectors depends on their
    places only through the distance.
    """
    N, d = x.shape[1], x.shape[-1]
    frequency = 10_000 ** -torch.arange(0, 1, 2 / d, dtype=x.dtype, device=x.device)  # (d/2,)
    angle = torch.arange(N, dtype=x.dtype, device=x.device)[:, None, None] * frequency
    cos, sin = angle.cos(), angle.sin()  # (N, 1, d/2)
    a, b = x.chunk(2, -1)  # (B, N, H, d/2)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def read_book() -> tuple[Tensor, str]:
    """Alice's Adventures in Wonderland as tokens (148274,), and its characters, sorted:
    token i is the i-th of them."""
    text = BOOK.read_text()
    characters = "".join(sorted(set(text)))
    code = {character: i for i, character in enumerate(characters)}
    return torch.tensor([code[character] for character in text]), characters


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross entropy, in nats, of predicting tokens (B, N + 1) one from the last."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(
    model: nn.Module, text: Tensor, steps: int, *, N: int, batch: int, lr=3e-3, seed=0
) -> Iterator[float]:
    """AdamW on random passages of N characters; yields the loss of every step.

    The same seed gives the same passages, whatever the model.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = adamw(model, lr)
    for _ in range(steps):
        starts = torch.randint(len(text) - N, (batch,), generator=generator)
        tokens = torch.stack([text[i : i + N + 1] for i in starts])
        yield step(model, optimiser, tokens.to(next(model.parameters()).device)).item()


def adamw(model: nn.Module, lr: float = 3e-3) -> torch.optim.Optimizer:
    """AdamW, one parameter after another: the same numbers and bytes on every device."""
    return torch.optim.AdamW(model.parameters(), lr=lr, foreach=False)


def step(model: nn.Module, optimiser: torch.optim.Optimizer, tokens: Tensor) -> Tensor:
    """One step of training on tokens (B, N + 1); its loss."""
    optimiser.zero_grad()
    loss = loss_of(model, tokens)
    loss.backward()
    optimiser.step()
    return loss.detach()


@torch.no_grad()
def write(model: nn.Module, prompt: Tensor, length: int, *, seed=0, context: int = 256) -> Tensor:
    """prompt (n,) and `length` more tokens, each drawn from the model's distribution."""
    generator, tokens = torch.Generator().manual_seed(seed), prompt
    for _ in range(length):
        seen = tokens[-context:].to(next(model.parameters()).device)
        p = torch.softmax(model(seen[None])[0, -1].double(), -1).cpu()  # (vocabulary,)
        tokens = torch.cat((tokens, torch.multinomial(p, 1, generator=generator)))
    return tokens
