// SPDX-License-Identifier: Apache-2.0
// How attention reads its operands, and writes their gradients, one line of one head at a time: float32 or bfloat16 in
// memory, and so in its products, float32 in all else.
#pragma once

#include <type_traits>

#include "native/arithmetic.h"
#include "attention/axial.h"

namespace {

using coltran::Axial;
using coltran::Lines;

// The upper half of a float32.
struct Bfloat16 {
    uint16_t bits;
};

inline float widened(float x) { return x; }

inline float widened(Bfloat16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline void put(float x, float &to) { to = x; }

inline void put(float x, Bfloat16 &to) { to.bits = (uint16_t)rounded(x); }

// What products read at once: a float, or a pair of bfloat16 values. Either takes the room of a float.
template <typename T>
using Input = std::conditional_t<std::is_same_v<T, float>, float, uint32_t>;

// Numbers in one.
template <typename T>
constexpr int64_t NUMBERS = std::is_same_v<T, float> ? 1 : 2;

// How many n numbers make.
template <typename T>
constexpr int64_t inputs_of(int64_t n) {
    return (n + NUMBERS<T> - 1) / NUMBERS<T>;
}

// A row of n numbers, in its place.
template <typename T>
Input<T> *to_inputs(float *row, int64_t n) {
    if constexpr (NUMBERS<T> == 2) to_pairs(row, n, (uint32_t *)row);
    return (Input<T> *)row;
}

// Scores of one query -> unnormalised attention over the first `seen` positions, zeros up to `length`; the sum.
inline float softmax(float *scores, const float *bias, float scale, int64_t seen, int64_t length) {
    if (bias) {
        for (int64_t t = 0; t < seen; ++t) scores[t] = scores[t] * scale + bias[t];
    } else {
        for (int64_t t = 0; t < seen; ++t) scores[t] *= scale;
    }
    const float total = exponentials(scores, seen, 1.0f);
    for (int64_t t = seen; t < length; ++t) scores[t] = 0;
    return total;
}

// One line of one head of a tensor; positions lie `step` elements apart. Null: the tensor is absent.
template <typename T>
struct Line {
    T *data;
    int64_t step;

    Line(const Lines &x, int64_t image, int64_t line, int64_t head)
        : data(x.data ? (T *)x.data + image * x.image + line * x.line + head * x.head : nullptr), step(x.position) {}

    T *at(int64_t position) const { return data ? data + position * step : nullptr; }
};

// A line of the queries, keys or values with what conditions it.
template <typename T>
struct Operand {
    Line<T> x, scale, shift;
    int64_t channels;

    Operand(const Axial &a, const Lines &x, const Lines &scale, const Lines &shift, int64_t image, int64_t line,
            int64_t head)
        : x(x, image, line, head), scale(scale, image, line, head), shift(shift, image, line, head),
          channels(a.channels) {}

    // Channels [from, from + n) of a position, conditioned. Positions lie too far apart for the processor to see where
    // the next will be read, so it is told.
    void read(int64_t position, int64_t from, int64_t n, float *to) const {
        constexpr int64_t AHEAD = 8;
        const T *values = x.at(position) + from;
        __builtin_prefetch(values + AHEAD * x.step);
        for (int64_t i = 0; i < n; ++i) to[i] = widened(values[i]);
        if (scale.data) {
            const T *factors = scale.at(position) + from;
            __builtin_prefetch(factors + AHEAD * scale.step);
            for (int64_t i = 0; i < n; ++i) to[i] *= widened(factors[i]);
        }
        if (shift.data) {
            const T *terms = shift.at(position) + from;
            __builtin_prefetch(terms + AHEAD * shift.step);
            for (int64_t i = 0; i < n; ++i) to[i] += widened(terms[i]);
        }
    }

    // `count` whole positions, rows of `to_step` floats.
    void read_rows(int64_t first, int64_t count, float *to, int64_t to_step) const {
        for (int64_t i = 0; i < count; ++i) read(first + i, 0, channels, to + i * to_step);
    }
};

}  // namespace
