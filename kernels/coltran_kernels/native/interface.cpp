// SPDX-License-Identifier: Apache-2.0
// The C interface of the native kernels: chooses the instruction set that this processor has, and gathers the team.
#include <omp.h>

#include "attention/axial.h"
#include "decode_row/decode.h"

namespace {

struct Target {
    const char *name;
    coltran::DecodeRow decode_row;
    coltran::AttendColumns attend_columns;
    coltran::AttendLine attend_line;
    coltran::AttendBackward attend_backward;
};

#define TARGET_OF(name) \
    { #name, coltran::name::decode_row, coltran::name::attend_columns, coltran::name::attend_line, \
      coltran::name::attend_backward }

// The instruction sets that this processor has, the best last.
int available(Target *targets) {
    int count = 0;
    targets[count++] = TARGET_OF(plain);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        targets[count++] = TARGET_OF(avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
            targets[count++] = TARGET_OF(avx512);
            if (__builtin_cpu_supports("avx512bf16")) targets[count++] = TARGET_OF(avx512bf16);
        }
    }
#endif
    return count;
}

// The one at `index`, or the best.
Target target(int index) {
    Target targets[4];
    const int count = available(targets);
    return targets[index >= 0 && index < count ? index : count - 1];
}

}  // namespace

extern "C" {

// Bytes of Term, Layer, Row, Column, Axial and AxialGradients, for the loader to compare with its own.
void coltran_sizes(int64_t *sizes) {
    sizes[0] = sizeof(coltran::Term), sizes[1] = sizeof(coltran::Layer);
    sizes[2] = sizeof(coltran::Row), sizes[3] = sizeof(coltran::Column);
    sizes[4] = sizeof(coltran::Axial), sizes[5] = sizeof(coltran::AxialGradients);
}

// The name of the index-th instruction set that this processor has, the best last; null beyond.
const char *coltran_target(int index) {
    Target targets[4];
    return index >= 0 && index < available(targets) ? targets[index].name : nullptr;
}

int64_t coltran_workspace(const coltran::Row *row, int threads) { return coltran::workspace_size(*row, threads); }

void coltran_decode_row(const coltran::Row *row, int threads, int index) {
    const coltran::DecodeRow decode_row = target(index).decode_row;
    coltran::start(*row, threads);
#pragma omp parallel num_threads(threads)
    decode_row(*row, omp_get_thread_num(), omp_get_num_threads());
}

void coltran_attend_columns(const coltran::Column *column, int threads, int index) {
    const coltran::AttendColumns attend_columns = target(index).attend_columns;
#pragma omp parallel num_threads(threads)
    attend_columns(*column, omp_get_thread_num(), omp_get_num_threads());
}

int64_t coltran_axial_scratch(const coltran::Axial *axial) { return coltran::axial_scratch(*axial); }

void coltran_axial(const coltran::Axial *axial, int threads, int index) {
    const coltran::AttendLine attend_line = target(index).attend_line;
    const int64_t tasks = tasks_of(*axial);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) attend_line(*axial, task, omp_get_thread_num());
}

int64_t coltran_backward_scratch(const coltran::Axial *axial) { return coltran::backward_scratch(*axial); }

int64_t coltran_backward_groups(const coltran::Axial *axial) { return coltran::groups_of(*axial); }

void coltran_axial_backward(const coltran::AxialGradients *gradients, int threads, int index) {
    const coltran::AttendBackward attend_backward = target(index).attend_backward;
    const coltran::Axial &axial = gradients->forward;
    const int64_t tasks = axial.batch * coltran::groups_of(axial) * axial.heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) attend_backward(*gradients, task, omp_get_thread_num());
}

}  // extern "C"
