# SPDX-License-Identifier: Apache-2.0
"""The fused dense layer of decoding is the specification: in the interpreter, at odd sizes, with poisoned memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coltran_kernels import Epilogue, Pending, fused_linear, triton_common
from coltran_kernels.linear import triton as linear_triton
from tests.operations import as_double

if not triton_common.INTERPRETED:
    pytest.skip("on a GPU the tensors of these tests are in the wrong memory", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("poisoned_memory")

AROUND: dict[str, dict[str, Any]] = {
    "product alone": {},
    "bias, relu": {"bias": True, "relu": True},
    "embedding, scale and shift": {"embedded": True, "scale": True, "shift": True},
    "a norm for all, shift": {"norms": 1, "shift": True},
    "a norm for each image, residual": {"norms": 1, "per_image": True, "bias": True, "residual": True},
    "two norms after an embedding, all else": {
        "embedded": True, "norms": 2, "bias": True, "relu": True, "scale": True, "shift": True, "residual": True,
    },
}  # fmt: skip


def random_call(
    images: int, width: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32, *, norms: int = 0,
    per_image: bool = False, embedded: bool = False, bias: bool = False, relu: bool = False, **around: bool,
) -> tuple[Pending, torch.Tensor, Epilogue]:  # fmt: skip
    """Arguments of `fused_linear`; scales and shifts are parts of a wider tensor."""
    wide = torch.randn(images, width, 2 * outputs + 3).to(dtype)
    size = [*([images] if per_image else []), inputs]
    of_norms = tuple(tuple(torch.randn(2, *size).mul(0.3).add(1).to(dtype)) for _ in range(norms))
    table = (torch.randn(7, inputs).to(dtype), torch.randint(-1, 7, (images, width))) if embedded else None
    tensors = {
        "scale": wide[..., :outputs], "shift": wide[..., outputs + 3 :],
        "residual": torch.randn(images, width, outputs).to(dtype),
    }  # fmt: skip
    x, weight = torch.randn(images, width, inputs).to(dtype), (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype)
    epilogue = Epilogue(
        torch.randn(outputs) if bias else None, relu, **{k: t for k, t in tensors.items() if around.get(k)}
    )
    return Pending(x, table, of_norms), weight, epilogue


def assert_within_twice_plain_torch(call: tuple[Pending, torch.Tensor, Epilogue]) -> None:
    exact = fused_linear(*as_double(call))
    plain = fused_linear(*call, implementation="reference")
    found = fused_linear(*call, implementation="triton")
    for one, other, right in zip(found, plain, exact, strict=True):
        assert one.dtype == other.dtype
        assert (one.double() - right).norm() <= 2 * (other.double() - right).norm() + 1e-7 * right.norm()


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 7, 48, 65), (2, 17, 20, 33), (1, 64, 128, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_it_is_the_specification(around, sizes, dtype):
    assert_within_twice_plain_torch(random_call(*sizes, dtype, **around))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
def test_many_rows_take_larger_tiles(around):
    assert_within_twice_plain_torch(random_call(5, 60, 72, 40, **around))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize(("name", "limit"), [("MOST_ROWS", 8), ("LARGEST", 32)])
def test_beyond_the_limits_the_norms_are_kernels_of_their_own(monkeypatch, around, name, limit):
    monkeypatch.setattr(linear_triton, name, limit)
    assert_within_twice_plain_torch(random_call(2, 9, 80, 40, **around))


def test_images_whose_row_is_final_are_left_alone():
    call = random_call(3, 16, 32, 20, norms=1, bias=True)
    expected = fused_linear(*call)[0]
    final = torch.tensor([16, 3, 16], dtype=torch.int32)
    found = fused_linear(*call, final=final, implementation="triton")[0]
    assert found[[0, 2]].isnan().all()
    torch.testing.assert_close(found[1], expected[1])


def test_what_is_not_a_number_stays_so():
    pending, weight, epilogue = random_call(1, 3, 16, 8, bias=True, relu=True)
    pending.x[0, 1] = float("nan")
    found = fused_linear(pending, weight, epilogue, implementation="triton")[0]
    assert found[0, 1].isnan().all() and not found[0, [0, 2]].isnan().any()


def test_shapes_that_do_not_fit_and_float64_are_told():
    pending, weight, _ = random_call(2, 3, 8, 4)
    with pytest.raises(ValueError, match="scale is"):
        fused_linear(pending, weight, Epilogue(scale=torch.zeros(2, 3, 5)))
    with pytest.raises(ValueError, match="weight is"):
        fused_linear(pending, weight.T)
    with pytest.raises(NotImplementedError, match="float64"):
        fused_linear(Pending(pending.x.double()), weight.double(), implementation="triton")
