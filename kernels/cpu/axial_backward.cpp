// SPDX-License-Identifier: Apache-2.0
// The gradients of attention along one line of one head. Compiled once for each instruction set.
//
//     dP = g v^T      dS = P (dP - sum over the keys of P dP)      dv = P^T g
//     dq = dS k / sqrt(C)      dk = dS^T q / sqrt(C)      the bias' table: sums of dS along the diagonals
//
// q, k and v here are conditioned ones, x * scale + shift; of dq, say, follow dx = dq * scale, dscale = dq * x and
// dshift = dq. The attention P is computed again, so that nothing is kept between forward and backward.
//
// All five products are tiles whose one side is read number by number, along rows or columns alike, and whose other
// side is read in rows; so of the operands only keys and values are turned round, for S and dP. A causal line leaves
// out what no pair of a block needs.
#include "axial_operand.h"

namespace {

using coltran::AxialGradients;
using coltran::QUERIES;
using coltran::stride_of;

// M rows of y = x w, a panel of columns: x[m, k] at x + m * x_row + k * x_column, w's rows `w_row` apart.
template <int M>
void strided(const float *x, int64_t x_row, int64_t x_column, const float *w, int64_t w_row, int64_t depth, float *y,
             int64_t y_row) {
    Vector sums[M][VECTORS] = {};
    for (int64_t k = 0; k < depth; ++k, x += x_column, w += w_row) {
        Vector weights[VECTORS];
        for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + v * LANES);
        for (int m = 0; m < M; ++m) {
            const float input = x[m * x_row];
            for (int v = 0; v < VECTORS; ++v) sums[m][v] += weights[v] * input;
        }
    }
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < VECTORS; ++v) store(y + m * y_row + v * LANES, sums[m][v]);
}

template <int M = IMAGES>
void strided_of(int64_t rows, const float *x, int64_t x_row, int64_t x_column, const float *w, int64_t w_row,
                int64_t depth, float *y, int64_t y_row) {
    if (rows == M)
        strided<M>(x, x_row, x_column, w, w_row, depth, y, y_row);
    else if constexpr (M > 1)
        strided_of<M - 1>(rows, x, x_row, x_column, w, w_row, depth, y, y_row);
}

// A block of rows, all columns up to the end of the last panel.
void product(int64_t rows, const float *x, int64_t x_row, int64_t x_column, const float *w, int64_t w_row,
             int64_t depth, int64_t columns, float *y, int64_t y_row) {
    for (int64_t n = 0; n < columns; n += PANEL)
        strided_of(rows, x, x_row, x_column, w + n, w_row, depth, y + n, y_row);
}

// Rows [positions, C] -> [C, positions].
void turn(const float *rows, int64_t row_step, int64_t length, int64_t channels, float *to, int64_t to_step) {
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < length; ++t) to[c * to_step + t] = rows[t * row_step + c];
}

// From rows of the gradient of a conditioned operand: its own, its scale's and its shift's.
template <typename T>
void write(const Operand<T> &operand, const Operand<T> &gradients, int64_t first, int64_t count, const float *rows,
           int64_t row_step, float factor) {
    for (int64_t i = 0; i < count; ++i) {
        const float *grad = rows + i * row_step;
        const T *x = operand.x.at(first + i), *scale = operand.scale.at(first + i);
        T *of_x = gradients.x.at(first + i);
        T *of_scale = gradients.scale.at(first + i), *of_shift = gradients.shift.at(first + i);
        if (scale) {
            for (int64_t c = 0; c < operand.channels; ++c) {
                put(grad[c] * factor * widened(scale[c]), of_x[c]);
                put(grad[c] * factor * widened(x[c]), of_scale[c]);
            }
        } else {
            for (int64_t c = 0; c < operand.channels; ++c) put(grad[c] * factor, of_x[c]);
        }
        if (of_shift)
            for (int64_t c = 0; c < operand.channels; ++c) put(grad[c] * factor, of_shift[c]);
    }
}

// Scores s and dP of query `i`, its first `seen` keys -> attention and dS, zeros up to `length`; adds dS to the table.
void through_softmax(float *s, float *dp, const float *bias, float *table, float scale, int64_t seen, int64_t length) {
    if (bias) {
        for (int64_t t = 0; t < seen; ++t) s[t] = s[t] * scale + bias[t];
    } else {
        for (int64_t t = 0; t < seen; ++t) s[t] *= scale;
    }
    const float factor = 1.0f / exponentials(s, seen, 1.0f);
    for (int64_t t = 0; t < seen; ++t) s[t] *= factor;
    const float mean = dot(s, dp, seen);
    for (int64_t t = 0; t < seen; ++t) dp[t] = s[t] * (dp[t] - mean);
    for (int64_t t = seen; t < length; ++t) s[t] = dp[t] = 0;
    for (int64_t t = 0; t < seen; ++t) table[t] += dp[t];
}

template <typename T>
void line_of(const AxialGradients &b, int64_t image, int64_t line, int64_t head, float *workspace, float *table) {
    const Axial &a = b.forward;
    const int64_t length = a.length, channels = a.channels, row = stride_of(channels), wide = stride_of(length);
    float *q = workspace, *k = q + length * row, *v = k + length * row, *g = v + length * row;
    float *keys = g + length * row, *values = keys + channels * wide;
    float *p = values + channels * wide, *ds = p + length * wide, *sums = ds + length * wide;
    const Operand<T> of_q(a, a.q, a.q_scale, a.q_shift, image, line, head);
    const Operand<T> of_k(a, a.k, a.k_scale, a.k_shift, image, line, head);
    const Operand<T> of_v(a, a.v, a.v_scale, a.v_shift, image, line, head);
    const Operand<T> dq(a, b.q, b.q_scale, b.q_shift, image, line, head);
    const Operand<T> dk(a, b.k, b.k_scale, b.k_shift, image, line, head);
    const Operand<T> dv(a, b.v, b.v_scale, b.v_shift, image, line, head);
    of_q.read_rows(0, length, q, row), of_k.read_rows(0, length, k, row), of_v.read_rows(0, length, v, row);
    Operand<T>(a, b.grad, Lines{}, Lines{}, image, line, head).read_rows(0, length, g, row);
    turn(k, row, length, channels, keys, wide), turn(v, row, length, channels, values, wide);
    const float *bias = a.bias ? a.bias + head * a.bias_stride + length - 1 : nullptr;
    const float scale = 1.0f / sqrtf((float)channels);
    const int64_t blocks = (length + IMAGES - 1) / IMAGES;
    for (int64_t block = 0; block < blocks; ++block) {  // of queries
        const auto [from, to] = part_of(length, block, blocks);
        const int64_t rows = to - from, seen = a.causal ? to : length;
        product(rows, q + from * row, row, 1, keys, wide, channels, seen, p + from * wide, wide);
        product(rows, g + from * row, row, 1, values, wide, channels, seen, ds + from * wide, wide);
        for (int64_t i = from; i < to; ++i)
            through_softmax(p + i * wide, ds + i * wide, bias ? bias - i : bias, table + length - 1 - i, scale,
                            a.causal ? i + 1 : length, seen);
        product(rows, ds + from * wide, wide, 1, k, row, seen, channels, sums, row);
        write(of_q, dq, from, rows, sums, row, scale);
    }
    for (int64_t block = 0; block < blocks; ++block) {  // of keys
        const auto [from, to] = part_of(length, block, blocks);
        const int64_t rows = to - from, first = a.causal ? from : 0;
        product(rows, ds + first * wide + from, 1, wide, q + first * row, row, length - first, channels, sums, row);
        write(of_k, dk, from, rows, sums, row, scale);
        product(rows, p + first * wide + from, 1, wide, g + first * row, row, length - first, channels, sums, row);
        write(of_v, dv, from, rows, sums, row, 1.0f);
    }
}

}  // namespace

namespace coltran::TARGET {

void attend_backward(const AxialGradients &b, int64_t task, int thread) {
    const Axial &a = b.forward;
    const int64_t head = task % a.heads, group = task / a.heads % groups_of(a), image = task / a.heads / groups_of(a);
    const int64_t entries = 2 * a.length;
    float *total = b.bias ? b.bias + task * entries : nullptr;
    float *workspace = a.workspace + thread * backward_scratch(a), *table = workspace + backward_scratch(a) - entries;
    if (total) memset(total, 0, (size_t)entries * sizeof(float));
    const int64_t end = (group + 1) * GROUP < a.lines ? (group + 1) * GROUP : a.lines;
    for (int64_t line = group * GROUP; line < end; ++line) {
        memset(table, 0, (size_t)entries * sizeof(float));
        (a.narrow ? line_of<Bfloat16> : line_of<float>)(b, image, line, head, workspace, table);
        for (int64_t t = 0; total && t < entries; ++t) total[t] += table[t];  // lines by themselves: smaller errors
    }
}

}  // namespace coltran::TARGET
