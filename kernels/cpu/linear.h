// SPDX-License-Identifier: Apache-2.0
// The product of a dense layer, shared by the code for each instruction set and the C interface.
#pragma once

#include "decode.h"

namespace coltran {

// y = x W^T + bias. Mirrored in structures.py.
struct Linear {
    int64_t rows, outputs, depth;
    const float *x;  // [rows, depth], rows `x_stride` floats apart
    int64_t x_stride;
    const float *weight;  // [outputs, depth], rows `weight_stride` floats apart
    int64_t weight_stride;
    const float *bias;  // [outputs] or null
    float *y;           // [rows, outputs], rows `y_stride` floats apart
    int64_t y_stride;
    int64_t relu;      // nonzero: y = relu(x W^T + bias)
    float *workspace;  // round_up(rows in a pass, PANEL) * depth floats, on a cache line
};

// Rows that are multiplied before the next are arranged, in the same place: one that stays in the cache.
constexpr int64_t PASS = 1024;

static inline Linear pass_of(const Linear &l, int64_t first) {
    Linear part = l;
    part.rows = l.rows - first < PASS ? l.rows - first : PASS;
    part.x += first * l.x_stride, part.y += first * l.y_stride;
    return part;
}

// A panel of rows is arranged by one task; the product begins when all are.
static constexpr int64_t panels_of(const Linear &l) { return (l.rows + PANEL - 1) / PANEL; }

// A task is CHUNK outputs, enough that claiming it costs nothing and few enough that a row of pixels occupies some
// threads, for as many panels, up to PANELS, as stay in the second-level cache, 512 KB, while the weights pass.
constexpr int64_t CHUNK = 24, PANELS = 8;
static constexpr int64_t together(const Linear &l) {
    const int64_t fit = (1 << 17) / (PANEL * l.depth);
    return fit < 1 ? 1 : fit < PANELS ? fit : PANELS;
}
static constexpr int64_t chunks_of(const Linear &l) { return (l.outputs + CHUNK - 1) / CHUNK; }
static constexpr int64_t tasks_of(const Linear &l) {
    return (panels_of(l) + together(l) - 1) / together(l) * chunks_of(l);
}

using ArrangeRows = void (*)(const Linear &, int64_t panel);
using Multiply = void (*)(const Linear &, int64_t task);

namespace plain {
void arrange_rows(const Linear &, int64_t panel);
void multiply(const Linear &, int64_t task);
}  // namespace plain
namespace avx2 {
void arrange_rows(const Linear &, int64_t panel);
void multiply(const Linear &, int64_t task);
}  // namespace avx2
namespace avx512 {
void arrange_rows(const Linear &, int64_t panel);
void multiply(const Linear &, int64_t task);
}  // namespace avx512

}  // namespace coltran
