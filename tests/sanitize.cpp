// SPDX-License-Identifier: Apache-2.0
// Runs the native kernels over many shapes and switches, for the sanitizers to watch; tests/sanitize.py builds it.
//
// Every array is exactly as large as it has to be. The team is made of std::threads, whose start and end the thread
// sanitizer sees (an OpenMP runtime hides them); all instruction sets and team sizes must draw the same labels.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "attention/axial.h"

extern "C" void coltran_decode_row(const coltran::Row *row, int threads, int index);
extern "C" void coltran_attend_columns(const coltran::Column *column, int threads, int index);
extern "C" void coltran_axial(const coltran::Axial *axial, int threads, int index);
extern "C" void coltran_axial_backward(const coltran::AxialGradients *gradients, int threads, int index);

namespace {

using coltran::round_up;

std::mt19937 generator(0);
std::deque<std::vector<float>> arrays;

float *numbers(int64_t count, float spread = 1.0f) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> &values = arrays.emplace_back((size_t)count);
    for (float &value : values) value = normal(generator);
    return values.data();
}

// Panels: floats, or pairs of bfloat16 in the place of a float.
float *packed(int64_t columns, int64_t depth, bool bfloat16) {
    const int64_t size = round_up(columns, coltran::PANEL) * (bfloat16 ? (depth + 1) / 2 : depth);
    const float spread = 1.0f / sqrtf((float)depth);
    float *panels = numbers(size, spread);
    if (!bfloat16) return panels;
    std::normal_distribution<float> normal(0.0f, spread);
    for (int64_t i = 0; i < size; ++i) {
        const float second = normal(generator);
        uint32_t low, high;
        memcpy(&low, panels + i, sizeof(low)), memcpy(&high, &second, sizeof(high));
        const uint32_t pair = low >> 16 | (high & 0xffff0000u);
        memcpy(panels + i, &pair, sizeof(pair));
    }
    return panels;
}

// As many bfloat16 values in the first half of the room.
float *halved(float *values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) memmove((char *)values + 2 * i, (char *)(values + i) + 2, 2);
    return values;
}

float *filled(int64_t columns) { return numbers(round_up(columns, coltran::PANEL), 0.1f); }

struct Result {
    std::vector<int64_t> labels;
    std::vector<float> log_prob, probabilities;
};

struct Case {
    int64_t batch, width, hidden, ff, heads, labels, layers;
    bool conditioned, imposed, argmax, bfloat16;
    float temperature, top_p;
};

struct Target {
    coltran::DecodeRow decode_row;
    coltran::AttendColumns attend_columns;
    coltran::AttendLine attend_line;
    coltran::AttendBackward attend_backward;
};

#define TARGET_OF(name) \
    { coltran::name::decode_row, coltran::name::attend_columns, coltran::name::attend_line, \
      coltran::name::attend_backward }

std::vector<Target> targets() {
    std::vector<Target> found{TARGET_OF(plain)};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found.push_back(TARGET_OF(avx2));
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        found.push_back(TARGET_OF(avx512));
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(TARGET_OF(avx512bf16));
#endif
    return found;
}

template <typename Part>
void team(int threads, Part part) {
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(part, thread);
    part(0);
    for (std::thread &other : others) other.join();
}

void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

struct Free {
    void operator()(float *p) const { free(p); }
};

// Room for `count` floats on a cache line, filled with NaN.
std::unique_ptr<float[], Free> poisoned(int64_t count) {
    void *room = nullptr;
    expect(posix_memalign(&room, 64, (size_t)count * sizeof(float)) == 0, "room");  // for any size, as it is
    memset(room, 0xff, (size_t)count * sizeof(float));
    return std::unique_ptr<float[], Free>((float *)room);
}

// All instruction sets and team sizes, and OpenMP if asked (`target` null), put the same numbers into `out`.
template <typename Run>
void expect_the_same(int64_t count, float tolerance, const char *what, bool openmp, Run run) {
    std::vector<float> expected;
    auto compare = [&](const Target *target, int threads) {
        std::vector<float> out((size_t)count, NAN);
        run(out.data(), target, threads);
        if (expected.empty()) expected = out;
        for (size_t i = 0; i < out.size(); ++i)
            expect(fabsf(out[i] - expected[i]) < tolerance * fmaxf(1.0f, fabsf(expected[i])), what);
    };
    for (const Target &target : targets())
        for (int threads : {1, 3}) compare(&target, threads);
    if (openmp) compare(nullptr, 2);
}

// Room for what a row gives.
Result room_for(coltran::Row &row) {
    const size_t pixels = (size_t)(row.batch * row.width);
    Result result{std::vector<int64_t>(pixels), std::vector<float>(pixels),
                  std::vector<float>(pixels * (size_t)row.labels)};
    row.drawn = result.labels.data(), row.log_prob = result.log_prob.data();
    row.probabilities = result.probabilities.data();
    return result;
}

// `target` null: by way of the C interface and OpenMP.
Result decode(coltran::Row row, const Target *target, int threads) {
    Result result = room_for(row);
    const auto workspace = poisoned(coltran::workspace_size(row, threads));
    row.workspace = workspace.get();
    if (target) {
        coltran::start(row, threads);
        team(threads, [&](int thread) { target->decode_row(row, thread, threads); });
    } else {
        coltran_decode_row(&row, threads, -1);
    }
    return result;
}

void check_decoder(const Case &c, bool openmp) {
    arrays.clear();
    auto term = [&](int64_t columns, bool there) -> coltran::Term {
        if (!there) return {nullptr, 0, 0};
        return {numbers(c.batch * c.width * columns, 0.3f), c.width * columns, columns};
    };
    auto affine = [&](float middle) -> coltran::Term {
        float *values = numbers(c.batch * c.hidden, 0.2f);
        for (int64_t i = 0; i < c.batch * c.hidden; ++i) values[i] += middle;
        return {values, c.hidden, 0};
    };
    std::vector<coltran::Layer> layers((size_t)c.layers);
    for (coltran::Layer &layer : layers) {
        layer.qkv = packed(3 * c.hidden, c.hidden, c.bfloat16), layer.out = packed(c.hidden, c.hidden, c.bfloat16);
        layer.ff1 = packed(c.ff, c.hidden, c.bfloat16), layer.ff1_bias = filled(c.ff);
        layer.ff2 = packed(c.hidden, c.ff, c.bfloat16), layer.ff2_bias = filled(c.hidden);
        layer.bias = numbers(c.heads * 2 * c.width);
        layer.qkv_scale = term(3 * c.hidden, c.conditioned), layer.qkv_shift = term(3 * c.hidden, c.conditioned);
        layer.ff_scale = term(c.hidden, c.conditioned), layer.ff_shift = term(c.hidden, true);
        layer.norm1_scale = affine(1.0f), layer.norm1_shift = affine(0.0f);
        layer.norm2_scale = affine(1.0f), layer.norm2_shift = affine(0.0f);
    }
    const size_t pixels = (size_t)(c.batch * c.width);
    std::uniform_real_distribution<float> uniform(0.0f, 0.999f);
    std::vector<float> uniforms(pixels);
    for (float &value : uniforms) value = uniform(generator);
    std::vector<int64_t> given(pixels, -1);
    for (size_t i = 0; i < pixels; i += 3) given[i] = (int64_t)i % c.labels;

    coltran::Row row{};
    row.batch = c.batch, row.width = c.width, row.hidden = c.hidden, row.ff = c.ff, row.heads = c.heads;
    row.labels = c.labels, row.layers = c.layers, row.layer = layers.data(), row.bfloat16 = c.bfloat16;
    row.inputs = term(c.hidden, true), row.first = term(3 * c.hidden, true);
    row.embedding = numbers(c.labels * c.hidden), row.table = numbers(c.labels * 3 * c.hidden);
    row.norm_weight = numbers(c.hidden), row.norm_bias = numbers(c.hidden);
    row.logits = packed(c.labels, c.hidden, c.bfloat16), row.logits_bias = filled(c.labels);
    row.uniforms = uniforms.data(), row.given = c.imposed ? given.data() : nullptr, row.argmax = c.argmax;
    row.temperature = c.temperature, row.top_p = c.top_p, row.eps = 1e-3f;

    const std::vector<Target> all = targets();
    Result expected = decode(row, &all[0], 1);
    auto compare = [&](const Result &result) {
        expect(result.labels == expected.labels, "the same labels");
        for (size_t i = 0; i < pixels; ++i)
            expect(fabsf(result.log_prob[i] - expected.log_prob[i]) < 1e-4f, "the same log-probabilities");
    };
    for (const Target &target : all) {
        // A float's last bit, which instruction sets differ in, decides how an input is rounded to bfloat16.
        if (c.bfloat16) expected = decode(row, &target, 1);
        for (int threads : {1, 2, 3}) compare(decode(row, &target, threads));
    }
    if (openmp) compare(decode(row, nullptr, 2));
    for (size_t i = 0; i < pixels; ++i) {
        expect(expected.labels[i] >= 0 && expected.labels[i] < c.labels, "labels in their range");
        if (c.imposed && given[i] >= 0) expect(expected.labels[i] == given[i], "given labels kept");
    }
}

void check_columns(int64_t batch, int64_t width, int64_t heads, int64_t channels, int64_t length, bool openmp) {
    arrays.clear();
    const int64_t hidden = heads * channels;
    coltran::Column column{};
    column.batch = batch, column.width = width, column.heads = heads, column.channels = channels;
    column.length = length, column.head = channels, column.step = hidden;
    column.q = {numbers(batch * width * hidden), width * hidden, hidden};
    column.keys = {numbers(batch * width * length * hidden), width * length * hidden, length * hidden};
    column.values = {numbers(batch * width * length * hidden), width * length * hidden, length * hidden};
    column.bias = numbers(heads * length), column.bias_stride = length;
    const int64_t size = batch * width * hidden;
    expect_the_same(size, 1e-5f, "the same attention", openmp, [&](float *out, const Target *target, int threads) {
        const auto workspace = poisoned(threads * round_up(length, 16));
        column.out = out, column.workspace = workspace.get();
        if (target)
            team(threads, [&](int thread) { target->attend_columns(column, thread, threads); });
        else
            coltran_attend_columns(&column, threads, -1);
    });
}

void check_axial(int64_t lines, int64_t length, int64_t heads, int64_t channels, bool conditioned, bool causal,
                 bool bfloat16, bool openmp) {
    arrays.clear();
    const int64_t hidden = heads * channels, batch = 2, size = batch * lines * length * hidden;
    auto tensor = [&](bool there) -> coltran::Lines {
        if (!there) return {};
        float *values = numbers(size);
        return {bfloat16 ? halved(values, size) : values, lines * length * hidden, length * hidden, hidden, channels};
    };
    coltran::Axial axial{batch, lines, length, heads, channels};
    axial.q = tensor(true), axial.k = tensor(true), axial.v = tensor(true), axial.out = tensor(true);
    axial.q_scale = tensor(conditioned), axial.k_shift = tensor(conditioned), axial.v_scale = tensor(conditioned);
    axial.v_shift = tensor(conditioned), axial.causal = causal, axial.bfloat16 = bfloat16;
    axial.bias = conditioned ? numbers(heads * 2 * length) : nullptr, axial.bias_stride = 2 * length;
    // What is written as bfloat16 lies in an array of its own until it is widened for the comparison.
    const auto written = [&](float *out, int64_t count, auto run) {
        if (!bfloat16) return run(out);
        std::vector<uint16_t> halves((size_t)count, 0x7fc0);
        run(halves.data());
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t bits = (uint32_t)halves[(size_t)i] << 16;
            memcpy(out + i, &bits, sizeof(bits));
        }
    };
    const float rounding = bfloat16 ? 0x1p-6f : 0;  // of instruction sets that differ in a float's last bit
    const auto attend = [&](float *out, const Target *target, int threads) {
        const auto workspace = poisoned(threads * axial_scratch(axial));
        axial.workspace = workspace.get();
        written(out, size, [&](void *to) {
            axial.out.data = to;
            if (target)
                team(threads, [&](int thread) {
                    for (int64_t i = thread; i < tasks_of(axial); i += threads) target->attend_line(axial, i, thread);
                });
            else
                coltran_axial(&axial, threads, -1);
        });
    };
    expect_the_same(size, 1e-4f + rounding, "the same attention", openmp, attend);
    // The gradients of queries, keys, values, the scales and shifts that there are, and the bias, one after another.
    const int64_t entries = conditioned ? batch * coltran::groups_of(axial) * heads * 2 * length : 0;
    const int64_t tensors = conditioned ? 7 : 3;
    coltran::AxialGradients gradients{axial};
    gradients.grad = tensor(true);
    const auto differentiate = [&](float *out, const Target *target, int threads) {
        const auto workspace = poisoned(threads * backward_scratch(axial));
        gradients.forward.workspace = workspace.get(), gradients.bias = entries ? out + tensors * size : nullptr;
        written(out, tensors * size, [&](void *to) {
            auto next = [&](const coltran::Lines &like) -> coltran::Lines {
                if (!like.data) return {};
                coltran::Lines found = like;
                found.data = to;
                to = (char *)to + size * (int64_t)(bfloat16 ? sizeof(uint16_t) : sizeof(float));
                return found;
            };
            gradients.q = next(axial.q), gradients.k = next(axial.k), gradients.v = next(axial.v);
            gradients.q_scale = next(axial.q_scale), gradients.k_shift = next(axial.k_shift);
            gradients.v_scale = next(axial.v_scale), gradients.v_shift = next(axial.v_shift);
            const int64_t tasks = batch * coltran::groups_of(axial) * heads;
            if (target)
                team(threads, [&](int thread) {
                    for (int64_t i = thread; i < tasks; i += threads) target->attend_backward(gradients, i, thread);
                });
            else
                coltran_axial_backward(&gradients, threads, -1);
        });
    };
    expect_the_same(tensors * size + entries, 1e-3f + rounding, "the same gradients", openmp, differentiate);
}

}  // namespace

int main(int count, char **) {
    const bool openmp = count > 1;  // any argument: also by way of OpenMP
    const Case cases[] = {
        {1, 1, 8, 8, 1, 5, 1, false, false, false, false, 1.0f, 1.0f},
        {3, 7, 32, 12, 4, 64, 2, true, false, false, false, 0.7f, 0.8f},
        {2, 5, 24, 40, 2, 17, 3, true, true, false, false, 1.0f, 0.3f},
        {9, 4, 64, 64, 2, 100, 2, false, true, true, false, 1.0f, 1.0f},
        {20, 3, 40, 33, 5, 70, 1, true, false, true, false, 2.0f, 1.0f},
        {17, 6, 16, 16, 1, 33, 2, true, true, false, false, 1.3f, 1.0f},
        {1, 5, 24, 7, 2, 40, 2, true, false, false, true, 1.0f, 0.9f},
        {3, 4, 33, 130, 3, 17, 1, false, true, false, true, 0.8f, 1.0f},
        {14, 3, 136, 40, 4, 65, 2, true, false, true, true, 1.0f, 1.0f},
    };
    for (const Case &c : cases) check_decoder(c, openmp);
    check_columns(1, 1, 1, 5, 1, openmp);
    check_columns(2, 3, 2, 24, 7, openmp);
    check_columns(3, 2, 1, 128, 33, openmp);
    for (bool bfloat16 : {false, true}) {
        check_axial(1, 1, 1, 1, false, true, bfloat16, openmp);
        check_axial(3, 33, 2, 5, true, false, bfloat16, openmp);
        check_axial(2, 70, 1, 40, true, true, bfloat16, openmp);
        check_axial(1, 20, 3, 64, false, false, bfloat16, openmp);
    }
    puts("sound");
}
