// SPDX-License-Identifier: Apache-2.0
// What the row decoder is given, shared by the code for each instruction set, the C interface and the sanitizer test.
//
// Sizes: B images, W pixels a row, D hidden size, F feed-forward size, h heads of C = D / h channels, S labels.
// Every struct is mirrored in native/structures.py; coltran_sizes() lets the loader check that both agree.
#pragma once

#include <stdint.h>
#include <string.h>

namespace coltran {

// Matrices are packed in panels of PANEL output columns, [ceil(N / PANEL)][K][PANEL], the last one filled with zeros,
// so that a product reads its weights once, in order. Biases are filled up to the same width. In bfloat16 two neighbouring
// inputs lie together, [ceil(N / PANEL)][ceil(K / 2)][PANEL][2].
constexpr int64_t PANEL = 32;

// A float tensor [B, W, N] with contiguous N; the strides of the others count floats and may be 0.
struct Term {
    const float *data;  // null: conditions nothing
    int64_t image, pixel;
};

struct Layer {
    const void *qkv;                // packed [D -> 3D]; unused in the first layer, whose products are in Row
    const void *out;                // packed [D -> D]
    const void *ff1, *ff2;          // packed [D -> F], [F -> D]
    const float *ff1_bias;          // [F]
    const float *ff2_bias;          // [D]
    const float *bias;              // [h, 2W]
    Term qkv_scale, qkv_shift;      // [B, W, 3D]; the first layer's shift is already in Row::first
    Term ff_scale, ff_shift;        // [B, W, D]
    Term norm1_scale, norm1_shift;  // [B, D] or [D]
    Term norm2_scale, norm2_shift;
};

struct Row {
    int64_t batch, width, hidden, ff, heads, labels, layers;
    const Layer *layer;
    Term inputs;             // [B, W, D]
    Term first;              // [B, W, 3D], the first layer's conditioned products with `inputs`
    const float *embedding;  // [S, D]
    const float *table;      // [S, 3D], the first layer's products with `embedding`
    const float *norm_weight, *norm_bias;
    const void *logits;  // packed [D -> S]
    const float *logits_bias;           // [S]
    const float *uniforms;              // [B, W]
    const int64_t *given;               // [B, W], negative where the pixel is to be drawn; or null
    const float *guidance;              // [B, W, S], added to the logits that are drawn from; or null
    int64_t argmax;                     // nonzero: take the most probable label
    int64_t bfloat16;                     // nonzero: what is packed is bfloat16, and so are the inputs of its products
    float temperature, top_p, eps, unused;
    int64_t *drawn;        // [B, W]
    float *log_prob;       // [B, W], of the plain logits
    float *guided_log_prob;  // [B, W], of those with the guidance; null without any
    float *probabilities;  // [B, W, S] or null
    float *workspace;      // workspace_size(row, threads) floats
};

// Attention of one new row over the cached rows of its columns.
struct Column {
    int64_t batch, width, heads, channels, length;
    Term q;             // [B, W, h C]
    Term keys, values;  // [B, W, h, C] of the first of `length` rows; the heads lie `head` floats apart, the rows `step`
    int64_t head, step;
    const float *bias;  // [h, length], each head's `bias_stride` floats from the one before
    int64_t bias_stride;
    float *out;        // [B, W, h C]
    float *workspace;  // threads * round_up(length, 16) floats
};

static constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Part {
    int64_t from, to;
};

// The i-th of `parts` nearly equal parts of 0 .. n - 1.
static constexpr Part part_of(int64_t n, int64_t i, int64_t parts) { return {n * i / parts, n * (i + 1) / parts}; }

// Rows of activations: filled up to whole panels, plus a cache line so that rows do not fall on the same cache sets.
static constexpr int64_t stride_of(int64_t columns) { return round_up(columns, PANEL) + 16; }

// Images decoded together: few enough that their keys and values stay in the last-level cache beside the weights,
// enough that a product is bound by arithmetic.
constexpr int64_t TOGETHER = 8;

static constexpr int64_t groups_of(const Row &r) { return (r.batch + TOGETHER - 1) / TOGETHER; }

static constexpr int64_t scratch_size(const Row &r) { return round_up(r.width, 16) + 2 * round_up(r.labels, 16); }

// One step that the team takes together: how many of its tasks are done, and who sleeps until all are.
struct alignas(64) Stage {
    int32_t done, sleepers;
};

// For each pixel of each group: its layers of at most seven stages, the logits, the draw with the next embedding.
static constexpr int64_t stages_of(const Row &r) { return groups_of(r) * (r.width * (7 * r.layers + 1) + 1); }

// Floats that the stages take, and for each thread and stage the number of its tasks that are claimed, an int32.
static constexpr int64_t stages_size(const Row &r, int64_t threads) {
    return stages_of(r) * (int64_t)(sizeof(Stage) / sizeof(float)) + round_up(threads * stages_of(r), 16);
}

static constexpr int64_t workspace_size(const Row &r, int64_t threads) {
    int64_t activations = 3 * stride_of(r.hidden) + stride_of(3 * r.hidden) + stride_of(r.ff) + stride_of(r.labels);
    int64_t caches = 2 * r.layers * r.width * r.hidden;
    int64_t images = r.batch < TOGETHER ? r.batch : TOGETHER;
    return stages_size(r, threads) + images * (activations + caches) + threads * scratch_size(r);
}

// To be called before the team starts: nothing is claimed yet. The workspace lies on a cache line.
static inline void start(const Row &r, int64_t threads) {
    memset(r.workspace, 0, (size_t)stages_size(r, threads) * sizeof(float));
}

// One thread's part of a row: every thread of the team calls it once.
using DecodeRow = void (*)(const Row &row, int thread, int threads);
using AttendColumns = void (*)(const Column &column, int thread, int threads);

#define OF_TARGET(name)                                             \
    namespace name {                                                \
    void decode_row(const Row &, int thread, int threads);          \
    void attend_columns(const Column &, int thread, int threads);   \
    }
OF_TARGET(plain) OF_TARGET(avx2) OF_TARGET(avx512) OF_TARGET(avx512bf16)
#undef OF_TARGET

}  // namespace coltran
