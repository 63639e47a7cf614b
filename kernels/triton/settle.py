# SPDX-License-Identifier: Apache-2.0
"""One row of the inner decoder by fixed point, in one launch: the kernel. See `settle_launch` for what calls it.

The grid is [P programs, B images]; the P programs of an image take a pass together, and images never wait for each
other. A pass computes the pixels settled .. end - 1, M at a time, in the stages of `decode`: for each layer

    qkv  = (x Wqkv^T) * scale + shift                                        stage 1, over columns of Wqkv
    a    = softmax(q k^T / sqrt(C) + bias[k - j + W - 1]) v, k <= j          stage 2, over heads and M pixels each
    y    = a Wout^T                                                          stage 3, over columns of Wout
    x    = norm(y + x);  h = relu(x W1^T + b1)                               stage 4, over columns of W1
    y    = (h W2^T + b2) * scale + shift; then x = norm(y + x)               stage 5, over columns of W2

then the logits over columns, and the draw over R pixels each, with a barrier after every stage: 5 L + 2 a pass. Who
draws a pixel with `influence` needs the labels to its left, and draws those as well, so that no stage is added. Here
pixels fill the tensor cores' tiles. Products, slices of the weights and memory ordering are those of `decode`.

Each program finds by itself which label a pass changed first, from the same numbers, so nothing is reported to the
host: the launch ends when its rows are settled, after W passes at most. Labels of a pass are drawn into one of two
generations, so that nobody overwrites what another still compares. `x` is computed by all programs and kept by one.

Pixels are counted through all images, those of image b from b W to b W + W - 1, so that no buffer needs an address for
the image.

Sizes: B images, W columns, D hidden, F feed-forward, h heads of C = D / h channels, S labels, K >= D, F a power of 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from coltran_kernels.triton.decode import _add_norm, _barrier, _draw, _inside, _linear, _read, _slice


@triton.jit
def _pixels(zero, first, end, M: tl.constexpr, K: tl.constexpr):
    """This program, pixels [M, 1] from `first` on, which of them lie before `end`, and columns [1, K].

    As `decode._place`: made from a zero in memory, so that no addresses are kept in registers from stage to stage.
    """
    nothing = tl.multiple_of(tl.load(zero, volatile=True), 16)
    pixel = nothing + first + tl.arange(0, M)[:, None]
    return tl.program_id(0) + nothing, pixel, pixel < end, nothing + tl.arange(0, K)[None, :]


@triton.jit
def _keep(pointer, x, pixel, live, columns, SIZE: tl.constexpr, mine):
    """Stores x [M, K] to rows of a buffer [B W, SIZE], by the one program that it is `mine` to."""
    tl.store(pointer + pixel * SIZE + columns, x, mask=_inside(live, columns, SIZE) & mine)


@triton.jit
def _taken(guess, latest, pixel, there, edge):
    """What pixels are taken to be, int32, 0 where not `there`: as the last pass left them, from `edge` on the guess."""
    label = tl.load(latest + pixel, mask=there & (pixel < edge), other=0, cache_modifier=".cg")
    return label + tl.load(guess + pixel, mask=there & (pixel >= edge), other=0).to(tl.int32)


@triton.jit
def _embed(inputs, embedding, guess, latest, start, edge, pixel, live, columns, D: tl.constexpr):
    """inputs + the embedding of the label before, x [M, K]."""
    inside = _inside(live, columns, D)
    x = tl.load(inputs + pixel * D + columns, mask=inside, other=0.0).to(tl.float32)
    place = embedding + _taken(guess, latest, pixel - 1, live & (pixel > start), edge) * D + columns
    return x + tl.load(place, mask=inside & (pixel > start), other=0.0).to(tl.float32)


@triton.jit
def _attend(
    zero, cache, table, out, start, settled, end, blocks, like, W: tl.constexpr, WP: tl.constexpr, D: tl.constexpr,
    H: tl.constexpr, CP: tl.constexpr, M: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of M pixels and a head at a time to the pixels up to each, cache [B W, 3D], operands of type `like`.

    Addresses are made from a zero in memory, as in `_pixels`.
    """
    C: tl.constexpr = D // H
    nothing = tl.multiple_of(tl.load(zero, volatile=True), 16)
    c = nothing + tl.arange(0, CP)[None, :]
    t = nothing + start + tl.arange(0, WP)
    for task in tl.range(tl.program_id(0), blocks * H, P, num_stages=1, disable_licm=True):
        head = task % H
        pixel = settled + task // H * M + tl.arange(0, M)[:, None]
        mask = (pixel < end) & (c < C)
        row = cache + head * C + c
        q = tl.load(row + pixel * (3 * D), mask=mask, other=0.0, cache_modifier=".cg") * (C**-0.5)
        there = (t[:, None] < end) & (c < C)
        keys = tl.load(row + D + t[:, None] * (3 * D), mask=there, other=0.0, cache_modifier=".cg")
        scores = tl.dot(q.to(like), tl.trans(keys.to(like)), input_precision=PRECISION)  # [M, WP]
        past = (t[None, :] <= pixel) & (pixel < end)
        place = table + head * (2 * W) + W - 1 + t[None, :] - pixel
        scores += tl.load(place, mask=past, other=0.0).to(tl.float32)
        scores = tl.where(past | (t[None, :] == start), scores, float("-inf"))
        scores = tl.exp(scores - tl.max(scores, 1, keep_dims=True))
        scores /= tl.sum(scores, 1, keep_dims=True)
        values = tl.load(row + 2 * D + t[:, None] * (3 * D), mask=there, other=0.0, cache_modifier=".cg")
        attended = tl.dot(scores.to(like), values.to(like), input_precision=PRECISION)  # [M, CP]
        tl.store(out + pixel * D + head * C + c, attended, mask=mask)


@triton.jit
def settle_row_kernel(
    packed,  # [at least all slices, N, K]
    embedding,  # [S, D]
    norm_weight,  # [D]
    norm_bias,
    logits_bias,  # [S]
    layers,  # for each layer: position table [h, 2W], bias of the feed-forward's first and second matrix
    inputs,  # [B, W, D]
    terms,  # for each layer: the tensors of RowLayer, or None
    uniforms,  # [B, W]
    guess,  # [B, W]
    given,  # [B, W] or None
    influence,  # [S, S] or None
    labels,  # [B, W], result
    log_probs,  # [B, W], result
    probabilities,  # [B, W, S], result, or None
    passes,  # [B], result
    computed,  # [B], result
    drawn,  # [2, B, W] int32, what pixels are taken to be in the next pass
    cache,  # [L, B, W, 3D] float32
    attended,  # [B, W, D] float32
    update,  # [B, W, D]
    before,  # [B, W, D], x ahead of attention
    after,  # [B, W, D], x behind it
    hidden,  # [B, W, F]
    logits,  # [B, W, S]
    counters,  # [B + 1], zero
    window,
    temperature,
    top_p,
    eps,
    STRIDES: tl.constexpr,  # for each layer: of image and column in its first four terms, all pixels equally far apart
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
    R: tl.constexpr,
    RESIDENT: tl.constexpr,
    STAGES: tl.constexpr,  # slices in flight when weights are streamed
    PRECISION: tl.constexpr,  # of products of float32
    INFLUENCE: tl.constexpr,  # as in types.py
    ROUNDS: tl.constexpr,
):
    image = tl.program_id(1)
    batch = tl.num_programs(1)
    zero = counters + batch
    counters += image
    NQ: tl.constexpr = (3 * D + N - 1) // N
    ND: tl.constexpr = (D + N - 1) // N
    NF: tl.constexpr = (F + N - 1) // N
    NL: tl.constexpr = NQ + ND + NF + ND  # slices of a layer
    BARRIERS: tl.constexpr = 5 * LAYERS + 2
    SLOTS: tl.constexpr = (LAYERS * NL + (S + N - 1) // N + P - 1) // P
    slots = ()
    if RESIDENT:
        for slot in tl.static_range(0, SLOTS):
            slots = slots + (_slice(packed, slot * P + tl.program_id(0), N, K, G),)  # type: ignore[assignment]

    norm_row = image * D if PER_IMAGE else 0
    s = tl.arange(0, SP)[None, :]
    start, last = image * W, image * W + W
    t = start + tl.arange(0, WP)
    # Pixels before `edge` are in the latest generation, `count` % 2 is the next.
    settled, edge, count, total = start, start, 0, 0
    while settled < last:
        end = tl.minimum(settled + window, last)
        blocks = (end - settled + M - 1) // M
        latest = drawn + (count + 1) % 2 * batch * W
        passed = count * BARRIERS * P
        for i in tl.static_range(0, LAYERS):
            table, bias1, bias2 = layers[i]
            qs, qt, fs, ft, s1, t1, _, _ = terms[i]
            _, qs_w, _, qt_w, _, fs_w, _, ft_w = STRIDES[i]
            here_cache = cache + (i * batch).to(tl.int64) * (W * 3 * D)
            for block in tl.range(0, blocks, num_stages=1, disable_licm=True):
                program, pixel, live, columns = _pixels(zero, settled + block * M, end, M, K)
                if i == 0:
                    x = _embed(inputs, embedding, guess, latest, start, edge, pixel, live, columns, D)
                else:
                    x = _read(update, pixel, live, columns, D) + _read(after, pixel, live, columns, D)
                    s2, t2 = terms[i - 1][6], terms[i - 1][7]
                    x = _add_norm(x, s2 + norm_row, t2 + norm_row, pixel, live, columns, D, False, eps)
                _keep(before, x, pixel, live, columns, D, block % P == program)
                _linear(
                    x, packed, slots, program, pixel, live, None, qs, qs_w, 0, qt, qt_w, 0, 0, here_cache, 3 * D,
                    i * NL, 3 * D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
                )  # fmt: skip
            _barrier(counters, passed + (5 * i + 1) * P, P)
            _attend(
                zero, here_cache, table, attended, start, settled, end, blocks, inputs.dtype.element_ty, W, WP, D, H,
                CP, M, P, PRECISION,
            )  # fmt: skip
            _barrier(counters, passed + (5 * i + 2) * P, P)
            for block in tl.range(0, blocks, num_stages=1, disable_licm=True):
                program, pixel, live, columns = _pixels(zero, settled + block * M, end, M, K)
                _linear(
                    _read(attended, pixel, live, columns, D), packed, slots, program, pixel, live, None, None, 0, 0,
                    None, 0, 0, 0, update, D, i * NL + NQ, D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
                )  # fmt: skip
            _barrier(counters, passed + (5 * i + 3) * P, P)
            for block in tl.range(0, blocks, num_stages=1, disable_licm=True):
                program, pixel, live, columns = _pixels(zero, settled + block * M, end, M, K)
                x = _read(update, pixel, live, columns, D) + _read(before, pixel, live, columns, D)
                x = _add_norm(x, s1 + norm_row, t1 + norm_row, pixel, live, columns, D, False, eps)
                _keep(after, x, pixel, live, columns, D, block % P == program)
                _linear(
                    x, packed, slots, program, pixel, live, bias1, None, 0, 0, None, 0, 0, 0, hidden, F,
                    i * NL + NQ + ND, F, True, N, K, G, P, RESIDENT, STAGES, PRECISION,
                )  # fmt: skip
            _barrier(counters, passed + (5 * i + 4) * P, P)
            for block in tl.range(0, blocks, num_stages=1, disable_licm=True):
                program, pixel, live, columns = _pixels(zero, settled + block * M, end, M, K)
                _linear(
                    _read(hidden, pixel, live, columns, F), packed, slots, program, pixel, live, bias2, fs, fs_w, 0,
                    ft, ft_w, 0, 0, update, D, i * NL + NQ + ND + NF, D, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
                )  # fmt: skip
            _barrier(counters, passed + (5 * i + 5) * P, P)
        for block in tl.range(0, blocks, num_stages=1, disable_licm=True):
            program, pixel, live, columns = _pixels(zero, settled + block * M, end, M, K)
            if LAYERS == 0:
                x = _embed(inputs, embedding, guess, latest, start, edge, pixel, live, columns, D)
            else:
                x = _read(update, pixel, live, columns, D) + _read(after, pixel, live, columns, D)
                s2, t2 = terms[LAYERS - 1][6], terms[LAYERS - 1][7]
                x = _add_norm(x, s2 + norm_row, t2 + norm_row, pixel, live, columns, D, False, eps)
            x = _add_norm(x, norm_weight, norm_bias, pixel, live, columns, D, False, eps)
            _linear(
                x, packed, slots, program, pixel, live, logits_bias, None, 0, 0, None, 0, 0, 0, logits, S,
                LAYERS * NL, S, False, N, K, G, P, RESIDENT, STAGES, PRECISION,
            )  # fmt: skip
        _barrier(counters, passed + (5 * LAYERS + 1) * P, P)

        # With `influence` the first of R pixels are drawn for the sake of the others alone: they are other programs'.
        AHEAD: tl.constexpr = 0 if influence is None else ROUNDS * len(INFLUENCE)
        for first in tl.range(settled + tl.program_id(0) * (R - AHEAD), end, P * (R - AHEAD), num_stages=1):
            r = tl.arange(0, R)
            pixel = first - AHEAD + r
            here = (pixel >= settled) & (pixel < end)
            rows, live = pixel[:, None], here[:, None]
            inside = live & (s < S)
            found = tl.load(logits + rows * S + s, mask=inside, other=0.0, cache_modifier=".cg")
            found = tl.where(s < S, found, float("-inf"))
            uniform = tl.load(uniforms + pixel, mask=here, other=0.0).to(tl.float32)
            label = _draw(found, uniform, temperature, top_p, S, ARGMAX, TOP_P).to(tl.int32)
            if given is not None:
                imposed = tl.load(given + pixel, mask=here, other=-1).to(tl.int32)
                label = tl.where(imposed >= 0, imposed, label)
            mine = here & (r >= AHEAD)
            shifted = found - tl.max(found, 1, keep_dims=True)
            weight = tl.exp(shifted)
            sums = tl.sum(weight, 1)
            of_label = tl.sum(tl.where(s == label[:, None], shifted, 0.0), 1)
            tl.store(labels + pixel, label.to(tl.int64), mask=mine)
            tl.store(log_probs + pixel, of_label - tl.log(sums), mask=mine)
            if probabilities is not None:
                place = probabilities + rows * S + s
                tl.store(place, weight / sums[:, None], mask=mine[:, None] & inside)
            expected = label
            if influence is not None:  # see `expect` in reference.py
                for turn in tl.static_range(0, ROUNDS):  # noqa: B007 (a `_` above has another type)
                    # Read again, so that nothing is kept in registers over the draws.
                    moved = tl.load(logits + rows * S + s, mask=inside, other=0.0, cache_modifier=".cg")
                    moved = tl.where(s < S, moved, float("-inf"))
                    again = pixel < 0
                    for k in tl.static_range(0, len(INFLUENCE)):
                        left = pixel - k - 1
                        there = here & (left >= settled) & (r > k)
                        old = _taken(guess, latest, left, there, edge)
                        new = tl.sum(tl.where(r[None, :] + k + 1 == r[:, None], expected[None, :], 0), 1)
                        there &= new != old
                        mask = there[:, None] & (s < S)
                        more = tl.load(influence + new[:, None] * S + s, mask=mask, other=0.0)
                        more -= tl.load(influence + old[:, None] * S + s, mask=mask, other=0.0)
                        moved += INFLUENCE[k] * more
                        again |= there
                    drawn_again = _draw(moved, uniform, temperature, top_p, S, ARGMAX, TOP_P).to(tl.int32)
                    if given is not None:
                        again &= imposed < 0
                    expected = tl.where(again, drawn_again, label)
            tl.store(drawn + count % 2 * batch * W + pixel, expected, mask=mine)
        _barrier(counters, passed + BARRIERS * P, P)

        inside = (t >= settled) & (t < end)
        now = tl.load(labels + t, mask=inside, other=0, cache_modifier=".cg").to(tl.int32)
        first_changed = tl.min(tl.where(inside & (now != _taken(guess, latest, t, inside, edge)), t, last))
        total += end - settled
        count += 1
        edge = end
        settled = tl.minimum(first_changed + 1, end)
    if tl.program_id(0) == 0:
        tl.store(passes + image, count)
        tl.store(computed + image, total)
