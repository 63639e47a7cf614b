# SPDX-License-Identifier: Apache-2.0
"""`settle_row` on the GPU: how many programs share an image's passes, what they are given, and the launch.

Nothing here waits for the device, and the launch depends on sizes only, so that a CUDA graph can repeat it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from coltran_kernels.triton import decode_launch
from coltran_kernels.triton.decode_launch import (
    BARRIER,
    BYTES,
    MACS,
    PRODUCT,
    STAGE,
    TILE,
    Device,
    Plan,
    Sizes,
    fitting_plans,
    launch_options,
    sizes_of,
)
from coltran_kernels.triton.settle import settle_row_kernel
from coltran_kernels.types import INFLUENCE, ROUNDS, DecoderWeights, RowLayer, RowTerms, Settled


def as_tiles(sizes: Sizes) -> Sizes:
    """Sizes of which every image is a tile of its own."""
    return sizes._replace(batch=sizes.batch * TILE)


def pass_time(plan: Plan, sizes: Sizes, device: Device, pixels: int) -> float:
    """Estimated microseconds of a pass over so many pixels of each image, as `decode_launch.row_time` counts."""
    waves = triton.cdiv(sizes.batch * plan.programs, device.processors)
    blocks = triton.cdiv(pixels, plan.tile)
    products = sum(triton.cdiv(count, plan.programs) for count in sizes.slices(plan.columns))
    stages = 5 * sizes.layers + 2
    macs = plan.tile * plan.columns * sizes.depth * (6 if sizes.weight_bytes == 4 else 1)
    streamed = 0 if plan.resident else plan.columns * sizes.depth * sizes.weight_bytes
    activations = stages * plan.tile * sizes.hidden * 4
    heads = triton.cdiv(blocks * sizes.heads, plan.programs) * sizes.layers
    attention = heads * (2 * sizes.width + plan.tile) * (sizes.hidden // sizes.heads) * 4
    step = blocks * (products * (PRODUCT + macs / MACS + streamed / BYTES) + activations / BYTES) + attention / BYTES
    return waves * (step + stages * (STAGE + (BARRIER if plan.programs > 1 else 0)))


@functools.lru_cache(maxsize=256)
def choose_plan(sizes: Sizes, device: Device) -> Plan:
    """The plan with the least estimated time of a pass over half a row, among those that fit."""
    plans = fitting_plans(as_tiles(sizes), device)
    if not plans:
        raise NotImplementedError(f"settle_row: no plan of implementation 'triton' fits {sizes} on {device}")
    return min(sorted(plans), key=lambda plan: pass_time(plan, sizes, device, max(1, sizes.width // 2)))


def _even(tensor: Tensor | None) -> Tensor | None:
    """The same [B, W, ...] with all pixels equally far apart; a copy only where they are not."""
    return tensor if tensor is None or tensor.stride(0) == tensor.shape[1] * tensor.stride(1) else tensor.contiguous()


def kernel_arguments(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    plan: Plan,
    *,
    window: int,
    influence: Tensor | None,
    **options: Any,
) -> dict[str, Any]:
    """Every argument of `settle_row_kernel` by name, results and scratch memory included."""
    sizes, given = sizes_of(weights, terms), options["given"]
    batch, width, hidden = terms.inputs.shape
    rows = tuple(RowLayer._make((*map(_even, layer[:4]), *layer[4:])) for layer in terms.layers)
    options["given"] = None if given is None else given.contiguous()
    arguments = decode_launch.kernel_arguments(
        weights, terms._replace(layers=rows), uniforms.contiguous(), plan, **options
    )
    for name in ("batch", "PAIRS", "uniforms_b", "uniforms_w", "given_b", "given_w"):
        del arguments[name]

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=uniforms.device)

    # With influence four of them are drawn for the sake of the others; of 16 together registers spill.
    drawn_together = 8 if influence is not None else min(16, triton.next_power_of_2(triton.cdiv(width, plan.programs)))
    guess = guess if given is None else torch.where(given >= 0, given, guess)
    return arguments | {
        "guess": guess.clamp(0, sizes.labels - 1).contiguous(),
        "passes": scratch(batch, dtype=torch.int64),
        "computed": scratch(batch, dtype=torch.int64),
        "drawn": scratch(2, batch, width, dtype=torch.int32),
        "attended": scratch(batch, width, hidden),
        "update": scratch(batch, width, hidden),
        "before": scratch(batch, width, hidden),
        "after": scratch(batch, width, hidden),
        "hidden": scratch(batch, width, sizes.feed_forward),
        "logits": scratch(batch, width, sizes.labels),
        "counters": torch.zeros(batch + 1, dtype=torch.int32, device=uniforms.device),
        "influence": None if influence is None else influence.float().contiguous(),
        "window": min(window, width),
        "WP": max(16, arguments["WP"]),
        "CP": max(16, arguments["CP"]),
        "R": drawn_together,
        "INFLUENCE": INFLUENCE,
        "ROUNDS": ROUNDS,
    }


def unsupported(weights: DecoderWeights, terms: RowTerms) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    if (reason := decode_launch.unsupported(weights, terms)) is not None:
        return reason
    sizes, device = sizes_of(weights, terms), decode_launch.device_of(terms.inputs)
    if sizes.batch * sizes.width * max(sizes.feed_forward, sizes.labels) >= 2**31:
        return f"it counts in 32 bits, too few for {sizes.batch} images"
    return None if fitting_plans(as_tiles(sizes), device) else f"no plan fits {sizes} on {device}"


def settle_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    window: int,
    influence: Tensor | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> Settled:
    """See `coltran_kernels.settle_row`, for tensors of which `unsupported` says nothing.

    `plan` overrides the one that the cost model chooses.
    """
    if plan is None:
        plan = choose_plan(sizes_of(weights, terms), decode_launch.device_of(terms.inputs))
    arguments = kernel_arguments(weights, terms, uniforms, guess, plan, window=window, influence=influence, **options)
    with torch.cuda.device_of(uniforms):  # Triton launches on the current one
        settle_row_kernel[(plan.programs, uniforms.shape[0])](**arguments, **launch_options(plan))
    return Settled(*(arguments[name] for name in ("labels", "log_probs", "probabilities", "passes", "computed")))
