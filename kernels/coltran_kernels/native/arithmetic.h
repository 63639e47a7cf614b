// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one thread, for the instruction set that the including file is compiled for.
//
//     product       y = x W^T + bias, weights in panels of float32 or bfloat16, images blocked in registers
//     attend        softmax(q k^T + bias) v for one query of one head
//     condition     scale and shift
//     normalise     layer norm with scale and shift
//     exponentials  e^x over an array, and their sum
//
// Everything has internal linkage: the linker must never take code compiled for one instruction set for another.
// An output's sum runs over the inputs in order whatever the number of images, so that no image can tell its batch.
#pragma once

#include <math.h>
#include <string.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "decode_row/decode.h"

namespace {

using coltran::PANEL;
using coltran::part_of;

// IMAGES at a time: their sums over a panel, PANEL / LANES vectors each, fill most of the registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, IMAGES = 12;
#elif defined(__AVX2__)
constexpr int LANES = 8, IMAGES = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, IMAGES = 3;
#else
constexpr int LANES = 4, IMAGES = 1;
#endif
constexpr int VECTORS = PANEL / LANES;

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(alignof(float)), may_alias));

typedef uint32_t Bits __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t Pairs __attribute__((vector_size(LANES * sizeof(float)), aligned(alignof(float)), may_alias));

inline Vector load(const float *p) { return *(const Vector *)p; }
inline void store(float *p, Vector v) { *(Vector *)p = v; }

// The sum of N neighbouring floats, halves first.
template <int N>
float sum(const float *p) {
    if constexpr (N == 1) {
        return *p;
    } else {
        typedef float Half __attribute__((vector_size(N / 2 * sizeof(float)), aligned(alignof(float)), may_alias));
        const Half folded = *(const Half *)p + *(const Half *)(p + N / 2);
        return sum<N / 2>((const float *)&folded);
    }
}

inline float sum(Vector v) { return sum<LANES>((const float *)&v); }

// What a product reads of a panel and of an image at once: a float of each, or a pair of neighbouring bfloat16 values,
// the first in the low half. Products of pairs are exact, the second is added first, as the processors' units do.
inline Bits load(const uint32_t *p) { return *(const Pairs *)p; }
inline Vector add_product(Vector sum, Vector weights, float input) { return sum + weights * input; }
inline Vector add_product(Vector sum, Bits weights, uint32_t input) {
#if defined(__AVX512BF16__)
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32((int)input));
#else
    const uint32_t high = 0xffff0000u, first = input << 16, second = input & high;
    float of_first, of_second;
    memcpy(&of_first, &first, sizeof(float)), memcpy(&of_second, &second, sizeof(float));
    return sum + (Vector)(weights & high) * of_second + (Vector)(weights << 16) * of_first;
#endif
}

// The panel's columns for M images: y = start + x W^T, with all sums in registers while the inputs pass once; `depth`
// counts floats or pairs. `start` is one vector for all images, `start_stride` 0, or one each; null means zeros.
template <int M, typename Input>
void tile(const Input *x, int64_t x_stride, const Input *w, int64_t depth, const float *start, int64_t start_stride,
          float *y, int64_t y_stride) {
    Vector sums[M][VECTORS];
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < VECTORS; ++v) sums[m][v] = start ? load(start + m * start_stride + v * LANES) : Vector{};
    for (const Input *end = w + depth * PANEL; w < end; w += PANEL, ++x) {
        decltype(load(w)) weights[VECTORS];
        for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + v * LANES);
        for (int m = 0; m < M; ++m) {
            const Input input = x[m * x_stride];
            for (int v = 0; v < VECTORS; ++v) sums[m][v] = add_product(sums[m][v], weights[v], input);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < VECTORS; ++v) store(y + m * y_stride + v * LANES, sums[m][v]);
}

template <typename Input, int M = IMAGES>
void tile_of(int64_t images, const Input *x, int64_t x_stride, const Input *w, int64_t depth, const float *start,
             int64_t start_stride, float *y, int64_t y_stride) {
    if (images == M)
        tile<M>(x, x_stride, w, depth, start, start_stride, y, y_stride);
    else if constexpr (M > 1)
        tile_of<Input, M - 1>(images, x, x_stride, w, depth, start, start_stride, y, y_stride);
}

// Two panels, `other` floats or pairs apart, for one image, whose sums alone are too few to keep the multipliers busy.
template <typename Input>
void two_tiles(const Input *x, const Input *w, int64_t other, int64_t depth, const float *start, float *y) {
    Vector sums[2][VECTORS];
    for (int p = 0; p < 2; ++p)
        for (int v = 0; v < VECTORS; ++v) sums[p][v] = start ? load(start + p * PANEL + v * LANES) : Vector{};
    for (const Input *end = w + depth * PANEL; w < end; w += PANEL, ++x)
        for (int p = 0; p < 2; ++p)
            for (int v = 0; v < VECTORS; ++v)
                sums[p][v] = add_product(sums[p][v], load(w + p * other + v * LANES), *x);
    for (int p = 0; p < 2; ++p)
        for (int v = 0; v < VECTORS; ++v) store(y + p * PANEL + v * LANES, sums[p][v]);
}

// Inputs at a time where several blocks of images read them: their part of a panel, 16 KB, is read again from the
// first-level cache.
constexpr int64_t DEPTH = 128;

// One panel of y = x W^T + bias for all images, in blocks of nearly equal size.
inline void product(const float *x, int64_t x_stride, const float *panel, int64_t depth, const float *bias, float *y,
                    int64_t y_stride, int64_t images) {
    const int64_t blocks = (images + IMAGES - 1) / IMAGES, step = blocks > 1 ? DEPTH : depth;
    for (int64_t k = 0; k < depth; k += step) {
        const int64_t part = depth - k < step ? depth - k : step;
        for (int64_t block = 0; block < blocks; ++block) {
            const auto [from, to_image] = part_of(images, block, blocks);
            const int64_t count = to_image - from;
            float *to = y + from * y_stride;
            tile_of(count, x + from * x_stride + k, x_stride, panel + k * PANEL, part, k ? to : bias,
                    k ? y_stride : 0, to, y_stride);
        }
    }
}

inline void two_products(const float *x, const float *panel, int64_t depth, const float *bias, float *y) {
    two_tiles(x, panel, depth * PANEL, depth, bias, y);
}

// Its bfloat16 in the low half: to nearest, ties to even; what is not a number stays so.
inline uint32_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    return number ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : bits >> 16 | 0x40u;
}

// n floats rounded to bfloat16: pairs of neighbours, up to the end of the last vector, filled with zeros. `pairs` may
// be where x is.
inline void to_pairs(const float *x, int64_t n, uint32_t *pairs) {
    constexpr int64_t STEP = 2 * LANES;
    float filled[STEP];
    const int64_t whole = n / STEP * STEP, rest = n - whole;
    memcpy(filled, x + whole, (size_t)rest * sizeof(float));
    memset(filled + rest, 0, (size_t)(STEP - rest) * sizeof(float));
    for (int64_t i = 0; i < n; i += STEP) {
        const float *from = i < whole ? x + i : filled;
#if defined(__AVX512BF16__)
        store((float *)(pairs + i / 2), (Vector)_mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from)));
#else
        float both[STEP];
        memcpy(both, from, sizeof both);
        for (int64_t j = 0; j < STEP; j += 2) pairs[(i + j) / 2] = rounded(both[j]) | rounded(both[j + 1]) << 16;
#endif
    }
}

// Pairs of a number of `first` and the one of `second` below it, up to the end of the last vector.
inline void to_pairs_of_rows(const float *first, const float *second, int64_t n, uint32_t *pairs) {
#if defined(__AVX512BF16__)
    alignas(64) uint16_t order[2 * LANES];
    for (int i = 0; i < LANES; ++i) order[2 * i] = (uint16_t)i, order[2 * i + 1] = (uint16_t)(LANES + i);
    const __m512i mixed = _mm512_load_si512(order);
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512bh both = _mm512_cvtne2ps_pbh((__m512)load(second + i), (__m512)load(first + i));
        store((float *)(pairs + i), (Vector)_mm512_permutexvar_epi16(mixed, (__m512i)both));
    }
#else
    for (int64_t i = 0; i < n; ++i) pairs[i] = rounded(first[i]) | rounded(second[i]) << 16;
#endif
}

// The same two for panels of pairs, [ceil(K / 2)][PANEL][2]: the inputs are rounded DEPTH at a time.
inline void product(const float *x, int64_t x_stride, const uint32_t *panel, int64_t depth, const float *bias,
                    float *y, int64_t y_stride, int64_t images) {
    const int64_t blocks = (images + IMAGES - 1) / IMAGES;
    uint32_t pairs[IMAGES * DEPTH / 2];
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t part = depth - k < DEPTH ? depth - k : DEPTH;
        for (int64_t block = 0; block < blocks; ++block) {
            const auto [from, to_image] = part_of(images, block, blocks);
            const int64_t count = to_image - from;
            float *to = y + from * y_stride;
            for (int64_t m = 0; m < count; ++m) to_pairs(x + (from + m) * x_stride + k, part, pairs + m * DEPTH / 2);
            tile_of(count, (const uint32_t *)pairs, DEPTH / 2, panel + k / 2 * PANEL, (part + 1) / 2, k ? to : bias,
                    k ? y_stride : 0, to, y_stride);
        }
    }
}

inline void two_products(const float *x, const uint32_t *panel, int64_t depth, const float *bias, float *y) {
    uint32_t pairs[DEPTH / 2];
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t part = depth - k < DEPTH ? depth - k : DEPTH;
        to_pairs(x + k, part, pairs);
        two_tiles((const uint32_t *)pairs, panel + k / 2 * PANEL, (depth + 1) / 2 * PANEL, (part + 1) / 2,
                  k ? y : bias, y);
    }
}

// Columns [first, first + n) of y = x W^T + bias: a panel, or two of a single image. `bfloat16`: the weights are pairs.
inline void multiply(const float *x, int64_t x_stride, const void *weights, bool bfloat16, int64_t first, int64_t n,
                     int64_t depth, const float *bias, float *y, int64_t y_stride, int64_t images) {
    const float *start = bias ? bias + first : bias;
    const auto multiply_with = [&](const auto *panel) {
        if (n > PANEL)
            two_products(x, panel, depth, start, y + first);
        else
            product(x, x_stride, panel, depth, start, y + first, y_stride, images);
    };
    if (bfloat16)
        multiply_with((const uint32_t *)weights + first * ((depth + 1) / 2));
    else
        multiply_with((const float *)weights + first * depth);
}

// e^x for x <= 0, to 2 units in the last place; 0 below -87, where the result would not be a normal number.
inline Vector exp_of(Vector x) {
    const Vector lowest = Vector{} - 87.0f, clamped = x < lowest ? lowest : x;
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const Vector shifted = clamped * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    const Vector r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vector p = Vector{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Vector power = (Vector)(((Bits)shifted + 127) << 23);
    return x < lowest ? Vector{} : p * power;
}

inline float largest(const float *x, int64_t n) {
    float most = x[0];
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
    return most;
}

// x becomes e^((x - max) / temperature), and zeros up to the end of the last vector, for which it has room; returns the
// sum.
inline float exponentials(float *x, int64_t n, float temperature) {
    for (int64_t i = n; i % LANES; ++i) x[i] = -INFINITY;
    const float most = largest(x, n);
    Vector total{};
    for (int64_t i = 0; i < n; i += LANES) {
        const Vector below = load(x + i) - most, power = exp_of(temperature == 1.0f ? below : below / temperature);
        store(x + i, power);
        total += power;
    }
    return sum(total);
}

inline float dot(const float *a, const float *b, int64_t n) {
    Vector sums[2] = {};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        sums[0] += load(a + i) * load(b + i);
        sums[1] += load(a + i + LANES) * load(b + i + LANES);
    }
    if (i + LANES <= n) sums[0] += load(a + i) * load(b + i), i += LANES;
    float total = sum(sums[0] + sums[1]);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

// out[c] = sum over t of p[t] v[t, c], for the WIDTH = NV * LANES channels from c on.
template <int NV>
void weigh(const float *p, const float *v, int64_t v_stride, int64_t length, float scale, float *out) {
    Vector sums[NV] = {};
    for (int64_t t = 0; t < length; ++t)
        for (int i = 0; i < NV; ++i) sums[i] += load(v + t * v_stride + i * LANES) * p[t];
    for (int i = 0; i < NV; ++i) store(out + i * LANES, sums[i] * scale);
}

// One query of one head over `length` keys and values, rows of `stride` floats. The scores take `length` floats.
inline void attend(const float *q, const float *keys, const float *values, int64_t stride, const float *bias,
                   int64_t length, int64_t channels, float *scores, float *out) {
    const float scale = 1.0f / sqrtf((float)channels);
    for (int64_t t = 0; t < length; ++t) scores[t] = dot(q, keys + t * stride, channels) * scale + bias[t];
    const float total = exponentials(scores, length, 1.0f);
    int64_t c = 0;
    for (; c + 4 * LANES <= channels; c += 4 * LANES)
        weigh<4>(scores, values + c, stride, length, 1.0f / total, out + c);
    for (; c + LANES <= channels; c += LANES) weigh<1>(scores, values + c, stride, length, 1.0f / total, out + c);
    for (; c < channels; ++c) {
        float one = 0;
        for (int64_t t = 0; t < length; ++t) one += scores[t] * values[t * stride + c];
        out[c] = one / total;
    }
}

// y = y * scale + shift over n channels; scale and shift may be null.
inline void condition(float *y, const float *scale, const float *shift, int64_t n) {
    if (scale && shift) {
        for (int64_t i = 0; i < n; ++i) y[i] = y[i] * scale[i] + shift[i];
    } else if (scale) {
        for (int64_t i = 0; i < n; ++i) y[i] *= scale[i];
    } else if (shift) {
        for (int64_t i = 0; i < n; ++i) y[i] += shift[i];
    }
}

// x = normalise(x + y) * scale + shift with the biased variance; y may be null.
inline void normalise(float *x, const float *y, const float *scale, const float *shift, int64_t n, float eps) {
    if (y) {
        for (int64_t i = 0; i < n; ++i) x[i] += y[i];
    }
    float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) total += x[i];
    const float mean = total / (float)n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / sqrtf(squares / (float)n + eps);
    for (int64_t i = 0; i < n; ++i) x[i] = (x[i] - mean) * factor * scale[i] + shift[i];
}

}  // namespace
