// SPDX-License-Identifier: Apache-2.0
// Attention along one line of one head (ColTran section 3.2). Compiled once for each instruction set.
//
// Both products are tiles of `native/arithmetic.h`, sums in registers: scores of a block of queries with a panel of keys,
//     scores[i, t] = sum over c of q[i, c] keys[t / 32][c][t % 32]
// and, with their exponentials in place of the scores, sums of values
//     out[i, c] = sum over t of p[i, t] values[c / 32][t][c % 32].
// So the keys are turned round and the values laid out once a line, conditioned on the way. A causal line leaves out
// the panels of keys that none of a block's queries sees. Of bfloat16 operands the products take pairs: what was
// conditioned and the exponentials are rounded for them, the sums are float32.
#include "attention/axial_operand.h"

namespace {

using coltran::stride_of;

static_assert(IMAGES <= coltran::QUERIES, "the workspace has room for this many queries");

// Rows [positions, C] -> panels [position / 32][input of C][position % 32], zeros beyond the last position.
template <typename T>
void turn(const Operand<T> &rows, int64_t length, float *scratch, Input<T> *to) {
    const int64_t step = stride_of(rows.channels), inputs = inputs_of<T>(rows.channels);
    for (int64_t first = 0; first < length; first += PANEL, to += inputs * PANEL) {
        const int64_t count = length - first < PANEL ? length - first : PANEL;
        rows.read_rows(first, count, scratch, step);
        for (int64_t t = 0; t < count; ++t) to_inputs<T>(scratch + t * step, rows.channels);
        memset(scratch + count * step, 0, (size_t)((PANEL - count) * step) * sizeof(float));
        const Input<T> *from = (const Input<T> *)scratch;
        for (int64_t c = 0; c < inputs; ++c)
            for (int64_t t = 0; t < PANEL; ++t) to[c * PANEL + t] = from[t * step + c];
    }
}

// Rows [positions, C] -> panels [channel / 32][input of positions][channel % 32], zeros beyond the last of either.
template <typename T>
void lay_out(const Operand<T> &rows, int64_t length, Input<T> *to) {
    for (int64_t first = 0; first < rows.channels; first += PANEL) {
        const int64_t n = rows.channels - first < PANEL ? rows.channels - first : PANEL;
        for (int64_t t = 0; t < length; t += NUMBERS<T>, to += PANEL) {
            float room[NUMBERS<T>][PANEL] = {};
            for (int64_t i = 0; i < NUMBERS<T> && t + i < length; ++i) rows.read(t + i, first, n, room[i]);
            if constexpr (NUMBERS<T> == 2)
                to_pairs_of_rows(room[0], room[1], PANEL, to);
            else
                memcpy(to, room[0], sizeof room[0]);
        }
    }
}

template <typename T>
void attend(const Axial &a, int64_t task, int thread) {
    const int64_t head = task % a.heads, line = task / a.heads % a.lines, image = task / a.heads / a.lines;
    const int64_t positions = stride_of(a.length), channels = stride_of(a.channels);
    Input<T> *keys = (Input<T> *)(a.workspace + thread * coltran::axial_scratch(a));
    Input<T> *values = keys + positions * inputs_of<T>(a.channels);
    float *rows = (float *)(values + channels * inputs_of<T>(a.length)), *scores = rows + PANEL * channels;
    float *sums = scores + coltran::QUERIES * positions;
    const Operand<T> q(a, a.q, a.q_scale, a.q_shift, image, line, head);
    turn(Operand<T>(a, a.k, a.k_scale, a.k_shift, image, line, head), a.length, rows, keys);
    lay_out(Operand<T>(a, a.v, a.v_scale, a.v_shift, image, line, head), a.length, values);
    const Line<T> out(a.out, image, line, head);
    const float *bias = a.bias ? a.bias + head * a.bias_stride + a.length - 1 : nullptr;
    const float scale = 1.0f / sqrtf((float)a.channels);
    const int64_t blocks = (a.length + IMAGES - 1) / IMAGES;
    for (int64_t block = 0; block < blocks; ++block) {
        const auto [from, to] = part_of(a.length, block, blocks);
        const int64_t count = to - from;
        const int64_t length = a.causal ? to : a.length;
        q.read_rows(from, count, rows, channels);
        for (int64_t i = 0; i < count; ++i) to_inputs<T>(rows + i * channels, a.channels);
        const int64_t depth = inputs_of<T>(a.channels);
        for (int64_t t = 0; t < length; t += PANEL)
            tile_of(count, (const Input<T> *)rows, channels, keys + t * depth, depth, nullptr, 0, scores + t,
                    positions);
        float totals[IMAGES];
        for (int64_t i = 0; i < count; ++i)
            totals[i] = softmax(scores + i * positions, bias ? bias - (from + i) : bias, scale,
                                a.causal ? from + i + 1 : a.length, length);
        for (int64_t i = 0; i < count; ++i) to_inputs<T>(scores + i * positions, length);
        for (int64_t c = 0; c < a.channels; c += PANEL)
            tile_of(count, (const Input<T> *)scores, positions, values + c * inputs_of<T>(a.length),
                    inputs_of<T>(length), nullptr, 0, sums + c, channels);
        for (int64_t i = 0; i < count; ++i) {
            T *to = out.at(from + i);
            const float factor = 1.0f / totals[i];
            for (int64_t c = 0; c < a.channels; ++c) put(sums[i * channels + c] * factor, to[c]);
        }
    }
}

}  // namespace

namespace coltran::TARGET {

void attend_line(const Axial &a, int64_t task, int thread) {
    (a.bfloat16 ? attend<Bfloat16> : attend<float>)(a, task, thread);
}

}  // namespace coltran::TARGET
