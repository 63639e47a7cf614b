// SPDX-License-Identifier: Apache-2.0
// How the threads of a team share out work and wait for each other, on this processor and system.
#pragma once

#include <stdint.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#include "decode_row/decode.h"

namespace {

// One turn of a waiting loop.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Returns when woken, at once if the number is another already, and sometimes for no reason.
inline void sleep_while(int32_t *number, int32_t value) {
#if defined(__linux__)
    syscall(SYS_futex, number, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
    (void)number, (void)value;
    sched_yield();
#endif
}

// Wakes all threads that sleep on the number.
inline void wake(int32_t *number) {
#if defined(__linux__)
    syscall(SYS_futex, number, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
    (void)number;
#endif
}

// Awake for some microseconds; whether all of a stage's tasks were done by then.
inline bool await(const coltran::Stage &stage, int64_t tasks) {
    for (int spins = 0; spins < 500; ++spins) {
        if (__atomic_load_n(&stage.done, __ATOMIC_ACQUIRE) == tasks) return true;
        relax();
    }
    return false;
}

// Takes part in one stage of `tasks` tasks until all are done. What they wrote, all threads see afterwards.
// `claimed[i * stride]` counts the tasks of thread i's share that are claimed.
//
// Everyone begins with its own share, the same of the same stage of every pixel: those weights it has used last, and
// nobody else's claims stand in its way. Nobody waits for a thread, only for tasks: while another program has the
// processor of one, the others do its share. A task takes some microseconds, so a thread first waits awake; in the end
// it sleeps until the last task is done.
template <typename Task>
void take_part(coltran::Stage &stage, int32_t *claimed, int64_t stride, int thread, int threads, int64_t tasks,
               Task task) {
    const auto work = [&](int owner) {
        const coltran::Part share = coltran::part_of(tasks, owner, threads);
        int32_t finished = 0;
        for (;; ++finished) {
            const int64_t next = share.from + __atomic_fetch_add(&claimed[owner * stride], 1, __ATOMIC_RELAXED);
            if (next >= share.to) break;
            task(next);
        }
        // Either the sleepers are seen here, or they see that all is done: both orders are total.
        if (finished && __atomic_add_fetch(&stage.done, finished, __ATOMIC_SEQ_CST) == tasks &&
            __atomic_load_n(&stage.sleepers, __ATOMIC_SEQ_CST))
            wake(&stage.done);
    };
    work(thread);
    if (await(stage, tasks)) return;
    for (int i = 1; i < threads; ++i) work((thread + i) % threads);
    if (await(stage, tasks)) return;
    __atomic_add_fetch(&stage.sleepers, 1, __ATOMIC_SEQ_CST);
    for (int32_t done; (done = __atomic_load_n(&stage.done, __ATOMIC_SEQ_CST)) < tasks;) sleep_while(&stage.done, done);
}

}  // namespace
