// SPDX-License-Identifier: Apache-2.0
// The draw of one label from its logits, as `draw` in reference.py specifies it.
#pragma once

#include "arithmetic.h"

namespace {

using coltran::Row;

// The heap's order: the more probable label first, the smaller label where two are equally probable.
inline bool before(const float *p, int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

inline void sift_down(int32_t *heap, int64_t n, int64_t i, const float *p) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, heap[child + 1], heap[child])) ++child;
        if (!before(p, heap[child], heap[i])) return;
        const int32_t kept = heap[i];
        heap[i] = heap[child], heap[child] = kept;
    }
}

// Zeroes all but the most probable labels that together hold `top_p` of probabilities p whose sum is 1.
// A heap, since few labels hold most of it: they leave it in order of probability until enough is there.
inline void keep_nucleus(float *p, int64_t n, float top_p, int32_t *heap) {
    for (int64_t i = 0; i < n; ++i) heap[i] = (int32_t)i;
    for (int64_t i = n / 2; i-- > 0;) sift_down(heap, n, i, p);
    double mass = 0;
    int64_t left = n;
    for (; left > 0; --left) {
        const float most = p[heap[0]];
        mass += most;
        if ((float)mass - most >= top_p) break;
        heap[0] = heap[left - 1];
        sift_down(heap, left - 1, 0, p);
    }
    for (int64_t i = 0; i < left; ++i) p[heap[i]] = 0;
}

// The first label whose cumulative probability passes `uniform` of the whole; never one of probability 0.
inline int64_t invert(const float *p, int64_t n, float uniform) {
    double total = 0, cumulative = 0;
    for (int64_t i = 0; i < n; ++i) total += p[i];
    const float threshold = uniform * (float)total;
    int64_t last = 0;
    for (int64_t i = 0; i < n; ++i) {
        cumulative += p[i];
        if (p[i] > 0) last = i;
        if ((float)cumulative > threshold) return i;
    }
    return last;
}

inline int64_t first_largest(const float *x, int64_t n) {
    const float most = largest(x, n);
    for (int64_t i = 0; i < n; ++i)
        if (x[i] == most) return i;
    return 0;  // all NaN
}

// Draws pixel j of one image and reports it; `p` and `heap` are S values of scratch each.
inline void draw(const Row &row, int64_t image, int64_t j, const float *logits, float *p, int32_t *heap) {
    const int64_t n = row.labels, pixel = image * row.width + j;
    const size_t size = (size_t)n * sizeof(float);
    memcpy(p, logits, size);
    const float total = exponentials(p, n, 1.0f);
    if (row.probabilities) {
        for (int64_t i = 0; i < n; ++i) row.probabilities[pixel * n + i] = p[i] / total;
    }
    int64_t label = row.given ? row.given[pixel] : -1;
    if (label < 0 && row.argmax) label = first_largest(logits, n);
    if (label < 0) {
        float sum = total;
        if (row.temperature != 1.0f) {
            memcpy(p, logits, size);
            sum = exponentials(p, n, row.temperature);
        }
        for (int64_t i = 0; i < n; ++i) p[i] /= sum;
        if (row.top_p < 1.0f) keep_nucleus(p, n, row.top_p, heap);
        label = invert(p, n, row.uniforms[pixel]);
    }
    row.drawn[pixel] = label;
    row.log_prob[pixel] = logits[label] - largest(logits, n) - logf(total);
}

}  // namespace
