// SPDX-License-Identifier: Apache-2.0
// One row of the inner decoder, pixel by pixel (ColTran section 4.1), as one thread of a team sees it.
//
// Compiled once for each instruction set, with TARGET the name of its namespace. Each line is a stage whose tasks the
// team shares out: the images (norms, draws: a vector an image), panels of a matrix's output columns, or heads:
//
//     x = inputs[j] + embedding[previous label]                      images
//     for each layer:
//         q, k, v = (x Wqkv) * scale + shift; keep k and v           panels; in the first layer a table row, images
//         a = softmax(q k^T / sqrt(C) + bias) v                      images x heads
//         y = a Wout                                                 panels
//         x = norm(x + y)                                            images
//         y = relu(x W1 + b1)                                        panels
//         y = (y W2 + b2) * scale + shift                            panels
//         x = norm(x + y)                                            images
//     logits = norm(x) Wlogits + b                                   panels
//     draw the label                                                 images
//
// Nothing is allocated; all memory is Row::workspace.
#include "native/arithmetic.h"
#include "decode_row/draw.h"
#include "decode_row/waiting.h"

namespace {

using coltran::Column;
using coltran::Layer;
using coltran::PANEL;
using coltran::Part;
using coltran::Row;
using coltran::Stage;
using coltran::Term;
using coltran::round_up;
using coltran::stride_of;

// The buffers that a row's threads share, and one thread's own scratch.
struct Buffers {
    float *x, *y, *attended, *qkv, *inner, *logits, *caches, *scores, *probabilities;
    int64_t wide, hidden, ff, labels;  // strides from image to image

    Buffers(const Row &row, int64_t count, int thread, int threads)
        : wide(stride_of(3 * row.hidden)), hidden(stride_of(row.hidden)), ff(stride_of(row.ff)),
          labels(stride_of(row.labels)) {
        float *next = row.workspace + stages_size(row, threads);
        auto take = [&next](int64_t count) { return (next += count) - count; };
        x = take(count * hidden), y = take(count * hidden), attended = take(count * hidden);
        qkv = take(count * wide), inner = take(count * ff), logits = take(count * labels);
        caches = take(2 * row.layers * count * row.width * row.hidden);
        take(thread * scratch_size(row));
        scores = take(round_up(row.width, 16)), probabilities = take(round_up(row.labels, 16));
    }
};

// One thread at work on `count` images from `base` on; images are counted from there.
struct Worker {
    const Row &row;
    const int64_t base, count;
    const int thread, threads;
    int64_t stage;  // the next
    const Buffers buffers;

    Worker(const Row &row, Part group, int64_t stage, int thread, int threads)
        : row(row), base(group.from), count(group.to - group.from), thread(thread), threads(threads), stage(stage),
          buffers(row, count, thread, threads) {}

    // All tasks of the next stage, together with the other threads.
    template <typename Task>
    void share(int64_t tasks, Task task) {
        if (threads > 1) {
            Stage *stages = (Stage *)row.workspace;
            int32_t *claimed = (int32_t *)(stages + stages_of(row)) + stage;
            return take_part(stages[stage++], claimed, stages_of(row), thread, threads, tasks, task);
        }
        for (int64_t i = 0; i < tasks; ++i) task(i);
    }

    const float *at(const Term &term, int64_t image, int64_t pixel) const {
        return term.data ? term.data + (base + image) * term.image + pixel * term.pixel : nullptr;
    }

    // Keys (which = 0) or values (1) of one image in one layer: [W, D].
    float *cache(int64_t layer, int which, int64_t image) const {
        return buffers.caches + ((2 * layer + which) * count + image) * row.width * row.hidden;
    }

    // y = x W^T + bias; `finish(image, first column, columns)` follows each task.
    template <typename Finish>
    void columns(const float *x, int64_t x_stride, const void *weights, int64_t depth, const float *bias, float *y,
                 int64_t y_stride, int64_t width, Finish finish) {
        const int64_t step = count == 1 ? 2 * PANEL : PANEL;
        share((width + step - 1) / step, [&](int64_t task) {
            const int64_t first = task * step, n = width - first < step ? width - first : step;
            multiply(x, x_stride, weights, row.bfloat16, first, n, depth, bias, y, y_stride, count);
            for (int64_t image = 0; image < count; ++image) finish(image, first, n);
        });
    }

    // Columns [first, first + n) of the conditioned q, k and v of one image; k and v go to the cache.
    void keep(int64_t layer, int64_t j, int64_t image, int64_t first, int64_t n) const {
        const float *qkv = buffers.qkv + image * buffers.wide;
        for (int which = 0; which < 2; ++which) {
            const int64_t start = (which + 1) * row.hidden;
            const int64_t from = first > start ? first : start, end = start + row.hidden;
            const int64_t to = first + n < end ? first + n : end;
            float *kept = cache(layer, which, image) + j * row.hidden;
            if (from < to) memcpy(kept + from - start, qkv + from, (size_t)(to - from) * sizeof(float));
        }
    }

    // x = inputs + embedding, and the first layer's q, k and v, linear in both.
    void embed(int64_t j, int64_t image) const {
        const int64_t hidden = row.hidden;
        float *x = buffers.x + image * buffers.hidden, *qkv = buffers.qkv + image * buffers.wide;
        memcpy(x, at(row.inputs, image, j), (size_t)hidden * sizeof(float));
        const float *first = at(row.first, image, j);
        if (j == 0) {
            memcpy(qkv, first, (size_t)(3 * hidden) * sizeof(float));
        } else {
            const int64_t label = row.drawn[(base + image) * row.width + j - 1];
            condition(x, nullptr, row.embedding + label * hidden, hidden);
            memcpy(qkv, row.table + label * 3 * hidden, (size_t)(3 * hidden) * sizeof(float));
            condition(qkv, at(row.layer[0].qkv_scale, image, j), first, 3 * hidden);
        }
        keep(0, j, image, 0, 3 * hidden);
    }

    void project_qkv(int64_t index, int64_t j) {
        const Layer &layer = row.layer[index];
        columns(buffers.x, buffers.hidden, layer.qkv, row.hidden, nullptr, buffers.qkv, buffers.wide, 3 * row.hidden,
                [&](int64_t image, int64_t first, int64_t n) {
                    const float *scale = at(layer.qkv_scale, image, j), *shift = at(layer.qkv_shift, image, j);
                    condition(buffers.qkv + image * buffers.wide + first, scale ? scale + first : scale,
                              shift ? shift + first : shift, n);
                    keep(index, j, image, first, n);
                });
    }

    void attend_row(int64_t index, int64_t j) {
        const int64_t channels = row.hidden / row.heads;
        share(count * row.heads, [&](int64_t task) {
            const int64_t image = task / row.heads, head = task % row.heads, offset = head * channels;
            const float *bias = row.layer[index].bias + head * 2 * row.width + row.width - 1 - j;
            attend(buffers.qkv + image * buffers.wide + offset, cache(index, 0, image) + offset,
                   cache(index, 1, image) + offset, row.hidden, bias, j + 1, channels, buffers.scores,
                   buffers.attended + image * buffers.hidden + offset);
        });
    }

    void add_norm(const Term &scale, const Term &shift, bool last) {
        share(count, [&](int64_t image) {
            float *x = buffers.x + image * buffers.hidden;
            normalise(x, buffers.y + image * buffers.hidden, at(scale, image, 0), at(shift, image, 0), row.hidden,
                      row.eps);
            if (last) normalise(x, nullptr, row.norm_weight, row.norm_bias, row.hidden, row.eps);
        });
    }

    void feed_forward(const Layer &layer, int64_t j) {
        columns(buffers.x, buffers.hidden, layer.ff1, row.hidden, layer.ff1_bias, buffers.inner, buffers.ff, row.ff,
                [&](int64_t image, int64_t first, int64_t n) {
                    float *y = buffers.inner + image * buffers.ff + first;
                    for (int64_t i = 0; i < n; ++i) y[i] = y[i] > 0 ? y[i] : 0;
                });
        columns(buffers.inner, buffers.ff, layer.ff2, row.ff, layer.ff2_bias, buffers.y, buffers.hidden, row.hidden,
                [&](int64_t image, int64_t first, int64_t n) {
                    const float *scale = at(layer.ff_scale, image, j), *shift = at(layer.ff_shift, image, j);
                    condition(buffers.y + image * buffers.hidden + first, scale ? scale + first : scale,
                              shift ? shift + first : shift, n);
                });
    }

    void decode_layer(int64_t index, int64_t j) {
        const Layer &layer = row.layer[index];
        if (index > 0) project_qkv(index, j);
        attend_row(index, j);
        columns(buffers.attended, buffers.hidden, layer.out, row.hidden, nullptr, buffers.y, buffers.hidden,
                row.hidden, [](int64_t, int64_t, int64_t) {});
        add_norm(layer.norm1_scale, layer.norm1_shift, false);
        feed_forward(layer, j);
        add_norm(layer.norm2_scale, layer.norm2_shift, index + 1 == row.layers);
    }

    // The whole row of these images; returns the stage after its last.
    int64_t run() {
        for (int64_t j = 0; j <= row.width; ++j) {
            share(count, [&](int64_t image) {
                if (j > 0)
                    draw(row, base + image, j - 1, buffers.logits + image * buffers.labels, buffers.probabilities);
                if (j < row.width) embed(j, image);
            });
            if (j == row.width) break;
            for (int64_t index = 0; index < row.layers; ++index) decode_layer(index, j);
            columns(buffers.x, buffers.hidden, row.logits, row.hidden, row.logits_bias, buffers.logits,
                    buffers.labels, row.labels, [](int64_t, int64_t, int64_t) {});
        }
        return stage;
    }
};

}  // namespace

namespace coltran::TARGET {

void decode_row(const Row &row, int thread, int threads) {
    const int64_t groups = groups_of(row);
    int64_t stage = 0;
    for (int64_t group = 0; group < groups; ++group)
        stage = Worker(row, part_of(row.batch, group, groups), stage, thread, threads).run();
}

void attend_columns(const Column &c, int thread, int threads) {
    const int64_t hidden = c.heads * c.channels;
    const Part tasks = part_of(c.batch * c.width, thread, threads);
    for (int64_t task = tasks.from; task < tasks.to; ++task) {
        const auto at = [=](const Term &term) {
            return term.data + task / c.width * term.image + task % c.width * term.pixel;
        };
        for (int64_t head = 0; head < c.heads; ++head) {
            const int64_t offset = head * c.channels, kept = head * c.head;
            attend(at(c.q) + offset, at(c.keys) + kept, at(c.values) + kept, c.step, c.bias + head * c.bias_stride,
                   c.length, c.channels, c.workspace + thread * round_up(c.length, 16),
                   c.out + task * hidden + offset);
        }
    }
}

}  // namespace coltran::TARGET
