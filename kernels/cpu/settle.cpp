// SPDX-License-Identifier: Apache-2.0
// One row of the inner decoder by fixed point (`settle_row` in reference.py), as one thread of a team sees it.
//
// Compiled once for each instruction set, with TARGET the name of its namespace. One image after another; a pass over
// `count` pixels from the first unsettled one is 1 + layers stages. The team shares out the pixels of each:
//
//     x = inputs + embedding[label before]; q, k, v of the first layer, a table row; keep k and v
//     for each layer:
//         a = softmax(q k^T / sqrt(C) + bias) v; x = norm(x + a Wout); x = norm(x + feed-forward)
//         q, k, v of the next layer, keep k and v; or, in the last one, logits, and draw
//
// Before a pixel is embedded, the label that it is taken to have is found: what the last pass drew, or, if that changed
// a label to its left, what its logits give with that label's influence.
//
// What a pixel gives is, to the bit, what row.cpp gives: the same sums in the same order, whatever the number of pixels.
// Nothing is allocated; all memory is Row::workspace.
#include "settle.h"

#include "arithmetic.h"
#include "draw.h"
#include "waiting.h"

namespace {

using coltran::Layer;
using coltran::Part;
using coltran::Row;
using coltran::Settle;
using coltran::Stage;
using coltran::Term;
using coltran::round_up;
using coltran::stride_of;

struct Settler {
    const Row &row;
    const float *const influence;
    const int64_t window;
    const int thread, threads;
    int64_t stage = 0;                 // the next
    int64_t image = 0, settled = 0;    // where the pass begins
    int64_t edge = 0, from = 0;        // where the last one ended and began
    const int64_t hidden, wide, ff, labels;  // strides from pixel to pixel
    float *x, *y, *attended, *qkv, *inner, *logits, *caches, *scores, *probabilities, *again;
    int32_t *now, *before;  // [W], what pixels are taken to be, in this pass and the last; pixel j at j
    int32_t *changed;  // of the present pass: how many pixels lie from the first changed one on to the end of the window

    Settler(const Settle &s, int thread, int threads)
        : row(*s.row), influence(s.influence), window(s.window), thread(thread), threads(threads),
          hidden(stride_of(row.hidden)), wide(stride_of(3 * row.hidden)), ff(stride_of(row.ff)), labels(stride_of(row.labels)) {
        float *next = row.workspace + settle_counters(row, threads);
        changed = (int32_t *)(next - round_up(row.batch * row.width, 16));
        auto take = [&next](int64_t count) { return (next += count) - count; };
        x = take(window * hidden), y = take(window * hidden), attended = take(window * hidden);
        qkv = take(window * wide), inner = take(window * ff), logits = take(window * labels);
        caches = take(2 * row.layers * row.width * row.hidden);
        now = (int32_t *)take(round_up(row.width, 16)), before = (int32_t *)take(round_up(row.width, 16));
        take(thread * settle_scratch(row));
        scores = take(round_up(row.width, 16)), probabilities = take(round_up(row.labels, 16));
        again = take(round_up(row.labels, 16));
    }

    // All of `count` pixels, in parts that the threads claim; a part is of consecutive ones.
    template <typename Task>
    void share(int64_t count, Task task) {
        const int64_t parts = count < threads ? count : threads;
        const auto part = [&](int64_t i) { task(coltran::part_of(count, i, parts)); };
        if (threads > 1) {
            Stage *stages = (Stage *)row.workspace;
            int32_t *claimed = (int32_t *)(stages + settle_stages(row)) + stage;
            return take_part(stages[stage++], claimed, settle_stages(row), thread, threads, parts, part);
        }
        part(0);
    }

    // A term of the pass's i-th pixel.
    const float *at(const Term &term, int64_t i) const {
        return term.data ? term.data + image * term.image + (settled + i) * term.pixel : nullptr;
    }

    // Keys (which = 0) or values (1) of one layer: [W, D].
    float *cache(int64_t layer, int which) const {
        return caches + (2 * layer + which) * row.width * row.hidden;
    }

    // y = x W^T + bias for `count` rows of x.
    void dense(const float *from, int64_t from_stride, const void *weights, int64_t depth, const float *bias, float *to,
               int64_t to_stride, int64_t width, int64_t count) const {
        const int64_t step = count == 1 ? 2 * PANEL : PANEL;
        for (int64_t first = 0; first < width; first += step)
            multiply(from, from_stride, weights, row.narrow, first, width - first < step ? width - first : step, depth,
                     bias, to, to_stride, count);
    }

    void keep(int64_t layer, int64_t i) const {
        for (int which = 0; which < 2; ++which)
            memcpy(cache(layer, which) + (settled + i) * row.hidden, qkv + i * wide + (which + 1) * row.hidden,
                   (size_t)row.hidden * sizeof(float));
    }

    // What pixel j is expected to be after so many rounds, from what the last pass drew: see `expect` in reference.py.
    int64_t expected(int64_t j, int rounds) const {
        const int64_t pixel = image * row.width + j, n = row.labels;
        if (!rounds || j < settled || j >= edge || (row.given && row.given[pixel] >= 0)) return row.drawn[pixel];
        int64_t left[coltran::INFLUENCES];
        bool changed = false;
        for (int64_t k = 0; k < coltran::INFLUENCES; ++k) {
            left[k] = j - k > from ? expected(j - k - 1, rounds - 1) : -1;
            changed = changed || (left[k] >= 0 && left[k] != before[j - k - 1]);
        }
        if (!changed) return row.drawn[pixel];
        memcpy(again, logits + (j - from) * labels, (size_t)n * sizeof(float));
        for (int64_t k = 0; k < coltran::INFLUENCES; ++k) {
            if (left[k] < 0) continue;
            const float *more = influence + left[k] * n, *less = influence + before[j - k - 1] * n;
            for (int64_t c = 0; c < n; ++c) again[c] += coltran::INFLUENCE[k] * (more[c] - less[c]);
        }
        memcpy(probabilities, again, (size_t)n * sizeof(float));
        return label_by(row, pixel, again, probabilities, exponentials(probabilities, n, 1.0f));
    }

    int64_t taken(int64_t j) const { return expected(j, influence ? coltran::ROUNDS : 0); }

    // The i-th pixel, behind one that is taken to be `label`.
    void embed(int64_t i, int64_t label) const {
        const int64_t depth = row.hidden, j = settled + i;
        float *to = x + i * hidden, *first = qkv + i * wide;
        memcpy(to, at(row.inputs, i), (size_t)depth * sizeof(float));
        const float *of_row = at(row.first, i);
        if (j == 0) {
            memcpy(first, of_row, (size_t)(3 * depth) * sizeof(float));
        } else {
            condition(to, nullptr, row.embedding + label * depth, depth);
            memcpy(first, row.table + label * 3 * depth, (size_t)(3 * depth) * sizeof(float));
            condition(first, at(row.layer[0].qkv_scale, i), of_row, 3 * depth);
        }
        keep(0, i);
    }

    void attend_row(int64_t index, int64_t i) const {
        const int64_t channels = row.hidden / row.heads, j = settled + i;
        for (int64_t head = 0; head < row.heads; ++head) {
            const int64_t offset = head * channels;
            const float *bias = row.layer[index].bias + head * 2 * row.width + row.width - 1 - j;
            attend(qkv + i * wide + offset, cache(index, 0) + offset, cache(index, 1) + offset, row.hidden, bias,
                   j + 1, channels, scores, attended + i * hidden + offset);
        }
    }

    // One layer for some of the pixels, and what the next stage needs of them.
    void layer(int64_t index, Part part) const {
        const Layer &layer = row.layer[index];
        const int64_t depth = row.hidden, count = part.to - part.from;
        const bool last = index + 1 == row.layers;
        float *px = x + part.from * hidden, *py = y + part.from * hidden, *pinner = inner + part.from * ff;
        for (int64_t i = part.from; i < part.to; ++i) attend_row(index, i);
        dense(attended + part.from * hidden, hidden, layer.out, depth, nullptr, py, hidden, depth, count);
        for (int64_t i = part.from; i < part.to; ++i)
            normalise(x + i * hidden, y + i * hidden, at(layer.norm1_scale, i), at(layer.norm1_shift, i), depth,
                      row.eps);
        dense(px, hidden, layer.ff1, depth, layer.ff1_bias, pinner, ff, row.ff, count);
        for (float *of = pinner; of < pinner + count * ff; of += ff)
            for (int64_t c = 0; c < row.ff; ++c) of[c] = of[c] > 0 ? of[c] : 0;
        dense(pinner, ff, layer.ff2, row.ff, layer.ff2_bias, py, hidden, depth, count);
        for (int64_t i = part.from; i < part.to; ++i) {
            condition(y + i * hidden, at(layer.ff_scale, i), at(layer.ff_shift, i), depth);
            normalise(x + i * hidden, y + i * hidden, at(layer.norm2_scale, i), at(layer.norm2_shift, i), depth,
                      row.eps);
            if (last) normalise(x + i * hidden, nullptr, row.norm_weight, row.norm_bias, depth, row.eps);
        }
        if (!last) {
            const Layer &next = row.layer[index + 1];
            dense(px, hidden, next.qkv, depth, nullptr, qkv + part.from * wide, wide, 3 * depth, count);
            for (int64_t i = part.from; i < part.to; ++i) {
                condition(qkv + i * wide, at(next.qkv_scale, i), at(next.qkv_shift, i), 3 * depth);
                keep(index + 1, i);
            }
            return;
        }
        dense(px, hidden, row.logits, depth, row.logits_bias, logits + part.from * labels, labels, row.labels, count);
        int64_t first = window;
        for (int64_t i = part.from; i < part.to; ++i) {
            draw(row, image, settled + i, logits + i * labels, probabilities);
            if (row.drawn[image * row.width + settled + i] != now[settled + i] && i < first) first = i;
        }
        int32_t most = __atomic_load_n(changed, __ATOMIC_RELAXED);
        while (window - first > most && !__atomic_compare_exchange_n(changed, &most, (int32_t)(window - first), false,
                                                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
    }

    // All images; every thread finds the same numbers.
    void run(const Settle &s) {
        for (image = 0; image < row.batch; ++image) {
            int64_t passes = 0, computed = 0;
            for (settled = edge = 0; settled < row.width; ++passes, ++changed) {
                const int64_t left = row.width - settled, count = left < window ? left : window;
                share(count, [&](Part part) {
                    int64_t label = settled + part.from ? taken(settled + part.from - 1) : 0;
                    for (int64_t i = part.from; i < part.to; ++i) {
                        embed(i, label);
                        label = taken(settled + i);
                        now[settled + i] = (int32_t)label;
                    }
                });
                for (int64_t index = 0; index < row.layers; ++index)
                    share(count, [&](Part part) { layer(index, part); });
                const int64_t first = window - __atomic_load_n(changed, __ATOMIC_RELAXED);
                from = settled, edge = settled + count, computed += count;
                settled += first < count ? first + 1 : count;
                int32_t *const last = before;
                before = now, now = last;
            }
            if (thread == 0) s.passes[image] = passes, s.computed[image] = computed;
        }
    }
};

}  // namespace

namespace coltran::TARGET {

void settle_row(const Settle &s, int thread, int threads) { Settler(s, thread, threads).run(s); }

}  // namespace coltran::TARGET
