# SPDX-License-Identifier: Apache-2.0
"""Attention of packed operands, whose gradients on the CPU are a native kernel's, against the specification."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from coltran_kernels import native, packed_attention, takes_bfloat16
from coltran_kernels.attention import cpu
from coltran_kernels.attention.packing import unpack_operands
from coltran_kernels.reference import condition, relative_bias
from tests.operations import TARGETS, assert_within_budget, needs_native, with_gradients

ROUNDING = 2**-9  # how far rounding to bfloat16 moves a value, in relation to its size


def _leaves(length: int, channels: int, axis: str, conditioned: str, scaled: bool, lines: int = 9) -> dict[str, Tensor]:
    """Of 2 heads and 2 images, float64 but exact in bfloat16, so that all types start from the same numbers."""
    height, width = (lines, length) if axis == "row" else (length, lines)
    parts = len(conditioned) * (2 if scaled else 1)
    shapes = {"qkv": (2, height, width, 6 * channels), "bias": (2, 2 * length)}
    if parts:
        shapes["projected"] = (2, height, width, 2 * parts * channels)
    return {name: torch.randn(shape).bfloat16().double() for name, shape in shapes.items()}


def _results(leaves: dict[str, Tensor], dtype: torch.dtype, implementation: str | None, **options) -> dict[str, Tensor]:
    """The output and all gradients, each by the name of its operand."""
    typed = {
        name: t.to(torch.promote_types(dtype, torch.float32) if name == "bias" else dtype).requires_grad_()
        for name, t in leaves.items()
    }
    out = packed_attention(**{"projected": None} | typed, **options, implementation=implementation)
    return with_gradients(out, typed)


def _use(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Has the kernels of that instruction set serve, forward and backward."""
    index = TARGETS.index(target)
    for name in ("attend_natively", "gradients"):
        monkeypatch.setattr(cpu, name, functools.partial(getattr(cpu, name), target=index))


CASES = [  # length, channels, axis, causal, conditioned, with scales
    (1, 5, "row", False, "qkv", True),
    (7, 8, "column", True, "", False),
    (12, 16, "row", True, "kv", False),
    (33, 40, "row", True, "qkv", True),
    (64, 32, "column", False, "qkv", True),
    (70, 5, "column", True, "v", True),
]


@needs_native
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set_is_within_twice_the_error_of_plain_torch(monkeypatch, target, case):
    length, channels, axis, causal, conditioned, scaled = case
    leaves = _leaves(length, channels, axis, conditioned, scaled)
    options = {"axis": axis, "causal": causal, "conditioned": conditioned, "scaled": scaled}
    exact = _results(leaves, torch.float64, "reference", **options)
    plain = _results(leaves, torch.float32, "reference", **options)
    _use(monkeypatch, target)
    assert_within_budget(_results(leaves, torch.float32, "cpu", **options), plain, exact)


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


class _InPairs(torch.autograd.Function):
    """Attention [..., L, C] whose products take rounded numbers: what is specified for bfloat16."""

    @staticmethod
    def forward(ctx, q, k, v, mask):  # the mask: [h, L, L]
        scores = q @ k.mT * q.shape[-1] ** -0.5 + mask
        ctx.save_for_backward(q, k, v, scores.softmax(-1))
        powers = (scores - scores.amax(-1, keepdim=True)).exp()
        return _rounded(powers) @ v / powers.sum(-1, keepdim=True)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        dp = grad @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
        of_q, of_k = (q.shape[-1] ** -0.5 * product for product in (_rounded(ds) @ k, _rounded(ds).mT @ q))
        return of_q, of_k, _rounded(p).mT @ grad, ds.sum((0, 1))


def _specified(leaves: dict[str, Tensor], axis: str, causal: bool, conditioned: str, scaled: bool) -> dict[str, Tensor]:
    """As `_results`, in float64 but for what is rounded to bfloat16 on the way to a product."""
    typed = {name: tensor.clone().requires_grad_() for name, tensor in leaves.items()}
    heads, length = len(typed["bias"]), typed["bias"].shape[1] // 2
    operands = unpack_operands(typed["qkv"], typed.get("projected"), heads, conditioned, scaled)
    order = (0, 1, 3, 2, 4) if axis == "row" else (0, 2, 3, 1, 4)  # to [B, lines, h, L, C]
    lines = []
    for operand in operands:
        exact = condition(*operand)
        lines.append((exact + (_rounded(exact) - exact).detach()).permute(order))
    mask = relative_bias(typed["bias"])
    if causal:
        mask = mask.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
    attended = _InPairs.apply(*lines, mask).permute([order.index(i) for i in range(5)])
    return with_gradients(attended.flatten(-2), typed)


@needs_native
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_in_bfloat16_are_those_of_products_of_rounded_numbers(monkeypatch, target, case):
    length, channels, axis, causal, conditioned, scaled = case
    leaves = _leaves(length, channels, axis, conditioned, scaled)
    options = {"axis": axis, "causal": causal, "conditioned": conditioned, "scaled": scaled}
    _use(monkeypatch, target)
    expected, exact = _specified(leaves, **options), _results(leaves, torch.float64, "reference", **options)
    found = _results(leaves, torch.bfloat16, "cpu", **options)
    assert found["bias"].dtype == torch.float32
    for name, result in found.items():
        float32 = 1e-6 * expected[name].norm() + 1e-6  # what computing in float32 adds, for sums that cancel too
        rounding = 0 if name == "bias" else ROUNDING * expected[name].norm()
        assert (result.double() - expected[name]).norm() <= rounding + float32, name
        assert (result.double() - exact[name]).norm() <= 4 * ROUNDING * exact[name].norm() + float32, name


@needs_native
def test_the_number_of_threads_changes_no_gradient():
    leaves = _leaves(20, 8, "row", "qkv", True, lines=21)
    options = {"axis": "row", "causal": True, "conditioned": "qkv", "scaled": True}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(_results(leaves, torch.bfloat16, "cpu", **options))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@needs_native
def test_only_its_own_part_of_the_packed_gradients_is_written():
    """Memory that the kernel leaves alone holds what it held."""
    packed_room, room = torch.full((2, 3, 9, 100), 7.0), torch.full((2, 3, 9, 100), 7.0)
    views = [room[..., 10 + 16 * i : 26 + 16 * i].unflatten(-1, (2, 8)) for i in range(3)]
    packed_room[..., 10:58] = torch.randn(2, 3, 9, 48)
    operands = [packed_room[..., 10 + 16 * i : 26 + 16 * i].unflatten(-1, (2, 8)) for i in range(3)]
    spread = [t for operand in operands for t in (operand, None, None)]
    targets = [t for view in views for t in (view, None, None)]
    cpu.gradients(spread, torch.zeros(2, 18), torch.ones(2, 3, 9, 2, 8), targets, axis="row", causal=False)
    assert (room[..., :10] == 7).all() and (room[..., 58:] == 7).all()
    assert not (room[..., 10:58] == 7).any()


def test_without_the_native_library_the_operation_is_that_of_unpacked_operands(monkeypatch):
    monkeypatch.setattr(native, "unavailable", lambda: "there is none")
    leaves = _leaves(6, 4, "column", "qk", True)
    options = {"axis": "column", "causal": True, "conditioned": "qk", "scaled": True}
    exact = _results(leaves, torch.float64, "reference", **options)
    for name, found in _results(leaves, torch.float32, "cpu", **options).items():
        torch.testing.assert_close(found.double(), exact[name], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_taken_on_a_cpu_with_the_native_library_alone(monkeypatch):
    monkeypatch.setattr(native, "unavailable", lambda: None)
    assert takes_bfloat16("cpu", 200) and takes_bfloat16("cpu", 16, "cpu")
    assert not takes_bfloat16("cpu", 16, "reference")
    monkeypatch.setattr(native, "unavailable", lambda: "there is no compiler")
    assert not takes_bfloat16("cpu", 16)


def test_bfloat16_is_taken_on_a_gpu_for_heads_that_its_kernels_serve():
    assert takes_bfloat16("cuda", 128) and takes_bfloat16("cuda", 16, "triton")
    assert not takes_bfloat16("cuda", 129) and not takes_bfloat16("cuda", 16, "reference")


@pytest.mark.parametrize(
    "wrong",
    [
        {"axis": "colums"},
        {"bias": torch.zeros(2, 8)},
        {"bias": torch.zeros(5, 18)},
        {"projected": torch.zeros(1, 1, 1, 64)},
        {"projected": torch.zeros(2, 3, 9, 32)},
        {"scaled": False},
        {"conditioned": "x"},
        {"conditioned": "qq"},
        {"conditioned": ""},
        {"qkv": torch.zeros(9, 48)},
    ],
    ids=lambda wrong: " ".join(wrong),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_that_do_not_fit_are_refused_also_where_a_gradient_is_wanted(wrong, dtype):
    fitting = {
        "qkv": torch.zeros(2, 3, 9, 48, dtype=dtype, requires_grad=True), "projected": torch.zeros(2, 3, 9, 64),
        "bias": torch.zeros(2, 18), "axis": "row", "conditioned": "qk", "scaled": True,
    }  # fmt: skip
    given = fitting | wrong
    given["projected"] = given["projected"].to(dtype)
    with pytest.raises(ValueError, match="packed_attention: "):
        packed_attention(**given, causal=False)
