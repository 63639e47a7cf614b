# SPDX-License-Identifier: Apache-2.0
"""One draw in a kernel; and what Jacobi decoding does between the forwards of a row: draw, compare, say what is final.

    label = argmax, or the first whose cumulative probability passes `uniform` of the whole
    final = 1 + the first column whose label this pass has changed, W where none has

A program of `settle_kernel` draws a few columns of one image. The last one of an image to finish knows the first column
that changed, from an atomic minimum, and says how much of the row is final; whoever does so for the last image leaves
none `unsettled`. `begin_kernel`, one program, goes to the next row and guesses it: the row above, or what is imposed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.types import RowDraws, RowState


@triton.jit
def most_probable(p, top_p):
    """Probabilities p [M, SP], set to zero beyond the most probable labels that together hold `top_p`.

    A label stays when less than `top_p` lies before it, in the order of falling probability and, among equals, of
    rising label. That is so for all labels above the smallest t with mass(p > t) < top_p, for none below it, and for
    the first ones among those that equal it. Positive floats are ordered as their bits are, so t is found by bisection.
    """
    low = tl.zeros([p.shape[0]], tl.int32) - 1  # mass above `low` is enough, above `high` it is not
    high = tl.full([p.shape[0]], 0x3F800000, tl.int32)  # 1.0
    for _ in tl.range(0, 30, num_stages=1):
        middle = low + (high - low) // 2
        above = tl.where(p > middle.to(tl.float32, bitcast=True)[:, None], p, 0.0)
        enough = (tl.sum(above, 1) >= top_p) | (middle < 0)
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    threshold = high.to(tl.float32, bitcast=True)[:, None]
    equal = p == threshold
    before = tl.sum(tl.where(p > threshold, p, 0.0), 1, keep_dims=True)
    before += (tl.cumsum(equal.to(tl.int32), 1) - 1).to(tl.float32) * threshold
    return tl.where((p > threshold) | (equal & (before < top_p)), p, 0.0)


@triton.jit
def draw(
    logits, uniform, temperature, top_p, S: tl.constexpr, ARGMAX: tl.constexpr, TOP_P: tl.constexpr
):  # fmt: skip
    """One label [M] for each row of logits [M, SP], which are -inf from S on."""
    s = tl.arange(0, logits.shape[1])[None, :]
    if ARGMAX:
        label = tl.argmax(logits, 1)
    else:
        p = tl.exp((logits - tl.max(logits, 1, keep_dims=True)) / temperature)
        p /= tl.sum(p, 1, keep_dims=True)
        if TOP_P:
            p = most_probable(p, top_p)
        cumulative = tl.cumsum(p, 1)
        total = tl.sum(tl.where(s == S - 1, cumulative, 0.0), 1)
        below = (cumulative <= (uniform * total)[:, None]) & (s < S)
        last = tl.max(tl.where(p > 0.0, s, 0), 1)  # rounding may pass the end
        label = tl.minimum(tl.sum(below.to(tl.int32), 1), last)
    return label


@triton.jit
def log_softmax(x, label):
    """Of each row of x [M, SP] the logarithm of the softmax at its label [M], and the softmax."""
    x -= tl.max(x, 1, keep_dims=True)
    weight = tl.exp(x)
    total = tl.sum(weight, 1)
    chosen = tl.sum(tl.where(tl.arange(0, x.shape[1])[None, :] == label[:, None], x, 0.0), 1)
    return chosen - tl.log(total), weight / total[:, None]


COLUMNS = 4  # that a program draws


@triton.jit
def settle_kernel(
    LOGITS,  # [B, W, S] float32
    draws,  # the tensors of RowDraws
    state,  # the tensors of RowState: FIRST is W and ARRIVED 0 between passes
    height,
    W: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BW: tl.constexpr,
    ARGMAX: tl.constexpr,
    NUCLEUS: tl.constexpr,
):
    UNIFORMS, GIVEN, GUIDANCE, KNOBS = draws
    ROWS, LABELS, LOG_PROB, GUIDED_LOG_PROB, PROBABILITIES, _, PREVIOUS, FINAL, FIRST, ARRIVED, UNSETTLED, PASSES = (
        state
    )
    image = tl.program_id(0)
    final = tl.load(FINAL + image)
    if final >= W:
        return
    j = tl.program_id(1) * BW + tl.arange(0, BW)
    s = tl.arange(0, SP)[None, :]
    here = j < W
    both = here[:, None] & (s < S)
    row = tl.load(ROWS + 1)
    pixel = (image.to(tl.int64) * height + row) * W + j
    logits = tl.load(LOGITS + (image * W + j)[:, None] * S + s, mask=both, other=0.0)  # [BW, SP]
    logits = tl.where(s < S, logits, float("-inf"))
    guided = logits
    if GUIDANCE is not None:
        guided = logits + tl.load(GUIDANCE + pixel[:, None] * S + s, mask=both, other=0.0).to(tl.float32)
    uniform = tl.load(UNIFORMS + pixel, mask=here, other=0.0).to(tl.float32)
    label = draw(guided, uniform, tl.load(KNOBS), tl.load(KNOBS + 1), S, ARGMAX, NUCLEUS)
    if GIVEN is not None:
        imposed = tl.load(GIVEN + pixel, mask=here, other=-1).to(tl.int32)
        label = tl.where(imposed >= 0, imposed, label)
    before = tl.load(LABELS + pixel, mask=here, other=0).to(tl.int32)
    label = tl.where(j < final, before, label)  # rounding may not move what is final
    tl.store(LABELS + pixel, label.to(tl.int64), mask=here)
    tl.store(PREVIOUS + image * W + j + 1, label.to(tl.int64), mask=j + 1 < W)
    log_prob, probabilities = log_softmax(logits, label)
    tl.store(LOG_PROB + pixel, log_prob, mask=here)
    if GUIDANCE is not None:
        tl.store(GUIDED_LOG_PROB + pixel, log_softmax(guided, label)[0], mask=here)
    if PROBABILITIES is not None:
        tl.store(PROBABILITIES + pixel[:, None] * S + s, probabilities, mask=both)
    tl.atomic_min(FIRST + image, tl.min(tl.where(here & (label != before), j, W)))
    if tl.atomic_add(ARRIVED + image, 1) == tl.num_programs(1) - 1:
        now = tl.minimum(tl.atomic_min(FIRST + image, W) + 1, W)
        tl.store(FINAL + image, now)
        tl.store(FIRST + image, W)
        tl.store(ARRIVED + image, 0)
        passes = PASSES + image * height + row
        tl.store(passes, tl.load(passes) + 1)
        if now == W:
            tl.atomic_add(UNSETTLED, -1)


def settle(state: RowState, draws: RowDraws, logits: Tensor, *, argmax: bool, nucleus: bool) -> None:
    """See `coltran_kernels.settle`."""
    batch, height, width = state.labels.shape
    labels = logits.shape[-1]
    with torch.cuda.device_of(logits):
        settle_kernel[(batch, triton.cdiv(width, COLUMNS))](
            logits, tuple(draws), tuple(state), height, W=width, S=labels, SP=triton.next_power_of_2(labels),
            BW=COLUMNS, ARGMAX=argmax, NUCLEUS=nucleus,
        )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def begin_kernel(
    GIVEN,  # [B, H, W] or None
    state,  # the tensors of RowState
    batch,
    height,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ROWS, LABELS, _, _, _, ABOVE, PREVIOUS, FINAL, FIRST, ARRIVED, UNSETTLED, _ = state
    row = tl.load(ROWS + 1) + 1
    p = tl.arange(0, BLOCK)
    for start in range(0, batch * W, BLOCK):
        pixel = start + p
        here = pixel < batch * W
        image, j = pixel // W, pixel % W
        place = LABELS + (image.to(tl.int64) * height + row) * W + j
        above = tl.load(place - W, mask=here & (row > 0), other=0)
        tl.store(ABOVE + pixel, above, mask=here)
        guess = above
        if GIVEN is not None:
            imposed = tl.load(GIVEN + (image.to(tl.int64) * height + row) * W + j, mask=here, other=-1).to(tl.int64)
            guess = tl.where(imposed >= 0, imposed, guess)
        tl.store(place, guess, mask=here)
        tl.store(PREVIOUS + pixel + 1, guess, mask=here & (j + 1 < W))
        tl.store(PREVIOUS + pixel, tl.full([BLOCK], -1, tl.int64), mask=here & (j == 0))
    for start in range(0, batch, BLOCK):
        image = start + p
        tl.store(FINAL + image, tl.zeros([BLOCK], tl.int32), mask=image < batch)
        tl.store(FIRST + image, tl.full([BLOCK], W, tl.int32), mask=image < batch)
        tl.store(ARRIVED + image, tl.zeros([BLOCK], tl.int32), mask=image < batch)
    tl.debug_barrier()  # all threads have read the row
    tl.store(UNSETTLED, batch)
    tl.store(ROWS, row - 1)
    tl.store(ROWS + 1, row)


def begin_row(state: RowState, draws: RowDraws) -> None:
    """See `coltran_kernels.begin_row`."""
    batch, height, width = state.labels.shape
    with torch.cuda.device_of(state.labels):
        begin_kernel[(1,)](
            draws.given, tuple(state), batch, height, W=width, BLOCK=min(1024, triton.next_power_of_2(batch * width)),
        )  # fmt: skip
