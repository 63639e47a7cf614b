// SPDX-License-Identifier: Apache-2.0
// Attention along lines, shared by the code for each instruction set and the C interface.
#pragma once

#include "decode_row/decode.h"

namespace coltran {

// A tensor [B, lines, L, h, C] with contiguous C; the strides count elements.
struct Lines {
    void *data;  // null: absent
    int64_t image, line, position, head;
};

// softmax((q k^T) / sqrt(C) + bias) v along every line of every head, each of q, k and v conditioned first:
// x * scale + shift. Mirrored in native/structures.py.
struct Axial {
    int64_t batch, lines, length, heads, channels;
    Lines q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift, out;
    const float *bias;  // [h, 2L], each head's `bias_stride` floats from the one before; or null
    int64_t bias_stride;
    int64_t causal;    // nonzero: a query sees positions up to its own
    int64_t bfloat16;    // nonzero: elements are bfloat16, else float32; the bias is float32
    float *workspace;  // threads * axial_scratch(axial) floats, on a cache line; backward_scratch for the gradients
};

// What follows from `grad`, the gradient of the output: those of the operands, of which the same are present.
struct AxialGradients {
    Axial forward;  // its `out` is not used
    Lines grad, q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift;
    float *bias;  // [B, groups, h, 2L], to be summed over images and groups of lines; or null
};

// A task is one line of one head.
static constexpr int64_t tasks_of(const Axial &a) { return a.batch * a.lines * a.heads; }

// Queries together, at most, on any processor.
constexpr int64_t QUERIES = 12;

// One thread's: keys and values in panels, a panel of rows as they were, and for a block of queries the scores and
// the sums of values.
static constexpr int64_t axial_scratch(const Axial &a) {
    const int64_t positions = stride_of(a.length), channels = stride_of(a.channels);
    return positions * a.channels + channels * a.length + PANEL * channels + QUERIES * (positions + channels);
}

// Lines of one image and head whose gradients of the bias are summed up by one task, in their order, so that the number
// of threads changes nothing.
constexpr int64_t GROUP = 8;

static constexpr int64_t groups_of(const Axial &a) { return (a.lines + GROUP - 1) / GROUP; }

// One thread's: queries, keys, values and gradients of the output in rows, keys and values turned round, attention and
// its gradient, the sums of a block, and the gradient of the bias' table. Of bfloat16 operands also rows in pairs.
static constexpr int64_t backward_scratch(const Axial &a) {
    const int64_t positions = stride_of(a.length), channels = stride_of(a.channels);
    const int64_t rows = (4 * a.length + 1 + QUERIES) * channels, turned = 2 * a.channels * positions;
    const int64_t squares = 2 * positions * (a.bfloat16 ? QUERIES : a.length);
    const int64_t pairs = a.bfloat16 ? (3 * channels + 2 * positions) * ((a.length + 1) / 2) : 0;
    return rows + turned + squares + pairs + round_up(2 * a.length, 16);
}

using AttendLine = void (*)(const Axial &, int64_t task, int thread);
using AttendBackward = void (*)(const AxialGradients &, int64_t task, int thread);

namespace plain {
void attend_line(const Axial &, int64_t task, int thread);
void attend_backward(const AxialGradients &, int64_t task, int thread);
}  // namespace plain
namespace avx2 {
void attend_line(const Axial &, int64_t task, int thread);
void attend_backward(const AxialGradients &, int64_t task, int thread);
}  // namespace avx2
namespace avx512 {
void attend_line(const Axial &, int64_t task, int thread);
void attend_backward(const AxialGradients &, int64_t task, int thread);
}  // namespace avx512
namespace avx512bf16 {
void attend_line(const Axial &, int64_t task, int thread);
void attend_backward(const AxialGradients &, int64_t task, int thread);
}  // namespace avx512bf16

}  // namespace coltran
