// SPDX-License-Identifier: Apache-2.0
// y = x W^T + bias with the weights where torch keeps them. Compiled once for each instruction set.
//
// A tile is a few outputs of a panel of rows of x, its sums in registers while the inputs pass once: for each input a
// vector load or two, and one number for each output that the processor spreads over a vector by itself. So it is the
// rows of x that are rearranged, [panel][input][row], and a weight is read once a panel, in place. That serves a row of
// pixels and large weights as well as many rows: nothing has to be kept from one call to the next.
//
// An output's sum runs over the inputs in order whatever the number of rows, so that no image can tell its batch.
#include "linear.h"

#include "arithmetic.h"

namespace {

using coltran::CHUNK;
using coltran::Linear;
using coltran::PANELS;

// Inputs at a time: those of a tile's weights, 24 KB, stay in the first-level cache for all panels.
constexpr int64_t DEPTH = 512;

// How many of n numbers there are from `first` on, at most `most`.
int64_t there(int64_t n, int64_t first, int64_t most) { return n - first < most ? n - first : most; }

// Sums [output][row] -> y [row, output], for the rows of one panel and a tile of outputs. RELU is known to the
// compiler, or this takes a quarter of the time of the product.
template <bool RELU>
void finish(const Linear &l, const float *sums, int64_t row, int64_t output, int64_t outputs) {
    float start[IMAGES] = {};
    for (int64_t n = 0; l.bias && n < outputs; ++n) start[n] = l.bias[output + n];
    const int64_t rows = there(l.rows, row, PANEL);
    for (int64_t m = 0; m < rows; ++m) {
        float *y = l.y + (row + m) * l.y_stride + output;
        for (int64_t n = 0; n < outputs; ++n) {
            float value = sums[n * PANEL + m] + start[n];
            if constexpr (RELU) value = value < 0 ? 0 : value;  // what is not a number stays so, as in torch
            y[n] = value;
        }
    }
}

template <bool RELU>
void multiply(const Linear &l, int64_t task) {
    const int64_t chunks = chunks_of(l), first_panel = task / chunks * together(l), first = task % chunks * CHUNK;
    const int64_t panels = there(panels_of(l), first_panel, together(l)), end = first + there(l.outputs, first, CHUNK);
    alignas(64) float sums[PANELS][IMAGES * PANEL];
    for (int64_t output = first; output < end; output += IMAGES) {
        const int64_t outputs = there(end, output, IMAGES);
        for (int64_t k = 0; k < l.depth; k += DEPTH) {
            const float *weights = l.weight + output * l.weight_stride + k;
            for (int64_t i = 0; i < panels; ++i)
                tile_of(outputs, weights, l.weight_stride, l.workspace + ((first_panel + i) * l.depth + k) * PANEL,
                        there(l.depth, k, DEPTH), k ? sums[i] : nullptr, PANEL, sums[i], PANEL);
        }
        for (int64_t i = 0; i < panels; ++i) finish<RELU>(l, sums[i], (first_panel + i) * PANEL, output, outputs);
    }
}

}  // namespace

namespace coltran::TARGET {

// Rows of x side by side, zeros beyond the last; in squares, so that both sides stay in the cache.
void arrange_rows(const Linear &l, int64_t panel) {
    constexpr int64_t SQUARE = 16;
    const float *x = l.x + panel * PANEL * l.x_stride;
    float *to = l.workspace + panel * PANEL * l.depth;
    const int64_t rows = there(l.rows, panel * PANEL, PANEL);
    for (int64_t from = 0; from < l.depth; from += SQUARE) {
        const int64_t count = there(l.depth, from, SQUARE);
        for (int64_t row = 0; row < PANEL; ++row)
            for (int64_t k = from; k < from + count; ++k)
                to[k * PANEL + row] = row < rows ? x[row * l.x_stride + k] : 0;
    }
}

void multiply(const Linear &l, int64_t task) {
    if (l.relu)
        ::multiply<true>(l, task);
    else
        ::multiply<false>(l, task);
}

}  // namespace coltran::TARGET
