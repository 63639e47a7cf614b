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
    float *workspace;  // round_up(rows, PANEL) * depth floats, on a cache line
};

// A panel of rows is arranged by one task; the product begins when all are.
static constexpr int64_t panels_of(const Linear &l) { return (l.rows + PANEL - 1) / PANEL; }

// A task is CHUNK outputs, enough that claiming it costs nothing and few enough that a row of pixels occupies some
// threads, for as many panels as stay in the second-level cache while the weights pass.
constexpr int64_t CHUNK = 48, PANELS = 8;
static constexpr int64_t chunks_of(const Linear &l) { return (l.outputs + CHUNK - 1) / CHUNK; }
static constexpr int64_t tasks_of(const Linear &l) { return (panels_of(l) + PANELS - 1) / PANELS * chunks_of(l); }

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
