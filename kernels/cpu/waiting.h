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

#include "decode.h"

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

// Takes part in one stage of `tasks` tasks until all are done. What they wrote, all threads see afterwards.
//
// Nobody waits for a thread, only for tasks: while another program has the processor of one, the others do its share.
// A task takes some microseconds, so a thread first waits awake; then it sleeps until the last task is done.
template <typename Task>
void take_part(coltran::Stage &stage, int64_t tasks, Task task) {
    int32_t finished = 0;
    for (int32_t next; (next = __atomic_fetch_add(&stage.claimed, 1, __ATOMIC_RELAXED)) < tasks; ++finished) task(next);
    // Either the sleepers are seen here, or they see that all is done: both orders are total.
    if (finished && __atomic_add_fetch(&stage.done, finished, __ATOMIC_SEQ_CST) == tasks &&
        __atomic_load_n(&stage.sleepers, __ATOMIC_SEQ_CST))
        wake(&stage.done);
    for (int spins = 0; spins < 1000; ++spins) {
        if (__atomic_load_n(&stage.done, __ATOMIC_ACQUIRE) == tasks) return;
        relax();
    }
    __atomic_add_fetch(&stage.sleepers, 1, __ATOMIC_SEQ_CST);
    for (int32_t done; (done = __atomic_load_n(&stage.done, __ATOMIC_SEQ_CST)) < tasks;) sleep_while(&stage.done, done);
}

}  // namespace
