# SPDX-License-Identifier: Apache-2.0
"""The kernels as launched for the paper's shapes and for small ones, compiled for GPUs that are not there."""

from __future__ import annotations

import pytest
import torch

from bench.ahead import TARGETS, compile_ahead
from bench.gpu_work import PAPER, SMALL, Shape, of_append_attention, of_attention, of_layer_norm, of_rows

# To global memory: the order of such sums would vary. ATOMS, to shared memory, is how sm_100 allots tensor memory.
ATOMIC = {"ATOM", "ATOMG", "RED", "REDG"}


def _assert_fits(launch, target):
    compiled = compile_ahead(launch.kernel, launch.arguments, target=target, **launch.options)
    assert compiled.fits, f"{launch.kernel}: {compiled}"
    assert not [name for name in compiled.instructions if name in ATOMIC or name.startswith("global_atomic")]
    assert (compiled.matrix_instructions > 0) == (launch.flops > 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [*PAPER, SMALL[0]], ids=lambda shape: shape.title)
def test_attention_fits_and_uses_the_matrix_units(shape, target):
    launches = list(of_attention(shape, hip=TARGETS[target].backend == "hip"))
    assert len(launches) == (2 if shape.length <= 64 else 3)
    for launch in launches:
        _assert_fits(launch, target)


@pytest.mark.parametrize("target", TARGETS)
def test_layer_norm_fits(target):
    for launch in of_layer_norm(4096, 512):
        _assert_fits(launch, target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target", TARGETS)
def test_attention_over_kept_rows_fits(target, dtype):
    for launch in of_append_attention(20, dtype):
        _assert_fits(launch, target)


def test_a_pass_over_a_row_fits_and_its_products_use_the_matrix_units():
    launches = of_rows(1)["pass, batch 1, bfloat16"]
    assert len(launches) == 12
    for launch in (launches[0], launches[2], *launches[-2:]):
        compiled = compile_ahead(launch.kernel, launch.arguments, target="sm_90", **launch.options)
        assert compiled.fits and (compiled.matrix_instructions > 0) == (launch.name == "linear")


def test_work_is_counted_by_hand():
    forward, backward = of_attention(Shape(64, 128), hip=False)
    pairs = 64 * 4 * 64 * 64
    tensor = 64 * 64 * 512 * 2
    assert forward.flops == 2 * 2 * pairs * 128
    assert backward.flops == 5 * 2 * pairs * 128
    assert forward.moved == 4 * tensor  # q, k, v; out
    assert backward.moved == 7 * tensor  # q, k, v, the gradient of out; of q, k, v


def test_conditioning_adds_what_it_reads_and_writes():
    (plain, plain_back), (forward, backward) = (
        of_attention(Shape(64, 128, conditioned=conditioned), hip=False) for conditioned in (False, True)
    )
    tensor = 64 * 64 * 512 * 2
    assert forward.moved - plain.moved == 6 * tensor  # a scale and a shift of each
    assert backward.moved - plain_back.moved == 12 * tensor  # and their gradients
