# SPDX-License-Identifier: Apache-2.0
"""`decode_row` on the GPU: how many programs share a row, what they are given, and the launch.

Nothing here waits for the device: the plan comes from sizes, tensors are allocated by torch's caching allocator, and
the one concatenation that packs the weights is queued before the kernel.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from coltran_kernels.triton import tiles
from coltran_kernels.triton.decode import decode_row_kernel
from coltran_kernels.types import DecoderWeights, RowTerms

TILE = 16  # images; one tensor-core tile, and with 32 a program of the paper's size spills registers
STAGES = 2  # slices in flight when weights are streamed
# Of float32 products on a GPU, and the bytes that a number then takes on chip: six of bfloat16, with float32's errors;
# before Triton 3.6 three of tf32, nearly so.
_SPLIT = ("bf16x6", 6) if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6) else ("tf32x3", 8)
PRECISION, FLOAT32_BYTES = _SPLIT
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Sizes(NamedTuple):
    """What the plan depends on: B images, W columns, D, F, heads, S labels, layers, bytes a weight."""

    batch: int
    width: int
    hidden: int
    feed_forward: int
    heads: int
    labels: int
    layers: int
    weight_bytes: int

    @property
    def depth(self) -> int:
        """The padded input size that all matrices share; a tensor-core tile needs 16."""
        return max(16, triton.next_power_of_2(max(self.hidden, self.feed_forward)))

    def slices(self, columns: int) -> list[int]:
        """How many slices of `columns` outputs each matrix has, in the order of the stages."""
        outputs = [3 * self.hidden, self.hidden, self.feed_forward, self.hidden] * self.layers + [self.labels]
        return [triton.cdiv(size, columns) for size in outputs]


class Device(NamedTuple):
    """Multiprocessors of a GPU, and the shared memory in bytes that one block may have."""

    processors: int
    shared: int


class Plan(NamedTuple):
    """How a row is launched."""

    programs: int  # that share a tile of images
    tile: int  # images
    columns: int  # of a slice
    resident: bool  # each program keeps its slices on chip
    warps: int = 8


# Rates of an H100 that the model divides by, in microseconds; only their proportions choose. They are estimates.
BARRIER = 1.2  # all programs arrive and see it: two trips to the L2 cache and a wait for the slowest
PRODUCT = 0.25  # latency of one slice: operand to shared memory, product, sum over groups, epilogue
STAGE = 0.6  # latency of one stage besides: loads of what the others wrote, and the norm
BYTES = 4.0e4  # a microsecond from the L2 cache to one multiprocessor, when all of them read
MACS = 2.0e6  # a microsecond and multiprocessor on the tensor cores with 16-bit operands, at a tile's utilisation


def row_time(plan: Plan, sizes: Sizes, device: Device) -> float:
    """Estimated microseconds of a row of all images."""
    tiles = triton.cdiv(sizes.batch, plan.tile)
    waves = triton.cdiv(tiles * plan.programs, device.processors)
    products = sum(triton.cdiv(count, plan.programs) for count in sizes.slices(plan.columns))
    stages = 5 * sizes.layers + 1
    passes = 6 if sizes.weight_bytes == 4 else 1  # a float32 product is six of bfloat16
    macs = products * plan.tile * plan.columns * sizes.depth * passes
    streamed = 0 if plan.resident else products * plan.columns * sizes.depth * sizes.weight_bytes
    activations = stages * plan.tile * sizes.hidden * 4
    pairs = triton.cdiv(min(plan.tile, sizes.batch) * sizes.heads, plan.programs) * sizes.layers
    attention = pairs * sizes.width * (sizes.hidden // sizes.heads) * 4  # keys and values, half of them on average
    step = stages * STAGE + products * PRODUCT + macs / MACS + (streamed + activations + attention) / BYTES
    if plan.programs > 1:
        step += stages * BARRIER
    return waves * sizes.width * step


def shared_bytes(plan: Plan, sizes: Sizes) -> int:
    """Shared memory of a block, from above: the resident slices, the operand, and what conversions and sums use."""
    operand = FLOAT32_BYTES if sizes.weight_bytes == 4 else 2
    slots = triton.cdiv(sum(sizes.slices(plan.columns)), plan.programs) if plan.resident else STAGES
    conversions = max(plan.tile * sizes.depth * operand, plan.tile * max(sizes.depth, sizes.labels) * 4)
    return (slots * plan.columns * sizes.depth * operand) + max(conversions, plan.warps * plan.tile * plan.columns * 4)


def fitting_plans(sizes: Sizes, device: Device) -> list[Plan]:
    """The plans that the GPU has room for.

    Programs that wait for each other must all be on the chip at once, so P > 1 is limited to one program for each
    multiprocessor in all tiles together; with P = 1 tiles may queue.
    """
    tiles = triton.cdiv(sizes.batch, TILE)
    room = device.processors // tiles
    shared_out = {p for p in (8, 16, 32, 64, 96, 128, room) if 1 < p <= room}
    # A matrix instruction of AMD's takes 16 columns; with its wide warps 4 spill nothing.
    columns, warps = (16, 4) if torch.version.hip else (8, 8)
    plans = [Plan(p, TILE, columns, resident, warps) for p in shared_out for resident in (True, False)]
    plans.append(Plan(1, TILE, columns if sizes.weight_bytes == 4 else 16, False, warps))  # wider ones spill more
    return [plan for plan in plans if shared_bytes(plan, sizes) <= device.shared]


@functools.lru_cache(maxsize=256)
def choose_plan(sizes: Sizes, device: Device) -> Plan:
    """The plan with the least estimated time among those that fit."""
    plans = fitting_plans(sizes, device)
    if not plans:
        raise NotImplementedError(f"decode_row: no plan of implementation 'triton' fits {sizes} on {device}")
    return min(sorted(plans), key=lambda plan: row_time(plan, sizes, device))


@functools.cache
def _device(index: int) -> Device:
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return Device(properties["multiprocessor_count"], properties["max_shared_mem"])


def pack(weights: DecoderWeights, sizes: Sizes, columns: int, slices: int) -> Tensor:
    """All matrices as slices of `columns` output columns, [slices, columns, K], zero where they have none.

    Without padding, as at the paper's size, this is one concatenation: 13.6 MB in float32.
    """
    matrices = [m for layer in weights.layers for m in (layer.qkv, layer.out, layer.ff1, layer.ff2)] + [weights.logits]
    padded = [
        F.pad(matrix, (0, sizes.depth - matrix.shape[1], 0, -matrix.shape[0] % columns))
        if matrix.shape[1] < sizes.depth or matrix.shape[0] % columns
        else matrix
        for matrix in matrices
    ]
    missing = slices - sum(matrix.shape[0] for matrix in padded) // columns
    if missing:
        padded.append(padded[0].new_zeros(missing * columns, sizes.depth))
    return torch.cat(padded).view(slices, columns, sizes.depth)


def _dense(tensor: Tensor | None) -> Tensor | None:
    """The same with neighbouring values of the last axis side by side; a copy only where they are not."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _strides(tensor: Tensor | None) -> tuple[int, int]:
    """Strides of image and column."""
    return (0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1))


def kernel_arguments(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    plan: Plan,
    *,
    given: Tensor | None,
    mode: str,
    temperature: float,
    top_p: float,
    eps: float,
    return_probabilities: bool,
) -> dict[str, Any]:
    """Every argument of `decode_row_kernel` by name, results and scratch memory included."""
    sizes = sizes_of(weights, terms)
    batch, width, hidden = terms.inputs.shape
    # Resident slots are loaded whole, so their number is rounded up to whole rounds of the programs.
    slices = sum(sizes.slices(plan.columns))
    slices = triton.cdiv(slices, plan.programs) * plan.programs if plan.resident else slices
    per_image = any(norm.dim() > 1 for layer in terms.layers for norm in layer[4:])
    if given is not None:
        given = given.clamp(max=sizes.labels - 1)  # the embedding has no more rows
    rows = []
    for layer in terms.layers:
        norms = [norm.expand(batch, hidden) if per_image else norm for norm in layer[4:]]
        rows.append((*(_dense(tensor) for tensor in layer[:4]), *(norm.contiguous() for norm in norms)))
    width_padded, channels = triton.next_power_of_2(width), triton.next_power_of_2(hidden // sizes.heads)

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=uniforms.device)

    return {
        "packed": pack(weights, sizes, plan.columns, slices),
        "embedding": weights.embedding.contiguous(),
        "norm_weight": weights.norm_weight.contiguous(),
        "norm_bias": weights.norm_bias.contiguous(),
        "logits_bias": weights.logits_bias.contiguous(),
        "layers": tuple(
            (layer.bias.contiguous(), layer.ff1_bias.contiguous(), layer.ff2_bias.contiguous())
            for layer in weights.layers
        ),
        "inputs": terms.inputs.contiguous(),
        "terms": tuple(rows),
        "STRIDES": tuple(sum((_strides(tensor) for tensor in row[:4]), ()) for row in rows),
        "uniforms": uniforms,
        "uniforms_b": uniforms.stride(0),
        "uniforms_w": uniforms.stride(1),
        "given": given,
        "given_b": 0 if given is None else given.stride(0),
        "given_w": 0 if given is None else given.stride(1),
        "labels": torch.empty(batch, width, dtype=torch.int64, device=uniforms.device),
        "log_probs": torch.empty(batch, width, dtype=terms.inputs.dtype, device=uniforms.device),
        "probabilities": terms.inputs.new_empty(batch, width, sizes.labels) if return_probabilities else None,
        "cache": scratch(sizes.layers, batch, width, 3 * hidden),
        "attended": scratch(batch, hidden),
        "update": scratch(batch, hidden),
        "hidden": scratch(batch, sizes.feed_forward),
        "logits": scratch(batch, sizes.labels),
        "counters": torch.zeros(triton.cdiv(batch, plan.tile) + 1, dtype=torch.int32, device=uniforms.device),
        "batch": batch,
        "temperature": temperature,
        "top_p": top_p,
        "eps": eps,
        "LAYERS": sizes.layers,
        "W": width,
        "WP": width_padded,
        "D": hidden,
        "F": sizes.feed_forward,
        "K": sizes.depth,
        "H": sizes.heads,
        "CP": channels,
        "S": sizes.labels,
        "SP": triton.next_power_of_2(sizes.labels),
        "ARGMAX": mode == "argmax",
        "TOP_P": top_p < 1,
        "PER_IMAGE": per_image,
        "P": plan.programs,
        "M": plan.tile,
        "N": plan.columns,
        "G": min(plan.warps, sizes.depth // 16),
        "PAIRS": min(triton.next_power_of_2(plan.tile * sizes.heads), max(1, 8192 // (width_padded * channels))),
        "RESIDENT": plan.resident,
        "STAGES": STAGES,
        "PRECISION": "ieee" if tiles.INTERPRETED else PRECISION,  # the interpreter knows no other, and needs none
    }


def launch_options(plan: Plan) -> dict[str, Any]:
    """A cooperative launch has all programs on the GPU at once, or fails: they wait for each other."""
    return {"num_warps": plan.warps, "num_stages": 1, "launch_cooperative_grid": plan.programs > 1}


def sizes_of(weights: DecoderWeights, terms: RowTerms) -> Sizes:
    """The sizes that `choose_plan` asks for."""
    batch, width, hidden = terms.inputs.shape
    first = weights.layers[0] if weights.layers else None
    return Sizes(
        batch,
        width,
        hidden,
        hidden if first is None else first.ff1.shape[0],
        1 if first is None else first.bias.shape[0],
        weights.embedding.shape[0],
        len(weights.layers),
        weights.logits.element_size(),
    )


def device_of(tensor: Tensor) -> Device:
    """The GPU that a tensor is on; in the interpreter one of a single processor."""
    return Device(1, 1 << 30) if tiles.INTERPRETED else _device(tensor.get_device())


def unsupported(weights: DecoderWeights, terms: RowTerms) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    for dtype in (weights.logits.dtype, terms.inputs.dtype):
        if dtype not in DTYPES:
            return f"it serves float32, float16 and bfloat16, not {dtype}"
        if tiles.INTERPRETED and dtype == torch.bfloat16:
            return "Triton's interpreter computes bfloat16 wrongly"
    if len({(layer.ff1.shape[0], layer.bias.shape[0]) for layer in weights.layers}) > 1:
        return "it needs layers of the same feed-forward size and number of heads"
    batch, width, hidden = terms.inputs.shape
    strides = [tensor.stride(0) for layer in terms.layers for tensor in layer[:4] if tensor is not None]
    if batch * max(strides, default=0) >= 2**31 or batch * width * 3 * hidden >= 2**31:
        return f"it counts in 32 bits, too few for {batch} images"
    sizes, device = sizes_of(weights, terms), device_of(terms.inputs)
    return None if fitting_plans(sizes, device) else f"no plan fits {sizes} on {device}"


def decode_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    *,
    given: Tensor | None,
    mode: str,
    temperature: float,
    top_p: float,
    eps: float,
    return_probabilities: bool,
    plan: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `coltran_kernels.decode_row`, for tensors of which `unsupported` says nothing.

    `plan` overrides the one that the cost model chooses.
    """
    if plan is None:
        plan = choose_plan(sizes_of(weights, terms), device_of(terms.inputs))
    arguments = kernel_arguments(
        weights, terms, uniforms, plan, given=given, mode=mode, temperature=temperature, top_p=top_p, eps=eps,
        return_probabilities=return_probabilities,
    )  # fmt: skip
    grid = (plan.programs, triton.cdiv(uniforms.shape[0], plan.tile))
    with torch.cuda.device_of(uniforms):  # Triton launches on the current one
        decode_row_kernel[grid](**arguments, **launch_options(plan))
    return arguments["labels"], arguments["log_probs"], arguments["probabilities"]
