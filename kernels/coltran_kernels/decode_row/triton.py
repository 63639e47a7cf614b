# SPDX-License-Identifier: Apache-2.0
"""One row of the inner decoder in one launch: the kernel, how many programs share a row, and the launch.

For each column j, with x [B, D] the embedding of the previous label plus `inputs[:, j]`, every layer computes

    qkv  = (x Wqkv^T) * scale + shift                                   stage 1, over columns of Wqkv
    a    = softmax(q k^T / sqrt(C) + bias[k - j + W - 1]) v, k <= j     stage 2, over pairs of image and head
    y    = a Wout^T                                                     stage 3, over columns of Wout
    x    = norm(y + x);  h = relu(x W1^T + b1)                          stage 4, over columns of W1
    y    = (h W2^T + b2) * scale + shift                                stage 5, over columns of W2
    x    = norm(y + x)

and then the logits of norm(x) are the last stage; the draw belongs to the next column.

Who does what: the grid is [P programs, tiles of M images]; the P programs of a tile share each stage, with a barrier
after it, and repeat what is cheap (norms, residual sum, the draw) so that a column takes 5 L + 1 barriers. All weights
are packed into slices of N output columns, [slices, N, K], in the order of the stages; program p owns the slices
p, p + P, p + 2P, ... RESIDENT programs load theirs once, before the first column. P = 1 needs no barrier.

Inside a program x is [M, K]. For a product K is cut into G groups, one for each warp: x becomes [G, M, K/G], a slice is
[G, K/G, N], and their batched product [G, M, N] is summed over G. So no warp repeats another's work although M x N is a
single tensor-core tile.
Products of float32 are six of bfloat16 ("bf16x6", errors as float32's): a weight held on chip is three of them. Before
Triton 3.6 they are three of tf32.

Sizes: B images, W columns, D hidden, F feed-forward, h heads of C = D / h channels, S labels, K >= D, F a power of 2.

Memory ordering. What a stage writes to global memory, later stages of other programs read.
- Before a program arrives at a barrier, `debug_barrier` (bar.sync) puts the stores of all its threads before the
  atomic of one thread, which has release semantics at the scope of the GPU; release is cumulative, so it covers the
  stores of the other threads, which bar.sync has made visible to this one.
- The program leaves when an acquiring read of the counter sees all P arrivals. Each arrival is a read-modify-write, so
  all of them are one release sequence: seeing the last one synchronises with every one. A second `debug_barrier` hands
  that on to the other threads of the program.
- Loads of what the launch itself wrote carry `.cg`, which passes the L1 cache by: it is not coherent between
  multiprocessors and may hold the line that another program has changed since. Loads of inputs and weights may use L1.
- A buffer is written in one stage, read in the next one only, and written again no sooner than two stages later, so the
  barrier between lies after the last read: no second copy of any buffer is needed. Keys and values are written once.
- With P = 1 `debug_barrier` alone orders a thread's stores before the other threads' loads.
- Triton prefetches loads in pipelined loops past stores. The loop over columns is therefore not pipelined, and the loop
  that is, over streamed weight slices, loads nothing that this launch writes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels import triton_common
from coltran_kernels.draw.triton import draw, log_softmax
from coltran_kernels.layer_norm.triton import normed
from coltran_kernels.types import DecodedRow, DecoderWeights, RowConditioning, SamplingOptions


@triton.jit
def _barrier(counter, target, P: tl.constexpr):
    """All stores before it, in the P programs of this tile, are visible to all loads after it."""
    tl.debug_barrier()
    if P > 1:
        tl.atomic_add(counter, 1, sem="release", scope="gpu")
        arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
        while arrived < target:
            arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
        tl.debug_barrier()


@triton.jit
def _program_offsets(zero, tile, batch, M: tl.constexpr, K: tl.constexpr):
    """This program, its images [M], which of them are there, and columns [1, K]: what addresses are computed from.

    They depend on a zero in memory, which the compiler cannot know, and are made anew in each layer. Otherwise it would
    compute the addresses of the whole kernel before the loop and hold them in more registers than there are.
    """
    nothing = tl.multiple_of(tl.load(zero, volatile=True), 16)
    image = nothing + tile * M + tl.arange(0, M)
    return tl.program_id(0) + nothing, image, image < batch, nothing + tl.arange(0, K)[None, :]


@triton.jit
def _slice(packed, index, N: tl.constexpr, K: tl.constexpr, G: tl.constexpr):
    """Slice `index` of the weights, [G, K/G, N]."""
    group = tl.arange(0, G)[:, None, None]
    k = tl.arange(0, K // G)[None, :, None]
    n = tl.arange(0, N)[None, None, :]
    return tl.load(packed + index * (N * K) + n * K + group * (K // G) + k)


@triton.jit
def _inside(live, columns, SIZE: tl.constexpr):
    """Which elements of [M, K] are there: those of images that are, and of the first SIZE columns."""
    return live & (columns < SIZE) if columns.shape[1] > SIZE else live


@triton.jit
def _read(pointer, rows, live, columns, SIZE: tl.constexpr):
    """Rows of a buffer [B, SIZE] that other programs wrote: [M, K] float32, zero beyond its size."""
    mask = _inside(live, columns, SIZE)
    return tl.load(pointer + rows * SIZE + columns, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def _finish(y, first, here, epilogue, out, SIZE: tl.constexpr, RELU: tl.constexpr):
    """Store (y + bias) * scale + shift, y [M, N] being output columns `first` on; those outside 0 .. SIZE are not.

    `here` (program, rows, live, j), `epilogue` (bias, scale, shift, strides of image and column of the scale, then of
    the shift), `out` (tensor, its image's stride).
    """
    _, rows, live, j = here
    bias, scale, shift, strides = epilogue
    columns = first + tl.arange(0, y.shape[1])[None, :]
    inside = (columns >= 0) & (columns < SIZE)
    mask = live & inside
    if bias is not None:
        y += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        y = tl.maximum(y, 0.0)
    if scale is not None:
        y *= tl.load(scale + rows * strides[0] + j * strides[1] + columns, mask=mask, other=0.0).to(tl.float32)
    if shift is not None:
        y += tl.load(shift + rows * strides[2] + j * strides[3] + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out[0] + rows * out[1] + columns, y, mask=mask)


@triton.jit
def _linear(
    x, weights, here, epilogue, out,
    START: tl.constexpr, SIZE: tl.constexpr, RELU: tl.constexpr, SLICE: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """This program's columns of x [M, K] times a matrix of SIZE outputs whose first slice is START.

    `weights` (packed, slots), `here`, `epilogue` and `out` see `_finish`; SLICE (N, K, G, P), STREAM (RESIDENT, STAGES,
    PRECISION).
    """
    N: tl.constexpr = SLICE[0]
    K: tl.constexpr = SLICE[1]
    G: tl.constexpr = SLICE[2]
    P: tl.constexpr = SLICE[3]
    COUNT: tl.constexpr = (SIZE + N - 1) // N
    packed, slots = weights
    x = tl.reshape(x.to(packed.dtype.element_ty), (x.shape[0], G, K // G)).permute(1, 0, 2)  # [G, M, K/G]
    if STREAM[0]:
        # Slots at either end may belong to a neighbouring matrix; their columns are outside and not stored. Skipped by
        # a branch, float32 weights would be split into bfloat16 in every column instead of once.
        for slot in tl.static_range(START // P, (START + COUNT - 1) // P + 1):
            y = tl.sum(tl.dot(x, slots[slot], input_precision=STREAM[2]), 0)  # [M, N]
            _finish(y, (slot * P + here[0] - START) * N, here, epilogue, out, SIZE, RELU)
    else:
        for index in tl.range(START + (here[0] + P - START % P) % P, START + COUNT, P, num_stages=STREAM[1]):
            y = tl.sum(tl.dot(x, _slice(packed, index, N, K, G), input_precision=STREAM[2]), 0)  # [M, N]
            _finish(y, (index - START) * N, here, epilogue, out, SIZE, RELU)


@triton.jit
def _attend(
    cache, table, out, j, program, first_image, images, SIZES: tl.constexpr, PAIRS: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Attention of column j over columns 0 .. j of cache [B, W, 3D], for PAIRS of image and head at a time.

    SIZES are (W, WP, D, H, CP).
    """
    W: tl.constexpr = SIZES[0]
    WP: tl.constexpr = SIZES[1]
    D: tl.constexpr = SIZES[2]
    H: tl.constexpr = SIZES[3]
    CP: tl.constexpr = SIZES[4]
    C: tl.constexpr = D // H
    for first in tl.range(program * PAIRS, images * H, P * PAIRS, num_stages=1):
        pair = first + tl.arange(0, PAIRS)
        live = pair < images * H
        image = (first_image + pair // H).to(tl.int64)
        head = pair % H
        c = tl.arange(0, CP)[None, :]
        mask = live[:, None] & (c < C)  # [PAIRS, CP]
        row = cache + (image * (W * 3 * D) + head * C)[:, None] + c
        q = tl.load(row + j * (3 * D), mask=mask, other=0.0, cache_modifier=".cg") * (C**-0.5)
        t = tl.arange(0, WP)[None, :]
        past = t <= j
        where = row[:, None, :] + (t * (3 * D))[:, :, None]  # [PAIRS, WP, CP]
        mask3 = mask[:, None, :] & past[:, :, None]
        keys = tl.load(where + D, mask=mask3, other=0.0, cache_modifier=".cg")
        scores = tl.sum(q[:, None, :] * keys, 2)  # [PAIRS, WP]
        scores += tl.load(table + (head * (2 * W) + W - 1)[:, None] + t - j, mask=past, other=0.0).to(tl.float32)
        scores = tl.where(past, scores, float("-inf"))
        scores = tl.exp(scores - tl.max(scores, 1, keep_dims=True))
        scores /= tl.sum(scores, 1, keep_dims=True)
        values = tl.load(where + 2 * D, mask=mask3, other=0.0, cache_modifier=".cg")
        attended = tl.sum(scores[:, :, None] * values, 1)  # [PAIRS, CP]
        tl.store(out + (image * D + head * C)[:, None] + c, attended, mask=mask)


@triton.jit(do_not_specialize=["batch"])
def decode_row_kernel(
    packed,  # [at least all slices, N, K]
    embedding,  # [S, D]
    norm_weight,  # [D]
    norm_bias,
    logits_bias,  # [S]
    layers,  # for each layer: position table [h, 2W], bias of the feed-forward's first and second matrix
    inputs,  # [B, W, D]
    conditioning,  # for each layer: the tensors of RowLayer, or None
    uniforms,  # [B, W]
    uniforms_b,
    uniforms_w,
    given,  # [B, W] or None
    given_b,
    given_w,
    guidance,  # [B, W, S] or None
    labels,  # [B, W], result
    log_probs,  # [B, W], result
    guided_log_probs,  # [B, W], result, without guidance not written
    probabilities,  # [B, W, S], result, or None
    cache,  # [L, B, W, 3D] float32
    attended,  # [B, D] float32
    update,  # [B, D]
    hidden,  # [B, F]
    logits,  # [B, S]
    counters,  # [tiles + 1], zero
    batch,
    temperature,
    top_p,
    eps,
    STRIDES: tl.constexpr,  # for each layer: of image and column in the first four that condition it
    LAYERS: tl.constexpr,
    W: tl.constexpr,
    WP: tl.constexpr,  # W and so on, rounded up to powers of two
    D: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    H: tl.constexpr,
    CP: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    ARGMAX: tl.constexpr,
    TOP_P: tl.constexpr,
    PER_IMAGE: tl.constexpr,  # norms are [B, D]; otherwise [D]
    P: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    PAIRS: tl.constexpr,  # pairs of image and head in a tile of attention
    RESIDENT: tl.constexpr,
    STAGES: tl.constexpr,  # slices in flight when weights are streamed
    PRECISION: tl.constexpr,  # of products of float32
):
    tile = tl.program_id(1)
    zero = counters + tl.num_programs(1)
    counters += tile
    NQ: tl.constexpr = (3 * D + N - 1) // N
    ND: tl.constexpr = (D + N - 1) // N
    NF: tl.constexpr = (F + N - 1) // N
    NL: tl.constexpr = NQ + ND + NF + ND  # slices of a layer
    BARRIERS: tl.constexpr = 5 * LAYERS + 1
    SLOTS: tl.constexpr = (LAYERS * NL + (S + N - 1) // N + P - 1) // P
    slots = ()
    if RESIDENT:
        for slot in tl.static_range(0, SLOTS):
            slots = slots + (_slice(packed, slot * P + tl.program_id(0), N, K, G),)  # type: ignore[assignment]

    weights = (packed, slots)
    images = tl.minimum(M, batch - tile * M)
    s = tl.arange(0, SP)[None, :]
    label = tl.zeros([M], tl.int32)
    for j in tl.range(0, W, num_stages=1, disable_licm=True):
        program, image, here, columns = _program_offsets(zero, tile, batch, M, K)
        rows, live = image[:, None], here[:, None]  # [M, 1]
        in_model = _inside(live, columns, D)
        x = tl.load(inputs + j * D + rows * (W * D) + columns, mask=in_model, other=0.0).to(tl.float32)
        previous = embedding + label[:, None] * D + columns
        x += tl.load(previous, mask=in_model & (j > 0), other=0.0).to(tl.float32)
        for i in tl.static_range(0, LAYERS):
            program, image, here, columns = _program_offsets(zero, tile, batch, M, K)
            rows, live = image[:, None], here[:, None]
            in_model = _inside(live, columns, D)
            table, bias1, bias2 = layers[i]
            qkv_scale, qkv_shift, ff_scale, ff_shift, scale1, shift1, scale2, shift2 = conditioning[i]
            scale_b, scale_w, shift_b, shift_w, ff_scale_b, ff_scale_w, ff_shift_b, ff_shift_w = STRIDES[i]
            at = (program, rows, live, j)
            norm_at = rows * D + columns if PER_IMAGE else columns
            passed = (j * BARRIERS + 5 * i) * P
            here_cache = cache + i * batch.to(tl.int64) * (W * 3 * D)
            _linear(
                x, weights, at, (None, qkv_scale, qkv_shift, (scale_b, scale_w, shift_b, shift_w)),
                (here_cache + j * (3 * D), W * 3 * D),
                i * NL, 3 * D, False, (N, K, G, P), (RESIDENT, STAGES, PRECISION),
            )  # fmt: skip
            _barrier(counters, passed + P, P)
            _attend(here_cache, table, attended, j, program, tile * M, images, (W, WP, D, H, CP), PAIRS, P)
            _barrier(counters, passed + 2 * P, P)
            _linear(
                _read(attended, rows, live, columns, D), weights, at, (None, None, None, None),
                (update, D), i * NL + NQ, D, False, (N, K, G, P), (RESIDENT, STAGES, PRECISION),
            )  # fmt: skip
            _barrier(counters, passed + 3 * P, P)
            x += _read(update, rows, live, columns, D)
            x = normed(x, columns, in_model, scale1 + norm_at, shift1 + norm_at, eps, D)
            _linear(
                x, weights, at, (bias1, None, None, None),
                (hidden, F), i * NL + NQ + ND, F, True, (N, K, G, P), (RESIDENT, STAGES, PRECISION),
            )  # fmt: skip
            _barrier(counters, passed + 4 * P, P)
            _linear(
                _read(hidden, rows, live, columns, F), weights, at,
                (bias2, ff_scale, ff_shift, (ff_scale_b, ff_scale_w, ff_shift_b, ff_shift_w)),
                (update, D), i * NL + NQ + ND + NF, D, False, (N, K, G, P), (RESIDENT, STAGES, PRECISION),
            )  # fmt: skip
            _barrier(counters, passed + 5 * P, P)
            x += _read(update, rows, live, columns, D)
            x = normed(x, columns, in_model, scale2 + norm_at, shift2 + norm_at, eps, D)
        program, image, here, columns = _program_offsets(zero, tile, batch, M, K)
        rows, live = image[:, None], here[:, None]
        x = normed(x, columns, _inside(live, columns, D), norm_weight + columns, norm_bias + columns, eps, D)
        _linear(
            x, weights, (program, rows, live, j), (logits_bias, None, None, None),
            (logits, S), LAYERS * NL, S, False, (N, K, G, P), (RESIDENT, STAGES, PRECISION),
        )  # fmt: skip
        _barrier(counters, (j + 1) * BARRIERS * P, P)

        # All programs of a tile draw the same labels from the same numbers; the first one reports them.
        found = tl.load(logits + rows * S + s, mask=live & (s < S), other=0.0, cache_modifier=".cg")
        found = tl.where(s < S, found, float("-inf"))
        uniform = tl.load(uniforms + image * uniforms_b + j * uniforms_w, mask=here, other=0.0).to(tl.float32)
        guided = found
        if guidance is not None:
            guided = found + tl.load(guidance + (rows * W + j) * S + s, mask=live & (s < S), other=0.0).to(tl.float32)
        label = draw(guided, uniform, temperature, top_p, S, ARGMAX, TOP_P)
        if given is not None:
            imposed = tl.load(given + image * given_b + j * given_w, mask=here, other=-1).to(tl.int32)
            label = tl.where(imposed >= 0, imposed, label)
        if program == 0:
            log_prob, softmax = log_softmax(found, label)
            tl.store(labels + image * W + j, label.to(tl.int64), mask=here)
            tl.store(log_probs + image * W + j, log_prob, mask=here)
            if guidance is not None:
                tl.store(guided_log_probs + image * W + j, log_softmax(guided, label)[0], mask=here)
            if probabilities is not None:
                tl.store(probabilities + (rows * W + j) * S + s, softmax, mask=live & (s < S))


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


def _strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Strides of image and column of each."""
    return sum(((0, 0) if tensor is None else tensor.stride()[:2] for tensor in tensors), ())


def kernel_arguments(
    weights: DecoderWeights, conditioning: RowConditioning, uniforms: Tensor, options: SamplingOptions, plan: Plan
) -> dict[str, Any]:
    """Every argument of `decode_row_kernel` by name, results and scratch memory included."""
    sizes = sizes_of(weights, conditioning)
    inputs = conditioning.inputs
    batch, width, hidden = inputs.shape
    # Resident slots are loaded whole, so their number is rounded up to whole rounds of the programs.
    slices = sum(sizes.slices(plan.columns))
    slices = triton.cdiv(slices, plan.programs) * plan.programs if plan.resident else slices
    per_image = any(norm.dim() > 1 for layer in conditioning.layers for norm in layer[4:])
    given, guidance = options.given, options.guidance
    if given is not None:
        given = given.clamp(max=sizes.labels - 1)  # the embedding has no more rows
    rows = []
    for layer in conditioning.layers:
        norms = [norm.expand(batch, hidden) if per_image else norm for norm in layer[4:]]
        rows.append((*(_dense(tensor) for tensor in layer[:4]), *(norm.contiguous() for norm in norms)))
    width_padded, channels = triton.next_power_of_2(width), triton.next_power_of_2(hidden // sizes.heads)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=uniforms.device)

    return {
        "packed": pack(weights, sizes, plan.columns, slices),
        **{
            name: getattr(weights, name).contiguous()
            for name in ("embedding", "norm_weight", "norm_bias", "logits_bias")
        },
        "layers": tuple(
            (layer.bias.contiguous(), layer.ff1_bias.contiguous(), layer.ff2_bias.contiguous())
            for layer in weights.layers
        ),
        "inputs": inputs.contiguous(), "conditioning": tuple(rows),
        "STRIDES": tuple(_strides(*row[:4]) for row in rows),
        "uniforms": uniforms, "uniforms_b": uniforms.stride(0), "uniforms_w": uniforms.stride(1),
        "given": given, **dict(zip(("given_b", "given_w"), _strides(given), strict=True)),
        "guidance": None if guidance is None else guidance.contiguous(),
        "labels": empty(batch, width, dtype=torch.int64),
        **{name: empty(batch, width, dtype=inputs.dtype) for name in ("log_probs", "guided_log_probs")},
        "probabilities": inputs.new_empty(batch, width, sizes.labels) if options.return_probabilities else None,
        "cache": empty(sizes.layers, batch, width, 3 * hidden),
        "attended": empty(batch, hidden), "update": empty(batch, hidden),
        "hidden": empty(batch, sizes.feed_forward), "logits": empty(batch, sizes.labels),
        "counters": torch.zeros(triton.cdiv(batch, plan.tile) + 1, dtype=torch.int32, device=uniforms.device),
        "batch": batch, "temperature": options.temperature, "top_p": options.top_p, "eps": options.eps,
        "LAYERS": sizes.layers, "W": width, "WP": width_padded, "D": hidden, "F": sizes.feed_forward, "K": sizes.depth,
        "H": sizes.heads, "CP": channels, "S": sizes.labels, "SP": triton.next_power_of_2(sizes.labels),
        "ARGMAX": options.mode == "argmax", "TOP_P": options.top_p < 1, "PER_IMAGE": per_image,
        "P": plan.programs, "M": plan.tile, "N": plan.columns, "G": min(plan.warps, sizes.depth // 16),
        "PAIRS": min(triton.next_power_of_2(plan.tile * sizes.heads), max(1, 8192 // (width_padded * channels))),
        "RESIDENT": plan.resident, "STAGES": STAGES,
        "PRECISION": "ieee" if triton_common.INTERPRETED else PRECISION,  # the interpreter needs no other
    }  # fmt: skip


def launch_options(plan: Plan) -> dict[str, Any]:
    """A cooperative launch has all programs on the GPU at once, or fails: they wait for each other."""
    return {"num_warps": plan.warps, "num_stages": 1, "launch_cooperative_grid": plan.programs > 1}


def sizes_of(weights: DecoderWeights, conditioning: RowConditioning) -> Sizes:
    """The sizes that `choose_plan` asks for."""
    batch, width, hidden = conditioning.inputs.shape
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
    return Device(1, 1 << 30) if triton_common.INTERPRETED else _device(tensor.get_device())


def unsupported_reason(weights: DecoderWeights, conditioning: RowConditioning) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    for dtype in (weights.logits.dtype, conditioning.inputs.dtype):
        if dtype not in DTYPES:
            return f"it serves float32, float16 and bfloat16, not {dtype}"
        if triton_common.INTERPRETED and dtype == torch.bfloat16:
            return "Triton's interpreter computes bfloat16 wrongly"
    if len({(layer.ff1.shape[0], layer.bias.shape[0]) for layer in weights.layers}) > 1:
        return "it needs layers of the same feed-forward size and number of heads"
    batch, width, hidden = conditioning.inputs.shape
    strides = [tensor.stride(0) for layer in conditioning.layers for tensor in layer[:4] if tensor is not None]
    if batch * max(strides, default=0) >= 2**31 or batch * width * 3 * hidden >= 2**31:
        return f"it counts in 32 bits, too few for {batch} images"
    sizes, device = sizes_of(weights, conditioning), device_of(conditioning.inputs)
    return None if fitting_plans(sizes, device) else f"no plan fits {sizes} on {device}"


def decode_row(
    weights: DecoderWeights,
    conditioning: RowConditioning,
    uniforms: Tensor,
    options: SamplingOptions,
    *,
    plan: Plan | None = None,
) -> DecodedRow:
    """See `coltran_kernels.decode_row`, for tensors that `unsupported_reason` has nothing against.

    `plan` overrides the one that the cost model chooses.
    """
    if plan is None:
        plan = choose_plan(sizes_of(weights, conditioning), device_of(conditioning.inputs))
    arguments = kernel_arguments(weights, conditioning, uniforms, options, plan)
    grid = (plan.programs, triton.cdiv(uniforms.shape[0], plan.tile))
    with torch.cuda.device_of(uniforms):  # Triton launches on the current one
        decode_row_kernel[grid](**arguments, **launch_options(plan))
    labels, log_probs, probabilities = (arguments[name] for name in ("labels", "log_probs", "probabilities"))
    guided = log_probs if options.guidance is None else arguments["guided_log_probs"]
    return DecodedRow(labels, log_probs, probabilities, guided)
