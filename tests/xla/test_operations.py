# SPDX-License-Identifier: Apache-2.0
"""Every operation on an XLA device computes what its specification does, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from coltran_kernels import (
    add_layer_norm,
    axial_attention,
    cached_attention,
    decode_row,
    linear,
    reference,
    settle_row,
)
from tests.attention_cases import make_operands
from tests.decoder_of_tests import SETTINGS, SWITCHES, random_row


def to(value: Any, device: torch.device) -> Any:
    """Every tensor in a nesting of tuples on another device, ready to be differentiated by."""
    return tree_map(lambda t: t.to(device).detach() if isinstance(t, torch.Tensor) else t, value)


def check(function: Any, plain: Any, leaves: list[torch.Tensor], device: torch.device) -> None:
    """Output and gradients of a function of leaves on the device, and of its specification on the CPU."""
    sides = []
    for call, place in ((function, device), (plain, torch.device("cpu"))):
        own = [leaf.requires_grad_() for leaf in to(leaves, place)]
        out = call(*own)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(place)
        sides.append([t.detach().cpu() for t in (out, *torch.autograd.grad(out, own, weight))])
    for found, right in zip(*sides, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", [None, "xla"])
@pytest.mark.parametrize(
    ("length", "axis", "causal", "bias", "conditioned"),
    [(1, "row", True, True, "qkv"), (7, "column", True, True, "qk"), (8, "row", False, False, "")],
)
def test_axial_attention(device, length, axis, causal, bias, conditioned, implementation):
    operands = {k: v.float() for k, v in make_operands(length, 8, axis, bias=bias, conditioned=conditioned).items()}
    if not bias:
        assert "bias" not in operands

    def of(function: Any, **options: Any) -> Any:
        return lambda *leaves: function(
            **{"bias": None} | dict(zip(operands, leaves, strict=True)), axis=axis, causal=causal, **options
        )

    leaves = list(operands.values())
    check(of(axial_attention, implementation=implementation), of(reference.axial_attention), leaves, device)


def test_cached_attention(device):
    q, k, v, bias = torch.randn(2, 5, 2, 4), *torch.randn(2, 2, 6, 5, 2, 4), torch.randn(2, 6)
    bias[:, 4:] = float("-inf")
    check(cached_attention, reference.cached_attention, [q, k, v, bias], device)


@pytest.mark.parametrize("shape", [(16,), (2, 1, 1, 16)])
def test_add_layer_norm(device, shape):
    leaves = [*torch.randn(2, 2, 3, 5, 16), *torch.randn(2, *shape)]
    check(add_layer_norm, lambda *t: reference.add_layer_norm(*t, 1e-3), leaves, device)


def test_linear(device):
    leaves = [torch.randn(3, 5, 8), torch.randn(6, 8), torch.randn(6)]
    check(lambda *t: linear(*t, relu=True), lambda *t: reference.linear(*t, True), leaves, device)


@pytest.mark.parametrize(
    ("switches", "changed"),
    [("all", {}), ("added only", {"mode": "argmax"}), ("not conditioned", {"temperature": 0.7}),
     ("plain norms", {"temperature": 1.2, "top_p": 0.8})],
)  # fmt: skip
@pytest.mark.parametrize("imposing", [False, True])
def test_decode_row_and_settle_row(device, switches, changed, imposing):
    weights, terms, uniforms = random_row(3, 7, 32, 20, 4, 50, 2, **SWITCHES[switches])
    given = torch.where(torch.rand(3, 7) < 0.3, torch.randint(50, (3, 7)), -1) if imposing else None
    settings = SETTINGS | changed | {"given": given}
    right = reference.decode_row(weights, terms, uniforms, **settings)
    found = decode_row(*to((weights, terms, uniforms), device), **settings | {"given": to(given, device)})
    assert torch.equal(found[0].cpu(), right[0])
    torch.testing.assert_close([t.cpu() for t in found[1:]], list(right[1:]), rtol=0, atol=1e-5)
    guess = torch.where(torch.rand(3, 7) < 0.5, right[0], torch.randint(50, (3, 7)))
    plain = reference.settle_row(weights, terms, uniforms, guess, window=7, influence=None, **settings)
    call = to((weights, terms, uniforms, guess), device)
    settled = settle_row(*call, window=1, **settings | {"given": to(given, device)})  # the window makes no difference
    assert torch.equal(settled.labels.cpu(), right[0]) and torch.equal(settled.passes.cpu(), plain.passes)
    torch.testing.assert_close([t.cpu() for t in settled[1:3]], list(right[1:]), rtol=0, atol=1e-5)


def test_a_tensor_on_an_xla_device_is_refused_by_the_cpus(device):
    with pytest.raises(NotImplementedError, match="'cpu' cannot serve a tensor on xla"):
        add_layer_norm(torch.randn(2, 3, 4, 8, device=device), implementation="cpu")
