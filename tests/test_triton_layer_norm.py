# SPDX-License-Identifier: Apache-2.0
"""Layer norm in Triton, interpreted where there is no GPU, against the specification."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import add_layer_norm, ops
from coltran_kernels.triton import layer_norm
from tests.attention_cases import assert_within_budget

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter computes bfloat16 wrongly.
DTYPES = [torch.float32, torch.float16, *[torch.bfloat16] * torch.cuda.is_available()]
EPS = 1e-3


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def make_inputs(shape, residual, affine):
    """Float64 x, residual, scale and shift; `affine` is None, "all" for [D], or "image" for [B, 1, ..., D]."""
    inputs = {"x": 1 + torch.randn(shape, dtype=torch.float64)}
    if residual:
        inputs["residual"] = torch.randn(shape, dtype=torch.float64)
    if affine:
        of = shape[-1:] if affine == "all" else (shape[0], *(1 for _ in shape[1:-1]), shape[-1])
        inputs["scale"] = 1 + torch.randn(of, dtype=torch.float64)
        inputs["shift"] = torch.randn(of, dtype=torch.float64)
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def results(inputs, dtype, implementation):
    leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}
    out = add_layer_norm(**leaves, eps=EPS, implementation=implementation)
    weights = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), weights)
    return {"out": out.detach()} | dict(zip(leaves, gradients, strict=True))


CASES = [
    ((1, 1, 1, 8), False, None),
    ((2, 3, 5, 16), True, "all"),
    ((2, 3, 5, 24), True, "image"),
    ((3, 7, 3, 512), True, "image"),
    ((1, 9, 9, 33), False, "image"),
    ((65, 512), True, "all"),
    ((4, 130), True, None),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_within_twice_the_error_of_plain_torch(case, dtype):
    inputs = make_inputs(*case)
    rounded = {name: tensor.to(dtype).double() for name, tensor in inputs.items()}
    exact = results(rounded, torch.float64, "reference")
    assert_within_budget(results(inputs, dtype, "triton"), results(inputs, dtype, "reference"), exact)


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_gradients_are_those_of_the_output(case):
    inputs = make_inputs(*case)

    def norm(*tensors):
        return add_layer_norm(**dict(zip(inputs, tensors, strict=True)), eps=EPS, implementation="triton")

    assert torch.autograd.gradcheck(norm, [tensor.requires_grad_() for tensor in inputs.values()], fast_mode=True)


def test_images_do_not_touch_each_other():
    inputs = make_inputs((3, 5, 2, 16), True, "image")
    together = add_layer_norm(**inputs, implementation="triton")
    apart = [add_layer_norm(**{n: t[i : i + 1] for n, t in inputs.items()}, implementation="triton") for i in range(3)]
    assert torch.equal(together, torch.cat(apart))


def test_strides_do_not_matter():
    inputs = make_inputs((2, 3, 4, 16), True, "image")
    strided = {name: tensor.transpose(1, 3).contiguous().transpose(1, 3) for name, tensor in inputs.items()}
    before, after = (add_layer_norm(**each, implementation="triton") for each in (inputs, strided))
    assert torch.equal(before, after)


def test_a_scale_of_each_pixel_is_refused():
    inputs = make_inputs((2, 3, 4, 16), True, None)
    with pytest.raises(NotImplementedError, match="scale and shift"):
        add_layer_norm(**inputs, scale=inputs["x"], implementation="triton")


def test_a_scale_of_each_pixel_is_served_by_plain_torch_where_none_is_named(monkeypatch):
    inputs = make_inputs((2, 3, 4, 16), True, None)
    expected = add_layer_norm(**inputs, scale=inputs["x"], implementation="reference")
    monkeypatch.setattr(ops, "choose", lambda *_: "triton")  # as for tensors on a GPU
    assert torch.equal(add_layer_norm(**inputs, scale=inputs["x"]), expected)


def test_the_operator_is_registered_completely():
    inputs = make_inputs((2, 3, 5, 16), True, "image")
    leaves = [tensor.float().requires_grad_() for tensor in inputs.values()]
    torch.library.opcheck(layer_norm.normalise, (*leaves, EPS))
