"""Inputs that wrong kernels stumble over, with the right answers and what error may be.

A kernel's error against float64 may be twice standard attention's on the same input,
the rule of FlashAttention's own tests, and a floor: a quarter of a unit in the last
place in 16 bits, where rounding the output alone costs as much; else what rounding
the scores s costs, 4 eps (1 + max |s|).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib import attention_oracle, standard_attention
from attnlib.course.inputs import make_qkv
from attnlib.softmax import relative_error

SHAPES = ((2, 3, 77, 64),)  # each of these in every way; the rest once, for its size
SINGLE = ((1, 1, 1, 64), (2, 3, 128, 64), (1, 2, 77, 16), (1, 2, 77, 32), (1, 2, 77, 128))
SINGLE += ((1, 2, 33, 256),)


class Case(NamedTuple):
    """One call f(q, k, v, **options).

    A kernel that has no groups of heads `may_refuse`. Where rounding is all that is
    left of a gradient, it is not judged.
    """

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    options: dict
    may_refuse: bool = False
    gradients: bool = True

    @property
    def says(self) -> str:
        """The input in words: shapes, dtype, options."""
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip("qkv", self[1:4]))
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        return f"{shapes}, {str(self.q.dtype).removeprefix('torch.')}{options}"


class Answer(NamedTuple):
    """What is right, and how large the relative error may be, by name: "o", "dq" ..."""

    right: dict[str, Tensor]
    allowed: dict[str, float]


def cases(dtypes, shapes=(), takes=(), device="cpu") -> Iterator[Case]:
    """Every case in the first dtype, and a few in the others.

    `takes` has the options that the kernel has: "causal", "key_mask", "window".
    """
    for shape in shapes or SHAPES:
        for dtype in dtypes:
            for case in _around(*shape, dtype, device, full=dtype == dtypes[0]):
                yield from _with_options(case, takes)
    for shape in () if shapes else SINGLE:
        q, k, v = make_qkv(*shape, dtype=dtypes[0], device=device)
        yield from _with_options(Case(f"N {shape[-2]}, d {shape[-1]}", q, k, v, {}), takes)
    if "key_mask" in takes:
        q, k, v = make_qkv(2, 3, 77, 64, dtype=dtypes[0], device=device)
        seen = torch.arange(77, device=device) < torch.tensor([[50], [0]], device=device)
        yield Case(
            "padding, and one sequence of nothing else", q, k, v, {"key_mask": seen[:, None]}
        )


def _around(B, H, N, d, dtype, device, full) -> Iterator[Case]:
    q, k, v = make_qkv(B, H, N, d, dtype=dtype, device=device)
    yield Case(f"N {N}", q, k, v, {})
    if dtype.itemsize == 2:
        # Of so many that count alike, a sum in 16 bits does not notice the second half.
        k1, v1 = make_qkv(1, 1, 65536, d, n=2, seed=1, dtype=dtype, device=device)
        v1 = v1 / 8 + torch.tensor([1, 2], device=device).repeat_interleave(32768)[:, None]
        alike = q[:1, :1, :2] / 8, k1, v1.to(dtype)
        yield Case("65,536 keys that count alike", *alike, {}, gradients=False)
    if not full:
        return
    most, few = 2 * N, max(1, N // 4)
    longer = make_qkv(B, H, most, d, seed=2, dtype=dtype, device=device)
    yield Case("fewer queries than keys", q[..., :few, :], longer[1], longer[2], {})
    yield Case("more queries than keys", longer[0], k[..., :few, :], v[..., :few, :], {})
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    yield Case("heads that lie apart in memory", *apart, {})
    qkv = torch.cat((q, k, v), -1)
    yield Case("slices of one tensor qkv", *qkv.chunk(3, -1), {})
    yield Case("k and v expanded from one head", q, *(x[:, :1].expand_as(x) for x in (k, v)), {})
    yield Case("scores x 20", 20 * q, k, v, {})
    for sign in (-1, 1):
        q1, k1 = q.clone(), k.clone()
        q1[..., 0], k1[..., 0] = 16, sign * 300 / 16 * d**0.5
        yield Case(f"all scores near {sign * 300}", q1, k1, v, {}, gradients=False)
    for name, at in (("first", 0), ("last", -1)):
        q1, k1 = q.clone(), k.clone()
        q1[..., 0], k1[..., 0], k1[..., at, 0] = 4, 0, 40 / 4 * d**0.5
        yield Case(f"the {name} key dominates", q1, k1, v, {}, gradients=False)
    many = make_qkv(B, 4, N, d, n=1, seed=3, dtype=dtype, device=device)
    shared = make_qkv(B, 2, N, d, n=2, seed=4, dtype=dtype, device=device)
    yield Case("4 query heads on 2", *many, *shared, {}, True)


def _with_options(case: Case, takes) -> Iterator[Case]:
    yield case
    if case.k.shape[-2] > 10_000:  # once is long enough
        return
    for name, value in (("causal", True), ("window", 9)):
        if name in takes:
            yield case._replace(name=f"{case.name}, {name}", options={name: value})


def answer(case: Case, backward: bool) -> Answer:
    """The case's right answer, from float64, and with `backward` its gradients."""
    backward &= case.gradients
    o, _ = attention_oracle(*case[1:4], **case.options)
    s = case.q.double() @ _as_many(case.k, case.q).double().mT / math.sqrt(case.q.shape[-1])
    standard = call(standard_attention, case, backward)
    double = case._replace(**{x: getattr(case, x).double() for x in "qkv"})
    right = (call(standard_attention, double, True) if backward else {}) | {"o": o}
    allowed = {
        name: 2 * relative_error(standard[name], right[name]) + _floor(case.q.dtype, s)
        for name in right
    }
    return Answer(right, allowed)


def _floor(dtype, s: Tensor) -> float:
    eps = torch.finfo(dtype).eps
    largest = s.abs().max().item()
    return eps / 4 if dtype.itemsize == 2 else 4 * eps * (1 + largest)


def call(f, case: Case, backward: bool) -> dict[str, Tensor]:
    """f's output and, with `backward`, its gradients for one and the same do."""
    if not (backward and case.gradients):
        with torch.no_grad():
            return {"o": f(*case[1:4], **case.options)}
    q, k, v = (x.detach().requires_grad_() for x in case[1:4])
    o = f(q, k, v, **case.options)
    if not isinstance(o, Tensor) or o.shape != (*q.shape[:-1], v.shape[-1]):
        return {"o": o}  # wrong already
    if o.grad_fn is None:
        return {"o": o, "dq": None, "dk": None, "dv": None}
    do = make_qkv(*o.shape, n=1, seed=3)[0].to(o.device, o.dtype)
    grads = torch.autograd.grad(o, (q, k, v), do, allow_unused=True)
    return {"o": o.detach()} | dict(zip(("dq", "dk", "dv"), grads))


def _as_many(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
