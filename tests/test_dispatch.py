# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves: the best that can, a named one or an error that says why, and never another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from coltran_kernels import add_layer_norm, axial_attention, cached_attention, decode_row, dispatch, linear
from tests.operations import ON_XLA, TRITON, device_of, random_row


def calls(implementation: str, device: torch.device) -> list[Callable[[], object]]:
    x, bias, cache = (torch.randn(shape, device=device) for shape in ((2, 3, 4, 2, 8), (2, 8), (2, 3)))
    row = random_row(1, 3, 16, 12, 2, 40, 1)
    return [
        lambda: axial_attention(x, x, x, bias, axis="row", causal=False, implementation=implementation),
        lambda: cached_attention(x[:, 0], x, x, cache, implementation=implementation),
        lambda: add_layer_norm(x, implementation=implementation),
        lambda: linear(x, bias, implementation=implementation),
        lambda: decode_row(*row, implementation=implementation),
    ]


@pytest.mark.parametrize("call", range(5))
def test_xla_takes_no_tensor_of_the_cpu(call):
    with pytest.raises(NotImplementedError, match="'xla' cannot serve: it does not take a tensor on cpu"):
        calls("xla", torch.device("cpu"))[call]()


@pytest.mark.skipif(not ON_XLA, reason="there is no torch_xla")
def test_the_cpu_takes_no_tensor_of_xla():
    with pytest.raises(NotImplementedError, match="'cpu' cannot serve: it does not take a tensor on xla"):
        calls("cpu", device_of("xla"))[0]()


@pytest.mark.parametrize("implementation", [TRITON])
def test_triton_takes_no_tensor_of_the_cpu_but_interpreted(monkeypatch, implementation):
    from coltran_kernels import triton_common

    monkeypatch.setattr(triton_common, "INTERPRETED", False)
    for call in (0, 2, 4):
        with pytest.raises(NotImplementedError, match="does not take a tensor on cpu"):
            calls(implementation, torch.device("cpu"))[call]()


@pytest.mark.parametrize("best", [TRITON])
def test_where_the_best_cannot_serve_and_none_is_named_plain_torch_does(monkeypatch, best):
    x = torch.randn(2, 3, 4, 16)
    expected = add_layer_norm(x, scale=x, implementation="reference")
    monkeypatch.setitem(dispatch._BEST, "cpu", best)  # as for tensors on a GPU
    assert torch.equal(add_layer_norm(x, scale=x), expected)


def test_a_name_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="implementation must be one of .*, got 'cuda'"):
        calls("cuda", torch.device("cpu"))[2]()
