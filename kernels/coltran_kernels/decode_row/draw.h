// SPDX-License-Identifier: Apache-2.0
// The draw of one label from its logits, as `draw` in decode_row/reference.py specifies it.
#pragma once

#include "native/arithmetic.h"

namespace {

using coltran::Row;

// Sum of the values of p that are above `least`; p has room for round_up(n, 16) values, zeros from n on.
inline float mass_above(const float *p, int64_t n, float least) {
    Vector sums[2] = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const Vector x = load(p + i);
        sums[i / LANES % 2] += x > least ? x : Vector{};
    }
    return sum(sums[0] + sums[1]);
}

// Zeroes all but the most probable labels that together hold `top_p` of probabilities p whose sum is 1.
// A label stays where less than `top_p` lies before it, in the order of falling probability and, among equals, of rising
// label. So all labels stay above the smallest t with mass_above(t) < top_p, none below it, and the first of those that
// equal it. Positive floats are ordered as their bits are: t is found by bisection.
inline void keep_nucleus(float *p, int64_t n, float top_p) {
    int32_t low = -1, high = 0x3F800000;  // mass above `low` is enough, above `high`, 1, it is not
    const auto value = [](int32_t bits) {
        float found;
        memcpy(&found, &bits, sizeof found);
        return found;
    };
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        (mass_above(p, n, value(middle)) >= top_p ? low : high) = middle;
    }
    const float least = value(high);
    double before = mass_above(p, n, least);
    for (int64_t i = 0; i < n; ++i) {
        if (p[i] == least && (float)before < top_p)
            before += least;
        else if (p[i] <= least)
            p[i] = 0;
    }
}

// The first label whose cumulative probability passes `uniform` of the whole; never one of probability 0. p has room for
// round_up(n, 16) values, zeros from n on. Whole vectors are summed at once until the one where it is.
inline int64_t invert(const float *p, int64_t n, float uniform) {
    double total = 0, cumulative = 0;
    for (int64_t i = 0; i < n; i += LANES) total += sum(load(p + i));
    const float threshold = uniform * (float)total;
    int64_t i = 0;
    for (; i + LANES < n; i += LANES) {
        const double next = cumulative + sum(load(p + i));
        if ((float)next > threshold) break;
        cumulative = next;
    }
    for (; i < n; ++i) {
        cumulative += p[i];
        if ((float)cumulative > threshold) return i;
    }
    while (i > 1 && !(p[i - 1] > 0)) --i;  // rounding may pass the end
    return i - 1;
}

inline int64_t first_largest(const float *x, int64_t n) {
    const float most = largest(x, n);
    for (int64_t i = 0; i < n; ++i)
        if (x[i] == most) return i;
    return 0;  // all NaN
}

// The label of one pixel by its logits, of which p holds the exponentials at temperature 1 and `total` their sum.
inline int64_t label_by(const Row &row, int64_t pixel, const float *logits, float *p, float total) {
    const int64_t n = row.labels;
    if (row.argmax) return first_largest(logits, n);
    if (row.temperature != 1.0f) {
        memcpy(p, logits, (size_t)n * sizeof(float));
        total = exponentials(p, n, row.temperature);
    }
    for (int64_t i = 0; i < n; ++i) p[i] /= total;
    for (int64_t i = n; i < coltran::round_up(n, 16); ++i) p[i] = 0;
    if (row.top_p < 1.0f) keep_nucleus(p, n, row.top_p);
    return invert(p, n, row.uniforms[pixel]);
}

// Draws pixel j of one image and reports it; `p` is scratch of 2 round_up(S, 16) values.
inline void draw(const Row &row, int64_t image, int64_t j, const float *logits, float *p) {
    const int64_t n = row.labels, pixel = image * row.width + j;
    memcpy(p, logits, (size_t)n * sizeof(float));
    const float total = exponentials(p, n, 1.0f);
    if (row.probabilities) {
        for (int64_t i = 0; i < n; ++i) row.probabilities[pixel * n + i] = p[i] / total;
    }
    const float *drawn_from = logits;
    float drawn_total = total;
    if (row.guidance) {
        float *guided = p + coltran::round_up(n, 16);
        for (int64_t i = 0; i < n; ++i) guided[i] = logits[i] + row.guidance[pixel * n + i];
        memcpy(p, guided, (size_t)n * sizeof(float));
        drawn_from = guided, drawn_total = exponentials(p, n, 1.0f);
    }
    int64_t label = row.given ? row.given[pixel] : -1;
    if (label < 0) label = label_by(row, pixel, drawn_from, p, drawn_total);
    row.drawn[pixel] = label;
    row.log_prob[pixel] = logits[label] - largest(logits, n) - logf(total);
    if (row.guidance) row.guided_log_prob[pixel] = drawn_from[label] - largest(drawn_from, n) - logf(drawn_total);
}

}  // namespace
