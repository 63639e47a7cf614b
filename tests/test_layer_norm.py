# SPDX-License-Identifier: Apache-2.0
"""Layer norm by every implementation, with its gradients, against the specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coltran_kernels import add_layer_norm
from coltran_kernels.layer_norm import xla as layer_norm_xla
from tests.operations import ON_XLA, TRITON, assert_within_budget, device_of, with_gradients

EPS = 1e-3
IMPLEMENTATIONS = ["cpu", TRITON, "xla"]
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def make_inputs(shape: tuple[int, ...], residual: bool, affine: str | None) -> dict[str, Tensor]:
    """Float64 x, residual, scale and shift; `affine` is None, "all" for [D], or "image" for [B, 1, ..., D]."""
    inputs = {"x": 1 + torch.randn(shape, dtype=torch.float64)}
    if residual:
        inputs["residual"] = torch.randn(shape, dtype=torch.float64)
    if affine:
        of = shape[-1:] if affine == "all" else (shape[0], *(1 for _ in shape[1:-1]), shape[-1])
        inputs["scale"] = 1 + torch.randn(of, dtype=torch.float64)
        inputs["shift"] = torch.randn(of, dtype=torch.float64)
    return inputs


def norm(implementation: str, inputs: dict[str, Tensor]) -> Tensor:
    if implementation == "xla" and not ON_XLA:
        return layer_norm_xla.add_layer_norm(*map(inputs.get, ("x", "residual", "scale", "shift")), EPS)
    return add_layer_norm(**inputs, eps=EPS, implementation=implementation)


def moved(inputs: dict[str, Tensor], implementation: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(device_of(implementation), dtype).requires_grad_() for name, tensor in inputs.items()}


def results(inputs: dict[str, Tensor], dtype: torch.dtype, implementation: str) -> dict[str, Tensor]:
    leaves = moved(inputs, implementation, dtype)
    return with_gradients(norm(implementation, leaves), leaves)


CASES = [
    ((1, 1, 1, 8), False, None),
    ((2, 3, 5, 16), True, "all"),
    ((2, 3, 5, 24), True, "image"),
    ((3, 7, 3, 512), True, "image"),
    ((1, 9, 9, 33), False, "image"),
    ((65, 512), True, "all"),
    ((4, 130), True, None),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_is_within_twice_the_error_of_plain_torch(implementation, case, dtype):
    if implementation == "triton" and dtype == torch.bfloat16 and not torch.cuda.is_available():
        pytest.skip("the interpreter computes bfloat16 wrongly")
    if implementation != "triton" and dtype != torch.float32:
        pytest.skip("torch sums the gradients in the type of the values")
    inputs = make_inputs(*case)
    rounded = {name: tensor.to(dtype).double() for name, tensor in inputs.items()}
    exact, plain = results(rounded, torch.float64, "reference"), results(inputs, dtype, "reference")
    assert_within_budget(results(inputs, dtype, implementation), plain, exact)


@pytest.mark.parametrize("case", CASES[:3], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_those_of_the_output(implementation, case):
    inputs = moved(make_inputs(*case), implementation, torch.float64)

    def of(*tensors):
        return norm(implementation, dict(zip(inputs, tensors, strict=True)))

    assert torch.autograd.gradcheck(of, list(inputs.values()), fast_mode=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_do_not_touch_each_other_and_strides_do_not_matter(implementation):
    inputs = moved(make_inputs((3, 5, 2, 16), True, "image"), implementation, torch.float64)
    together = norm(implementation, inputs)
    apart = [norm(implementation, {name: t[i : i + 1] for name, t in inputs.items()}) for i in range(3)]
    strided = {name: tensor.transpose(1, 3).contiguous().transpose(1, 3) for name, tensor in inputs.items()}
    assert torch.equal(together, torch.cat(apart))
    assert torch.equal(together, norm(implementation, strided))


@pytest.mark.parametrize("implementation", [TRITON])
def test_a_scale_of_each_pixel_is_refused(implementation):
    inputs = moved(make_inputs((2, 3, 4, 16), True, None), implementation, torch.float64)
    with pytest.raises(NotImplementedError, match="scale and shift"):
        add_layer_norm(**inputs, scale=inputs["x"], implementation=implementation)


@pytest.mark.parametrize("implementation", [TRITON])
def test_the_operator_is_registered_completely(implementation):
    from coltran_kernels.layer_norm.triton import normalise

    inputs = moved(make_inputs((2, 3, 5, 16), True, "image"), implementation, torch.float32)
    torch.library.opcheck(normalise, (*inputs.values(), EPS))
