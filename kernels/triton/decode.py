# SPDX-License-Identifier: Apache-2.0
"""One row of the inner decoder in one launch: the kernel. See `decode_launch` for what calls it.

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

import triton
import triton.language as tl


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
def _place(zero, tile, batch, M: tl.constexpr, K: tl.constexpr):
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
def _add_norm(x, scale, shift, rows, live, columns, D: tl.constexpr, PER_IMAGE: tl.constexpr, eps):
    """normalise(x) * scale + shift over the D columns of x [M, K], which is zero beyond them."""
    mean = tl.sum(x, 1, keep_dims=True) / D
    x -= mean
    if columns.shape[1] > D:
        x = tl.where(columns < D, x, 0.0)
    variance = tl.sum(x * x, 1, keep_dims=True) / D
    x = x * tl.rsqrt(variance + eps)
    mask = _inside(live, columns, D)
    place = columns
    if PER_IMAGE:
        place = rows * D + columns
    gain = tl.load(scale + place, mask=mask, other=0.0).to(tl.float32)
    return x * gain + tl.load(shift + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _finish(
    y, first, rows, live, bias, scale, scale_b, scale_w, shift, shift_b, shift_w, j, out, out_b,
    N: tl.constexpr, SIZE: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """Store (y + bias) * scale + shift, y [M, N] being output columns `first` on; those outside 0 .. SIZE are not."""
    columns = first + tl.arange(0, N)[None, :]
    inside = (columns >= 0) & (columns < SIZE)
    mask = live & inside
    if bias is not None:
        y += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        y = tl.maximum(y, 0.0)
    if scale is not None:
        y *= tl.load(scale + rows * scale_b + j * scale_w + columns, mask=mask, other=0.0).to(tl.float32)
    if shift is not None:
        y += tl.load(shift + rows * shift_b + j * shift_w + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + rows * out_b + columns, y, mask=mask)


@triton.jit
def _linear(
    x, packed, slots, program, rows, live, bias, scale, scale_b, scale_w, shift, shift_b, shift_w, j, out, out_b,
    START: tl.constexpr, SIZE: tl.constexpr, RELU: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, G: tl.constexpr, P: tl.constexpr, RESIDENT: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """This program's columns of x [M, K] times a matrix of SIZE outputs whose first slice is START."""
    COUNT: tl.constexpr = (SIZE + N - 1) // N
    x = tl.reshape(x.to(packed.dtype.element_ty), (x.shape[0], G, K // G)).permute(1, 0, 2)  # [G, M, K/G]
    if RESIDENT:
        # Slots at either end may belong to a neighbouring matrix; their columns are outside and not stored. Skipped by
        # a branch, float32 weights would be split into bfloat16 in every column instead of once.
        for slot in tl.static_range(START // P, (START + COUNT - 1) // P + 1):
            y = tl.sum(tl.dot(x, slots[slot], input_precision=PRECISION), 0)  # [M, N]
            _finish(
                y, (slot * P + program - START) * N, rows, live, bias, scale, scale_b, scale_w, shift, shift_b,
                shift_w, j, out, out_b, N, SIZE, RELU,
            )  # fmt: skip
    else:
        for index in tl.range(START + (program + P - START % P) % P, START + COUNT, P, num_stages=STAGES):
            y = tl.sum(tl.dot(x, _slice(packed, index, N, K, G), input_precision=PRECISION), 0)  # [M, N]
            _finish(
                y, (index - START) * N, rows, live, bias, scale, scale_b, scale_w, shift, shift_b, shift_w, j,
                out, out_b, N, SIZE, RELU,
            )  # fmt: skip


@triton.jit
def _attend(
    cache, table, out, j, program, first_image, images, W: tl.constexpr, WP: tl.constexpr, D: tl.constexpr,
    H: tl.constexpr, CP: tl.constexpr, PAIRS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Attention of column j over columns 0 .. j of cache [B, W, 3D], for PAIRS of image and head at a time."""
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


@triton.jit
def _most_probable(p, top_p):
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
def _draw(
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
            p = _most_probable(p, top_p)
        cumulative = tl.cumsum(p, 1)
        total = tl.sum(tl.where(s == S - 1, cumulative, 0.0), 1)
        below = (cumulative <= (uniform * total)[:, None]) & (s < S)
        last = tl.max(tl.where(p > 0.0, s, 0), 1)  # rounding may pass the end
        label = tl.minimum(tl.sum(below.to(tl.int32), 1), last)
    return label


@triton.jit(do_not_specialize=["batch"])
def decode_row_kernel(
    packed,  # [at least all slices, N, K]
    embedding,  # [S, D]
    norm_weight,  # [D]
    norm_bias,
    logits_bias,  # [S]
    layers,  # for each layer: position table [h, 2W], bias of the feed-forward's first and second matrix
    inputs,  # [B, W, D]
    terms,  # for each layer: the tensors of RowLayer, or None
    uniforms,  # [B, W]
    uniforms_b,
    uniforms_w,
    given,  # [B, W] or None
    given_b,
    given_w,
    labels,  # [B, W], result
    log_probs,  # [B, W], result
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
    STRIDES: tl.constexpr,  # for each layer: of image and column in the first four of its terms
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

    images = tl.minimum(M, batch - tile * M)
    s = tl.arange(0, SP)[None, :]
    label = tl.zeros([M], tl.int32)
    for j in tl.range(0, W, num_stages=1, disable_licm=True):
        program, image, here, columns = _place(zero, tile, batch, M, K)
        rows, live = image[:, None], here[:, None]  # [M, 1]
        in_model = _inside(live, columns, D)
        x = tl.load(inputs + j * D + rows * (W * D) + columns, mask=in_model, other=0.0).to(tl.float32)
        previous = embedding + label[:, None] * D + columns
        x += tl.load(previous, mask=in_model & (j > 0), other=0.0).to(tl.float32)
        for i in tl.static_range(0, LAYERS):
            program, image, here, columns = _place(zero, tile, batch, M, K)
            rows, live = image[:, None], here[:, None]
            table, bias1, bias2 = layers[i]
            qs, qt, fs, ft, s1, t1, s2, t2 = terms[i]
            qs_b, qs_w, qt_b, qt_w, fs_b, fs_w, ft_b, ft_w = STRIDES[i]
            passed = (j * BARRIERS + 5 * i) * P
            here_cache = cache + i * batch.to(tl.int64) * (W * 3 * D)
            _linear(
                x, packed, slots, program, rows, live, None, qs, qs_b, qs_w, qt, qt_b, qt_w, j,
                here_cache + j * (3 * D), W * 3 * D, i * NL, 3 * D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
            )  # fmt: skip
            _barrier(counters, passed + P, P)
            _attend(here_cache, table, attended, j, program, tile * M, images, W, WP, D, H, CP, PAIRS, P)
            _barrier(counters, passed + 2 * P, P)
            _linear(
                _read(attended, rows, live, columns, D), packed, slots, program, rows, live, None, None, 0, 0,
                None, 0, 0, j, update, D, i * NL + NQ, D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
            )  # fmt: skip
            _barrier(counters, passed + 3 * P, P)
            x += _read(update, rows, live, columns, D)
            x = _add_norm(x, s1, t1, rows, live, columns, D, PER_IMAGE, eps)
            _linear(
                x, packed, slots, program, rows, live, bias1, None, 0, 0, None, 0, 0, j, hidden, F,
                i * NL + NQ + ND, F, True, N, K, G, P, RESIDENT, STAGES, PRECISION,
            )  # fmt: skip
            _barrier(counters, passed + 4 * P, P)
            _linear(
                _read(hidden, rows, live, columns, F), packed, slots, program, rows, live, bias2, fs, fs_b, fs_w,
                ft, ft_b, ft_w, j, update, D, i * NL + NQ + ND + NF, D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
            )  # fmt: skip
            _barrier(counters, passed + 5 * P, P)
            x += _read(update, rows, live, columns, D)
            x = _add_norm(x, s2, t2, rows, live, columns, D, PER_IMAGE, eps)
        program, image, here, columns = _place(zero, tile, batch, M, K)
        rows, live = image[:, None], here[:, None]
        x = _add_norm(x, norm_weight, norm_bias, rows, live, columns, D, False, eps)
        _linear(
            x, packed, slots, program, rows, live, logits_bias, None, 0, 0, None, 0, 0, j, logits, S,
            LAYERS * NL, S, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
        )  # fmt: skip
        _barrier(counters, (j + 1) * BARRIERS * P, P)

        # All programs of a tile draw the same labels from the same numbers; the first one reports them.
        found = tl.load(logits + rows * S + s, mask=live & (s < S), other=0.0, cache_modifier=".cg")
        found = tl.where(s < S, found, float("-inf"))
        uniform = tl.load(uniforms + image * uniforms_b + j * uniforms_w, mask=here, other=0.0).to(tl.float32)
        label = _draw(found, uniform, temperature, top_p, S, ARGMAX, TOP_P)
        if given is not None:
            imposed = tl.load(given + image * given_b + j * given_w, mask=here, other=-1).to(tl.int32)
            label = tl.where(imposed >= 0, imposed, label)
        if program == 0:
            shifted = found - tl.max(found, 1, keep_dims=True)
            weight = tl.exp(shifted)
            total = tl.sum(weight, 1)
            drawn = tl.sum(tl.where(s == label[:, None], shifted, 0.0), 1)
            tl.store(labels + image * W + j, label.to(tl.int64), mask=here)
            tl.store(log_probs + image * W + j, drawn - tl.log(total), mask=here)
            if probabilities is not None:
                place = probabilities + (rows * W + j) * S + s
                tl.store(place, weight / total[:, None], mask=live & (s < S))
