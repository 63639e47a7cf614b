# SPDX-License-Identifier: Apache-2.0
"""Attention by every implementation, against the specification: along an axis with its gradients, and over a cache.

"cpu" is the one that trains, by batched products; "native ..." is the kernel for one instruction set, without
gradients. Triton is interpreted where there is no GPU; XLA's is plain torch where there is no torch_xla.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from coltran_kernels import axial_attention, cached_attention, reference
from coltran_kernels.attention import batched, cpu
from coltran_kernels.attention import xla as attention_xla
from coltran_kernels.types import Operand
from tests.operations import (
    NATIVE,
    ON_XLA,
    OPERANDS,
    TRITON,
    assert_within_budget,
    device_of,
    make_operands,
    needs_native,
    with_gradients,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")
IMPLEMENTATIONS = ["cpu", *NATIVE, TRITON, "xla"]
TRAINING = ["cpu", TRITON, "xla"]


def attend(implementation: str, operands: dict[str, Tensor], axis: str, causal: bool) -> Tensor:
    if implementation in NATIVE:
        tensors = [operands.get(name) for name in OPERANDS]
        target = NATIVE.index(implementation)
        return cpu.attend_natively(tensors[:9], tensors[9], axis=axis, causal=causal, target=target)
    if implementation == "xla" and not ON_XLA:
        qkv = [Operand(operands[x], operands.get(f"{x}_scale"), operands.get(f"{x}_shift")) for x in "qkv"]
        return attention_xla.axial_attention(*qkv, operands.get("bias"), axis=axis, causal=causal)
    return axial_attention(**operands, axis=axis, causal=causal, implementation=implementation)


def results(operands: dict[str, Tensor], dtype: torch.dtype, implementation: str, **options: Any) -> dict[str, Tensor]:
    """The output, and the gradients of the operands where there are any."""
    leaves = {name: tensor.to(device_of(implementation), dtype).detach() for name, tensor in operands.items()}
    if implementation in NATIVE:
        return {"out": attend(implementation, leaves, **options)}
    out = attend(implementation, {name: tensor.requires_grad_() for name, tensor in leaves.items()}, **options)
    return with_gradients(out, leaves)


CASES = [  # length, channels, axis, causal, bias, conditioned: around the sizes of tiles, blocks and vectors
    (1, 8, "row", True, True, "qkv"),
    (1, 16, "column", False, False, ""),
    (5, 5, "row", False, True, "k"),
    (7, 8, "column", True, False, "qk"),
    (7, 16, "row", False, True, ""),
    (9, 24, "column", True, True, "qkv"),
    (16, 8, "row", True, True, "qkv"),
    (16, 16, "column", False, True, "qkv"),
    (16, 32, "row", True, False, ""),
    (17, 8, "row", False, True, "v"),
    (31, 16, "column", True, True, "k"),
    (33, 8, "column", True, True, "qkv"),
    (33, 32, "column", False, False, ""),
    (33, 16, "row", True, False, "v"),
    (33, 40, "row", False, True, "qkv"),
    (64, 32, "row", True, True, "qkv"),
    (64, 16, "column", False, True, ""),
    (64, 64, "row", False, False, ""),
    (64, 8, "column", True, False, "qkv"),
    (65, 8, "row", True, True, "qkv"),
    (80, 16, "column", False, True, "qkv"),
    (100, 24, "row", False, True, "k"),
    (130, 8, "row", True, True, ""),
    (40, 128, "row", True, True, "qkv"),
]
PAPERS = [(64, 128, "column", True, True, "qkv"), (64, 128, "row", False, True, ""), (256, 128, "row", False, True, "")]


def check(case: tuple, dtype: torch.dtype, implementation: str, **sizes: int) -> None:
    length, channels, axis, causal, bias, conditioned = case
    operands = make_operands(length, channels, axis, bias=bias, conditioned=conditioned, **sizes)
    rounded = {name: tensor.to(dtype).double() for name, tensor in operands.items()}
    options = {"axis": axis, "causal": causal}
    exact = results(rounded, torch.float64, "reference", **options)
    plain = results(operands, dtype, "reference", **options)
    assert_within_budget(results(operands, dtype, implementation, **options), plain, exact)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float32_is_within_twice_the_error_of_plain_torch(implementation, case):
    sizes = {"batch": 2} if case[0] < 33 else {"batch": 1, "lines": 1 + (case[0] < 65)}
    check(case, torch.float32, implementation, **sizes)


@pytest.mark.parametrize("case", CASES[1::3], ids=str)
def test_lines_one_by_one_are_within_twice_the_error_of_plain_torch(monkeypatch, case):
    monkeypatch.setattr(batched, "SCORES", 1)
    check(case, torch.float32, "cpu", lines=3)


@pytest.mark.parametrize("case", CASES[2::3], ids=str)
@pytest.mark.parametrize("implementation", [TRITON])
def test_float16_is_within_twice_the_error_of_plain_torch(implementation, case):
    check(case, torch.float16, implementation, lines=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter computes bfloat16 wrongly")
@pytest.mark.parametrize("case", [*CASES, *PAPERS], ids=str)
def test_bfloat16_is_within_twice_the_error_of_plain_torch(case):
    check(case, torch.bfloat16, "triton", lines=3)


@pytest.mark.parametrize(
    ("length", "channels", "axis", "causal"),
    [(1, 8, "row", False), (5, 1, "column", True), (18, 8, "column", False), (66, 8, "row", True)],
)
@pytest.mark.parametrize("implementation", TRAINING)
def test_gradients_are_those_of_the_output(implementation, length, channels, axis, causal):
    operands = make_operands(length, channels, axis, batch=1, lines=1)
    leaves = [operands[name].to(device_of(implementation)).requires_grad_() for name in OPERANDS]

    def of(*tensors):
        return attend(implementation, dict(zip(OPERANDS, tensors, strict=True)), axis, causal)

    assert torch.autograd.gradcheck(of, leaves, fast_mode=True)


@pytest.mark.parametrize("part", ["scale", "shift"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_scale_or_a_shift_may_come_alone(implementation, part):
    operands = {name: t for name, t in make_operands(9, 8, "row").items() if name.endswith(part) or "_" not in name}
    expected = results(operands, torch.float32, "reference", axis="row", causal=False)
    for name, found in results(operands, torch.float32, implementation, axis="row", causal=False).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "axis"), [(33, "row"), (70, "column")])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_later_position_moves_an_earlier_output(implementation, length, axis):
    operands = {name: t.float() for name, t in make_operands(length, 8, axis, batch=1).items()}
    dimension, changed = (2 if axis == "row" else 1), length // 2
    before = results(operands, torch.float32, implementation, axis=axis, causal=True)["out"]
    for name in OPERANDS[:9]:
        operands[name] = operands[name].clone()
        operands[name].select(dimension, changed).add_(1.0)
    after = results(operands, torch.float32, implementation, axis=axis, causal=True)["out"]
    same = (before == after).movedim(dimension, 0).flatten(1)
    assert same[:changed].all()
    assert not same[changed:].any(1).all()


@pytest.mark.parametrize(("length", "axis"), [(17, "column"), (70, "row")])
@pytest.mark.parametrize("implementation", ["cpu", *NATIVE, TRITON])
def test_operands_of_any_strides_are_read_where_they_lie_and_nothing_beside_them(implementation, length, axis):
    operands = {name: t.float() for name, t in make_operands(length, 8, axis, batch=1).items()}
    options = {"axis": axis, "causal": True}
    expected = results({name: t.contiguous() for name, t in operands.items()}, torch.float32, implementation, **options)
    for name in OPERANDS[:9]:
        batch, height, width, heads, channels = operands[name].shape
        room = torch.full((width + 2, batch, heads + 1, height + 1, channels + 12), torch.nan)
        place = room[1:-1, :, 1:, 1:, 6:-6].permute(1, 3, 0, 2, 4)
        operands[name] = place.copy_(operands[name])
    table = torch.full((4, 4 * length + 2), torch.nan)[1:3, 1:-1]
    for bias in (table[:, ::2], table[:, : 2 * length]):
        given = operands | {"bias": bias.copy_(operands["bias"])}
        found = results(given, torch.float32, implementation, **options)
        assert all(torch.equal(found[name], expected[name]) for name in found)
    apart = {name: t.mT.contiguous().mT if t.dim() == 5 else t for name, t in operands.items()}
    found = results(apart, torch.float32, implementation, **options)  # channels that are not neighbours
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", [*NATIVE, TRITON])
def test_no_line_can_tell_how_many_there_are(implementation):
    operands = {name: t.float() for name, t in make_operands(21, 8, "row", batch=3).items()}
    part = {name: tensor[1:2, 1:2] if name != "bias" else tensor for name, tensor in operands.items()}
    whole, alone = (results(t, torch.float32, implementation, axis="row", causal=True)["out"] for t in (operands, part))
    assert torch.equal(alone, whole[1:2, 1:2])


@needs_native
def test_threads_give_the_same_result():
    operands = {name: t.float() for name, t in make_operands(40, 8, "row", lines=7).items()}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(axial_attention(**operands, axis="row", causal=False, implementation="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@needs_native
@pytest.mark.parametrize("shape", [(0, 2, 3, 1, 4), (2, 0, 3, 1, 4)])
def test_nothing_comes_of_nothing(shape):
    q = torch.zeros(shape)
    assert axial_attention(q, q, q, axis="row", causal=False, implementation="cpu").shape == shape


@needs_native
def test_the_native_kernel_serves_where_no_gradient_is_wanted(monkeypatch):
    operands = {name: t.float() for name, t in make_operands(5, 8, "row", conditioned="q").items()}
    seen = []
    monkeypatch.setattr(cpu, "attend_natively", lambda *_, **__: seen.append(1))
    axial_attention(**operands, axis="row", causal=False)
    axial_attention(**operands | {"q_scale": operands["q_scale"].clone().requires_grad_()}, axis="row", causal=False)
    axial_attention(**{name: tensor.bfloat16() for name, tensor in operands.items()}, axis="row", causal=False)
    assert len(seen) == 1


def test_no_attention_is_kept_where_no_gradient_is_wanted():
    operands = make_operands(8, 8, "row", conditioned="", bias=False)
    arguments = [operands.get(name) for name in OPERANDS]
    assert batched.attend(*arguments, "row", False, True)[1].shape == (2, 2, 2, 8, 8)
    assert batched.attend(*arguments, "row", False, False)[1].numel() == 0


@pytest.mark.parametrize(
    ("implementation", "length", "train"),
    [("cpu", 9, False), ("cpu", 9, True), *(pytest.param("triton", n, True, marks=TRITON.marks) for n in (9, 66))],
)
def test_the_operator_is_registered_completely(implementation, length, train):
    operands = make_operands(length, 8, "row", batch=1, conditioned="q" if implementation == "triton" else "")
    leaves = [operands.get(name) for name in OPERANDS]
    leaves = [t if t is None else t.float().to(device_of(implementation)).requires_grad_(train) for t in leaves]
    if implementation == "triton":
        from coltran_kernels.attention.triton import attend as operator
    else:
        operator = batched.attend
    torch.library.opcheck(operator, (*leaves, "row", True, train))


def test_bfloat16_takes_a_float32_bias():
    operands = make_operands(16, 8, "row", conditioned="")
    exact = axial_attention(**operands, axis="row", causal=False, implementation="reference")
    q, k, v = (operands[name].bfloat16() for name in "qkv")
    bias = operands["bias"].float().requires_grad_()
    found = axial_attention(q, k, v, bias, axis="row", causal=False, implementation="cpu")
    (gradient,) = torch.autograd.grad(found.float().sum(), bias)
    assert found.dtype == torch.bfloat16 and gradient.dtype == torch.float32
    assert (found.double() - exact).norm() < 8 * torch.finfo(torch.bfloat16).eps * exact.norm()


@pytest.mark.parametrize("implementation", [TRITON])
def test_more_than_128_channels_are_refused(implementation):
    operands = make_operands(2, 129, "row", conditioned="", bias=False)
    with pytest.raises(NotImplementedError, match="C <= 128, not 129"):
        results(operands, torch.float32, implementation, axis="row", causal=False)


def test_operands_of_different_types_are_refused():
    operands = make_operands(2, 8, "row", conditioned="", bias=False)
    operands["k"] = operands["k"].float()
    with pytest.raises(ValueError, match="k is torch.float32, q torch.float64"):
        axial_attention(**operands, axis="row", causal=False)


# One new row over a cache.


def cached(implementation: str, *arguments: Tensor) -> Tensor:
    if implementation in NATIVE:
        return cpu.cached_attention(*arguments, target=NATIVE.index(implementation))
    if implementation == "xla" and not ON_XLA:
        return attention_xla.cached_attention(*arguments)
    moved = [t.to(device_of(implementation)) for t in arguments]
    return cached_attention(*moved, implementation=implementation).cpu()


def cache_of(length: int, channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """One row's queries, some of a cache full of NaN beyond what is known, a part of the bias table."""
    q, cache = torch.randn(2, 3, 2, channels), torch.full((2, 2, 3, length + 9, 2, channels), torch.nan)
    cache[:, :, :, :length] = torch.randn(2, 2, 3, length, 2, channels)
    q, cache, table = (t.to(dtype) for t in (q, cache, torch.randn(2, length + 20)))
    keys, values = cache.transpose(2, 3)[:, :, :length]
    return q, keys, values, table[:, 11 : 11 + length]


@pytest.mark.parametrize(("length", "channels"), [(1, 16), (7, 5), (32, 24), (33, 1), (33, 128), (80, 16)])
@pytest.mark.parametrize("implementation", [*NATIVE, "xla"])
def test_attention_over_a_cache_is_within_twice_the_error_of_plain_torch(implementation, length, channels):
    arguments = cache_of(length, channels)
    exact = reference.cached_attention(*(t.double() for t in arguments))
    plain, found = (cached(name, *arguments) for name in ("reference", implementation))
    assert_within_budget({"out": found}, {"out": plain}, {"out": exact})


@pytest.mark.parametrize("implementation", [*NATIVE, "xla"])
def test_a_bias_of_minus_infinity_leaves_a_row_out(implementation):
    q, k, v, bias = cache_of(70, 16)
    hidden = bias.clone()
    hidden[:, :40] = float("-inf")
    expected = reference.cached_attention(q, k[:, 40:], v[:, 40:], bias[:, 40:])
    torch.testing.assert_close(cached(implementation, q, k, v, hidden), expected, rtol=1e-5, atol=1e-5)


@needs_native
def test_the_native_kernel_takes_float32_alone():
    arguments = cache_of(7, 5, torch.float64)
    assert torch.equal(cached_attention(*arguments), reference.cached_attention(*arguments))
    with pytest.raises(NotImplementedError, match="float32, not in torch.float64"):
        cached_attention(*arguments, implementation="cpu")


def test_a_gradient_passes_where_xla_serves():
    leaves = [t.detach().clone().requires_grad_() for t in cache_of(6, 4, torch.float64)]
    assert torch.autograd.gradcheck(attention_xla.cached_attention, leaves, fast_mode=True)
