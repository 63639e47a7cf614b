// SPDX-License-Identifier: Apache-2.0
// What a row by fixed point is given, shared by the code for each instruction set and the C interface.
#pragma once

#include "decode.h"

namespace coltran {

// As in types.py.
static constexpr float INFLUENCE[] = {0.4f, 0.15f};
static constexpr int64_t INFLUENCES = 2;
static constexpr int ROUNDS = 2;

// Mirrored in structures.py. `row->drawn` holds the guess, and then the labels.
struct Settle {
    const Row *row;
    int64_t window;
    const float *influence;  // [S, S] or null
    int64_t *passes, *computed;  // [B]
};

// Of each thread, beside what a draw needs: logits of a pixel that is drawn again.
static constexpr int64_t settle_scratch(const Row &r) { return scratch_size(r) + round_up(r.labels, 16); }

// The buffers of one image: activations of `window` pixels, keys and values of the row, what it is taken to be.
static constexpr int64_t settle_buffers(const Row &r, int64_t window) {
    return window * (3 * stride_of(r.hidden) + stride_of(3 * r.hidden) + stride_of(r.ff) + stride_of(r.labels)) +
           2 * r.layers * r.width * r.hidden + 2 * round_up(r.width, 16);
}

// A pass embeds, and goes through each layer, in one stage each.
static constexpr int64_t settle_stages(const Row &r) { return r.batch * r.width * (r.layers + 1); }

// Zero before the team starts: stages, for each thread the number of its tasks that are claimed, and what each pass
// changed. A thread may be late to learn of a pass, so no counter is used twice.
static constexpr int64_t settle_counters(const Row &r, int64_t threads) {
    return settle_stages(r) * (int64_t)(sizeof(Stage) / sizeof(float)) + round_up(threads * settle_stages(r), 16) +
           round_up(r.batch * r.width, 16);
}

static constexpr int64_t settle_workspace(const Settle &s, int64_t threads) {
    return settle_counters(*s.row, threads) + settle_buffers(*s.row, s.window) + threads * settle_scratch(*s.row);
}

// One thread's part of a row: every thread of the team calls it once.
using SettleRow = void (*)(const Settle &, int thread, int threads);

namespace plain {
void settle_row(const Settle &, int thread, int threads);
}
namespace avx2 {
void settle_row(const Settle &, int thread, int threads);
}
namespace avx512 {
void settle_row(const Settle &, int thread, int threads);
}
namespace avx512bf16 {
void settle_row(const Settle &, int thread, int threads);
}

}  // namespace coltran
