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
// out what no pair of a block needs. Of bfloat16 operands the products take pairs, of channels where channels are
// summed over and of rows where positions are: P and dS of two queries lie in one row.
#include "attention/axial_operand.h"

namespace {

using coltran::AxialGradients;
using coltran::QUERIES;
using coltran::stride_of;

// M rows of y = x w, a panel of columns: x[m, k] at x + m * x_row + k * x_column, w's rows `w_row` apart; k counts
// floats or pairs.
template <int M, typename Input>
void strided(const Input *x, int64_t x_row, int64_t x_column, const Input *w, int64_t w_row, int64_t depth, float *y,
             int64_t y_row) {
    Vector sums[M][VECTORS];  // zeros one by one: of `= {}` some compilers make an array in memory first
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < VECTORS; ++v) sums[m][v] = Vector{};
    for (int64_t k = 0; k < depth; ++k, x += x_column, w += w_row) {
        decltype(load(w)) weights[VECTORS];
        for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + v * LANES);
        for (int m = 0; m < M; ++m) {
            const Input input = x[m * x_row];
            for (int v = 0; v < VECTORS; ++v) sums[m][v] = add_product(sums[m][v], weights[v], input);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < VECTORS; ++v) store(y + m * y_row + v * LANES, sums[m][v]);
}

template <int M, typename Input>
void strided_of(int64_t rows, const Input *x, int64_t x_row, int64_t x_column, const Input *w, int64_t w_row,
                int64_t depth, float *y, int64_t y_row) {
    if (rows == M)
        strided<M>(x, x_row, x_column, w, w_row, depth, y, y_row);
    else if constexpr (M > 1)
        strided_of<M - 1>(rows, x, x_row, x_column, w, w_row, depth, y, y_row);
}

// A block of rows, all columns up to the end of the last panel.
template <typename Input>
void product(int64_t rows, const Input *x, int64_t x_row, int64_t x_column, const Input *w, int64_t w_row,
             int64_t depth, int64_t columns, float *y, int64_t y_row) {
    for (int64_t m = 0; m < rows; m += IMAGES)
        for (int64_t n = 0; n < columns; n += PANEL)
            strided_of<IMAGES>(rows - m < IMAGES ? rows - m : IMAGES, x + m * x_row, x_row, x_column, w + n, w_row,
                               depth, y + m * y_row + n, y_row);
}

// Rows [positions, C] -> [C, positions], of floats or pairs.
template <typename Input>
void turn(const Input *rows, int64_t row_step, int64_t length, int64_t channels, Input *to, int64_t to_step) {
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
    const float factor = 1.0f / softmax(s, bias, scale, seen, length);
    for (int64_t t = 0; t < seen; ++t) s[t] *= factor;
    const float mean = dot(s, dp, seen);
    for (int64_t t = 0; t < seen; ++t) dp[t] = s[t] * (dp[t] - mean);
    for (int64_t t = seen; t < length; ++t) dp[t] = 0;
    for (int64_t t = 0; t < seen; ++t) table[t] += dp[t];
}

// Rows of floats -> rows of what products over positions read: themselves, or pairs of two rows in one, which go to
// `pairs`; a row of zeros after the last is a pair's second, where it has no other.
template <typename T>
Input<T> *to_rows(float *rows, int64_t row_step, int64_t count, int64_t n, Input<T> *pairs) {
    if constexpr (NUMBERS<T> == 1) {
        return rows;
    } else {
        if (count % 2) memset(rows + count * row_step, 0, (size_t)row_step * sizeof(float));
        for (int64_t i = 0; i < count; i += 2)
            to_pairs_of_rows(rows + i * row_step, rows + (i + 1) * row_step, n, pairs + i / 2 * row_step);
        return pairs;
    }
}

template <typename T>
void line_of(const AxialGradients &b, int64_t image, int64_t line, int64_t head, float *workspace, float *table) {
    using In = Input<T>;
    constexpr bool PAIRS = NUMBERS<T> == 2;
    constexpr int64_t BLOCK = PAIRS ? QUERIES : IMAGES;  // a pair of queries must not be in two blocks
    const int64_t kept = PAIRS ? QUERIES : b.forward.length;  // of pairs a block's floats, else all queries'
    const Axial &a = b.forward;
    const int64_t length = a.length, channels = a.channels, row = stride_of(channels), wide = stride_of(length);
    const int64_t positions = inputs_of<T>(length), depth = inputs_of<T>(channels);
    float *q = workspace, *k = q + length * row, *v = k + length * row, *g = v + length * row;
    float *p = g + (length + 1) * row, *ds = p + kept * wide, *sums = ds + kept * wide;
    In *keys = (In *)(sums + QUERIES * row), *values = keys + depth * wide, *pairs = values + depth * wide;
    const Operand<T> of_q(a, a.q, a.q_scale, a.q_shift, image, line, head);
    const Operand<T> of_k(a, a.k, a.k_scale, a.k_shift, image, line, head);
    const Operand<T> of_v(a, a.v, a.v_scale, a.v_shift, image, line, head);
    const Operand<T> of_g(a, b.grad, Lines{}, Lines{}, image, line, head);
    const Operand<T> dq(a, b.q, b.q_scale, b.q_shift, image, line, head);
    const Operand<T> dk(a, b.k, b.k_scale, b.k_shift, image, line, head);
    const Operand<T> dv(a, b.v, b.v_scale, b.v_shift, image, line, head);
    // Each as rows of floats first, of which the one after the last is used as well, then as it is multiplied.
    const auto read = [&](const Operand<T> &operand, float *rows, In *room) -> const In * {
        operand.read_rows(0, length, rows, row);
        const In *over_positions = room ? to_rows<T>(rows, row, length, channels, room) : nullptr;
        for (int64_t t = 0; t < length; ++t) to_inputs<T>(rows + t * row, channels);
        return over_positions;
    };
    const In *q_rows = read(of_q, q, pairs), *k_rows = read(of_k, k, pairs + positions * row);
    read(of_v, v, nullptr);
    const In *g_rows = read(of_g, g, pairs + 2 * positions * row);
    turn((const In *)k, row, length, depth, keys, wide), turn((const In *)v, row, length, depth, values, wide);
    In *whole_p = PAIRS ? pairs + 3 * positions * row : (In *)p;
    In *whole_ds = PAIRS ? whole_p + positions * wide : (In *)ds;
    const float *bias = a.bias ? a.bias + head * a.bias_stride + length - 1 : nullptr;
    const float scale = 1.0f / sqrtf((float)channels);
    const int64_t blocks = (length + BLOCK - 1) / BLOCK;
    const auto part = [&](int64_t block) -> coltran::Part {
        const auto [from, to] = part_of(positions, block, blocks);
        return {from * NUMBERS<T>, to == positions ? length : to * NUMBERS<T>};
    };
    for (int64_t block = 0; block < blocks; ++block) {  // of queries
        const auto [from, to] = part(block);
        const int64_t rows = to - from, seen = a.causal ? to : length;
        const int64_t at = PAIRS ? 0 : from * wide;
        float *s = p + at, *dp = ds + at;
        product(rows, (const In *)q + from * row, row, 1, (const In *)keys, wide, depth, seen, s, wide);
        product(rows, (const In *)g + from * row, row, 1, (const In *)values, wide, depth, seen, dp, wide);
        for (int64_t i = 0; i < rows; ++i)
            through_softmax(s + i * wide, dp + i * wide, bias ? bias - (from + i) : bias,
                            table + length - 1 - (from + i), scale, a.causal ? from + i + 1 : length, seen);
        to_rows<T>(s, wide, rows, seen, whole_p + from / NUMBERS<T> * wide);
        to_rows<T>(dp, wide, rows, seen, whole_ds + from / NUMBERS<T> * wide);
        for (int64_t i = 0; i < rows; ++i) to_inputs<T>(dp + i * wide, seen);
        product(rows, (const In *)dp, wide, 1, k_rows, row, inputs_of<T>(seen), channels, sums, row);
        write(of_q, dq, from, rows, sums, row, scale);
    }
    for (int64_t block = 0; block < blocks; ++block) {  // of keys
        const auto [from, to] = part(block);
        const int64_t rows = to - from, first = a.causal ? from / NUMBERS<T> : 0;
        product(rows, whole_ds + first * wide + from, 1, wide, q_rows + first * row, row, positions - first, channels,
                sums, row);
        write(of_k, dk, from, rows, sums, row, scale);
        product(rows, whole_p + first * wide + from, 1, wide, g_rows + first * row, row, positions - first, channels,
                sums, row);
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
        (a.bfloat16 ? line_of<Bfloat16> : line_of<float>)(b, image, line, head, workspace, table);
        for (int64_t t = 0; total && t < entries; ++t) total[t] += table[t];  // lines by themselves: smaller errors
    }
}

}  // namespace coltran::TARGET
