# SPDX-License-Identifier: Apache-2.0
"""How the Triton row decoder is launched: the plan, what it needs of a GPU, and that it never waits for one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from decoder_of_tests import random_row

from bench.ahead import TARGETS, Compiled, compile_ahead
from coltran_kernels.decode import in_bfloat16
from coltran_kernels.triton import decode_launch
from coltran_kernels.triton.decode_launch import Device, Plan, Sizes, choose_plan, row_time, shared_bytes

A100, H100 = Device(108, 163 * 1024), Device(132, 227 * 1024)
OPTIONS: dict[str, Any] = {
    "given": None,
    "mode": "sample",
    "temperature": 1.0,
    "top_p": 0.9,
    "eps": 1e-3,
    "return_probabilities": False,
}


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


def test_sizes_that_fit_no_gpu_are_refused():
    with pytest.raises(NotImplementedError, match="no plan"):
        choose_plan(paper(1)._replace(hidden=65536), H100)


def _on_paper(plan: Plan, dtype: torch.dtype, batch: int = 20, narrow: bool = False) -> dict[str, Any]:
    """The kernel's arguments at the paper's size, without memory: any look at a value would raise."""
    with torch.device("meta"):
        weights, terms, uniforms = random_row(batch, 64, 512, 512, 4, 512, 2, dtype=dtype)
        if narrow:
            weights = in_bfloat16(weights)
        return decode_launch.kernel_arguments(weights, terms, uniforms, plan, **OPTIONS)


def test_preparing_a_row_looks_at_no_value():
    given = torch.zeros(20, 64, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        row = random_row(20, 64, 512, 512, 4, 512, 2)
        arguments = decode_launch.kernel_arguments(*row, Plan(1, 16, 32, False), **(OPTIONS | {"given": given}))
    assert arguments["labels"].is_meta


def test_the_papers_weights_are_packed_by_one_concatenation():
    row = random_row(1, 1, 64, 64, 1, 64, 2)
    sizes = decode_launch.sizes_of(*row[:2])
    slices = sum(sizes.slices(8))
    packed = decode_launch.pack(row[0], sizes, 8, slices)
    first, last = row[0].layers[0].qkv, row[0].logits
    assert torch.equal(packed[: 3 * 64 // 8].flatten(0, 1), first)
    assert torch.equal(packed[-64 // 8 :].flatten(0, 1), last)


def _compile(plan: Plan, dtype: torch.dtype, target: str, narrow: bool = False) -> Compiled:
    arguments = _on_paper(plan, dtype, narrow=narrow)
    arguments["PRECISION"] = decode_launch.PRECISION  # of a GPU; the tests' own process has the interpreter's
    return compile_ahead(
        "coltran_kernels.triton.decode:decode_row_kernel",
        arguments,
        target=target,
        **decode_launch.launch_options(plan),
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


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_bfloat16_matrices_between_float32_values_fit_as_well(target):
    limits = TARGETS[target]
    plan = choose_plan(paper(20, 2), Device({"sm_80": 108, "sm_90": 132, "sm_100": 148}[target], limits.shared_limit))
    compiled = _compile(plan, torch.float32, target, narrow=True)
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
