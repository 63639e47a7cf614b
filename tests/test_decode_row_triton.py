# SPDX-License-Identifier: Apache-2.0
"""The Triton row decoder beyond what it draws: programs that share a row, short matrices, the plan and the launch.

Interpreted, or compiled for GPUs that are not there; what only a GPU can show is in test_gpu.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from bench.ahead import TARGETS, Compiled, compile_ahead
from coltran_kernels import SamplingOptions, decode_row, reference, triton_common
from coltran_kernels.decode_row import in_bfloat16
from coltran_kernels.decode_row import triton as decode_triton
from coltran_kernels.decode_row.triton import Device, Plan, Sizes, choose_plan, row_time, shared_bytes
from tests.concurrent_programs import concurrent_programs
from tests.operations import SETTINGS, as_double, each_tensor, random_row

interpreted = pytest.mark.skipif(not triton_common.INTERPRETED, reason="a GPU takes no tensors of the CPU")
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def assert_as_specified(weights, terms, uniforms, plan: Plan, tolerance: float = 1e-4, **options) -> None:
    options = SETTINGS._replace(**options)
    labels, log_probs, probabilities, _ = decode_triton.decode_row(weights, terms, uniforms, options, plan=plan)
    expected = reference.decode_row(weights, terms, uniforms, options)
    assert torch.equal(labels, expected[0])
    torch.testing.assert_close(log_probs, expected[1], rtol=0, atol=tolerance)
    torch.testing.assert_close(probabilities, expected[2], rtol=0, atol=tolerance)


@interpreted
@pytest.mark.parametrize("resident", [False, True])
def test_programs_that_share_a_tile_meet_at_every_stage(resident):
    # Three programs on each of two tiles, one of them with a single image; slices of 16 do not divide into threes.
    row = random_row(17, 3, 32, 48, 2, 40, 2)
    with concurrent_programs():
        assert_as_specified(*row, plan=Plan(3, 16, 16, resident), top_p=0.9)


@interpreted
def test_more_programs_than_slices():
    with concurrent_programs():
        assert_as_specified(*random_row(2, 2, 32, 32, 2, 16, 1), plan=Plan(5, 16, 64, True))


@interpreted
def test_one_resident_program_needs_no_barrier():
    assert_as_specified(*random_row(2, 3, 32, 32, 2, 40, 1), plan=Plan(1, 16, 32, True))


@interpreted
def test_no_layers():
    assert_as_specified(*random_row(2, 3, 32, 32, 2, 16, 0), plan=Plan(1, 16, 64, False))


@interpreted
def test_float16():
    row = random_row(3, 3, 32, 32, 2, 16, 1, dtype=torch.float16)
    assert_as_specified(*row, plan=Plan(1, 16, 64, False), tolerance=2e-2)


@interpreted
def test_short_matrices_round_what_they_multiply_and_nothing_else():
    """float16 in bfloat16's place, which the interpreter computes wrongly."""
    weights, terms, uniforms = random_row(2, 5, 32, 32, 2, 40, 2)
    short = each_tensor(weights, lambda t: t.half() if t.dim() == 2 else t)
    layers = (layer._replace(bias=own.bias) for layer, own in zip(short.layers, weights.layers, strict=True))
    short = short._replace(embedding=weights.embedding, layers=tuple(layers))
    given = torch.randint(40, (2, 5))
    _, exact, *_ = reference.decode_row(*as_double((weights, terms, uniforms)), SETTINGS._replace(given=given))
    _, found, *_ = decode_row(short, terms, uniforms, SamplingOptions(given=given), implementation="triton")
    assert found.dtype == torch.float32
    change = (found.double() - exact).abs().max()
    assert 1e-5 < change < 2e-2  # values of about 1 rounded by 2^-12, in eleven products one after another


@interpreted
def test_given_labels_beyond_the_last_read_no_foreign_memory():
    weights, terms, uniforms = random_row(1, 3, 32, 32, 2, 40, 1)
    given = torch.full((1, 3), 10**6)
    labels, *_ = decode_row(weights, terms, uniforms, SamplingOptions(given=given), implementation="triton")
    assert labels.tolist() == [[39, 39, 39]]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dtype_that_it_cannot_serve_is_refused(dtype):
    with pytest.raises(NotImplementedError, match=str(dtype).removeprefix("torch.")):
        decode_row(*random_row(1, 1, 16, 16, 1, 8, 1, dtype=dtype), implementation="triton")


def test_sizes_that_it_cannot_serve_are_refused():
    with torch.device("meta"):
        many, terms, _ = random_row(30_000, 64, 512, 512, 4, 512, 1)
    assert decode_triton.unsupported_reason(many, terms) == "it counts in 32 bits, too few for 30000 images"
    (one, terms, _), (other, *_) = random_row(1, 1, 16, 16, 1, 8, 2), random_row(1, 1, 16, 24, 1, 8, 1)
    mixed = one._replace(layers=(one.layers[0], other.layers[0]))
    assert "same feed-forward size" in decode_triton.unsupported_reason(mixed, terms)
    with pytest.raises(NotImplementedError, match="no plan"):
        choose_plan(paper(1)._replace(hidden=65536), H100)


# The plan and the launch.

A100, H100 = Device(108, 163 * 1024), Device(132, 227 * 1024)
OPTIONS = SamplingOptions(top_p=0.9)


def paper(batch: int, weight_bytes: int = 4) -> Sizes:
    return Sizes(batch, 64, 512, 512, 4, 512, 2, weight_bytes)


@pytest.mark.parametrize("device", [A100, H100], ids=["A100", "H100"])
@pytest.mark.parametrize("batch", [1, 16, 20, 33, 300, 5000])
@pytest.mark.parametrize("weight_bytes", [2, 4])
def test_programs_that_wait_for_each_other_fit_on_the_gpu_at_once(device, batch, weight_bytes):
    plan = choose_plan(paper(batch, weight_bytes), device)
    assert shared_bytes(plan, paper(batch, weight_bytes)) <= device.shared
    tiles = -(-batch // plan.tile)
    assert plan.programs == 1 or plan.programs * tiles <= device.processors


@pytest.mark.parametrize(("batch", "weight_bytes"), [(1, 2), (16, 2), (20, 2), (32, 2), (1, 4), (16, 4)])
def test_small_batches_keep_the_weights_on_chip(batch, weight_bytes):
    assert choose_plan(paper(batch, weight_bytes), H100).resident


def test_large_batches_take_a_program_for_each_tile():
    assert choose_plan(paper(5000), H100).programs == 1


def test_the_estimate_grows_with_the_batch():
    times = [row_time(choose_plan(paper(batch), H100), paper(batch), H100) for batch in (1, 16, 64, 300, 5000)]
    assert times == sorted(times)


def _on_paper(plan: Plan, dtype: torch.dtype, batch: int = 20, narrow: bool = False) -> dict[str, Any]:
    """The kernel's arguments at the paper's size, without memory: any look at a value would raise."""
    with torch.device("meta"):
        weights, terms, uniforms = random_row(batch, 64, 512, 512, 4, 512, 2, dtype=dtype)
        if narrow:
            weights = in_bfloat16(weights)
        return decode_triton.kernel_arguments(weights, terms, uniforms, OPTIONS, plan)


def test_preparing_a_row_looks_at_no_value():
    given = torch.zeros(20, 64, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        row = random_row(20, 64, 512, 512, 4, 512, 2)
        arguments = decode_triton.kernel_arguments(*row, OPTIONS._replace(given=given), Plan(1, 16, 32, False))
    assert arguments["labels"].is_meta


def test_the_papers_weights_are_packed_by_one_concatenation():
    row = random_row(1, 1, 64, 64, 1, 64, 2)
    sizes = decode_triton.sizes_of(*row[:2])
    slices = sum(sizes.slices(8))
    packed = decode_triton.pack(row[0], sizes, 8, slices)
    first, last = row[0].layers[0].qkv, row[0].logits
    assert torch.equal(packed[: 3 * 64 // 8].flatten(0, 1), first)
    assert torch.equal(packed[-64 // 8 :].flatten(0, 1), last)


def _compile(plan: Plan, dtype: torch.dtype, target: str, narrow: bool = False) -> Compiled:
    arguments = _on_paper(plan, dtype, narrow=narrow)
    arguments["PRECISION"] = decode_triton.PRECISION  # of a GPU; the tests' own process has the interpreter's
    return compile_ahead(
        "coltran_kernels.decode_row.triton:decode_row_kernel",
        arguments,
        target=target,
        **decode_triton.launch_options(plan),
    )


def weight_load_depths(ttgir: str) -> list[int]:
    """In how many loops each load from the packed weights lies, in Triton's intermediate text."""
    derived, depths, loops = {"%packed"}, [], []
    for line in ttgir.splitlines():
        operands = re.findall(r"%[\w#]+", line.split("loc(")[0].partition("=")[2])
        if derived.intersection(operands):
            if re.search(r"= (tt\.load|ttg\.async_copy_global_to_local)\b", line):
                depths.append(sum(loops))
            elif re.search(r"= (tt\.(splat|addptr|broadcast|expand_dims)|ttg\.convert_layout)\b", line):
                derived.add(line.split()[0])
        balance = line.count("{") - line.count("}")
        if balance > 0:
            loops.append(bool(re.search(r"\bscf\.(for|while)\b", line)))
        elif balance < 0:
            loops.pop()
    return depths


@pytest.mark.parametrize(
    ("target", "dtype", "batch"),
    [
        ("sm_80", torch.bfloat16, 20),
        ("sm_90", torch.bfloat16, 20),
        ("sm_100", torch.bfloat16, 20),
        ("sm_90", torch.float32, 16),
    ],
)
def test_the_papers_decoder_fits_with_its_weights_on_chip(target, dtype, batch):
    limits = TARGETS[target]
    device = Device({"sm_80": 108, "sm_90": 132, "sm_100": 148}[target], limits.shared_limit)
    sizes = paper(batch, dtype.itemsize)
    plan = choose_plan(sizes, device)
    compiled = _compile(plan, dtype, target)
    assert plan.resident
    assert compiled.spill_bytes == 0
    assert compiled.shared <= shared_bytes(plan, sizes) <= limits.shared_limit
    assert compiled.matrix_instructions > 0
    slots = -(-sum(sizes.slices(plan.columns)) // plan.programs)
    assert weight_load_depths(compiled.ttgir) == [0] * slots


def test_bfloat16_matrices_between_float32_values_fit_as_well():
    """On the GPU with the least room of those for which the test above compiles."""
    limits = TARGETS["sm_80"]
    plan = choose_plan(paper(20, 2), Device(108, limits.shared_limit))
    compiled = _compile(plan, torch.float32, "sm_80", narrow=True)
    assert plan.resident
    assert compiled.fits
    assert compiled.spill_bytes == 0


def test_a_single_program_streams_its_weights_inside_the_loop():
    plan = choose_plan(paper(5000, 2), H100)
    compiled = _compile(plan, torch.bfloat16, "sm_90")
    assert plan.programs == 1
    assert compiled.fits
    depths = weight_load_depths(compiled.ttgir)
    assert depths and min(depths) >= 1
