// The threads of a threadgroup: fibers, of which one runs until it waits for its simdgroup or for its threadgroup.
//
// On a GPU the threads of a simdgroup run in lockstep, and upstream relies on it in places. Here a thread runs alone up
// to the next operation that its simdgroup does together, the last thread first: a write that another thread should
// have seen before is missed, and a barrier that was forgotten shows. Thread 0 comes last because kernels let it write
// what the others still read (`if (tiisg == 0) { ss[0] = ... }` after a read of ss[0] by all), which lockstep allows.
#pragma once

#include "msl_types.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include <ucontext.h>

namespace host {

using metal::uint3;

constexpr int    SIMD_WIDTH     = 32;
constexpr size_t STACK_BYTES    = 256*1024;
constexpr size_t EXCHANGE_BYTES = 16; // a thread's, at a simdgroup operation

enum class fiber_state { running, at_simdgroup, at_threadgroup, polling, done };

struct fiber {
    ucontext_t        context;
    std::vector<char> stack;
    fiber_state       state;
    uint32_t          together; // bit i: thread i takes part in the simdgroup operation that ended the last wait
    int               turn;     // which of its two exchange buffers is in use: a fast thread may be one operation ahead
};

struct threadgroup_run {
    ucontext_t               scheduler;
    std::vector<fiber>       fibers;
    std::vector<char>        exchange;
    std::function<void(int)> body;
    int                      current = 0;
};

inline threadgroup_run * running;

inline void wait(fiber_state state) {
    fiber & f = running->fibers[running->current];
    f.state = state;
    swapcontext(&f.context, &running->scheduler);
}

inline long polls_that_ended = 0;

// until `there` says so: something that other threads do, or what `arrivals` brings
inline void wait_until(const std::function<bool()> & there) {
    while (!there()) { wait(fiber_state::polling); }
    ++polls_that_ended;
}

// What comes by itself, at last when no thread can go on: copies on their way. Says whether anything came.
inline std::function<bool()> arrivals = [] { return false; };

inline void wait_for_simdgroup()   { wait(fiber_state::at_simdgroup); }
inline void wait_for_threadgroup() { wait(fiber_state::at_threadgroup); }

inline void fiber_main() {
    running->body(running->current);
    wait(fiber_state::done);
}

[[noreturn]] inline void fail(const char * what, int where) {
    fprintf(stderr, "%s: %d\n", what, where);
    abort();
}

// Runs the threads [first, last) of a simdgroup until all of them wait for the threadgroup or are done.
inline void run_simdgroup(threadgroup_run & group, int first, int last) {
    for (;;) {
        uint32_t waiting = 0;
        bool     ahead   = false, polls = false;
        for (int t = last; t-- > first; ) {
            fiber & f = group.fibers[t];
            if (f.state == fiber_state::running) {
                group.current = t;
                swapcontext(&group.scheduler, &f.context);
            }
            waiting |= f.state == fiber_state::at_simdgroup ? 1u << (t - first) : 0;
            ahead   |= f.state == fiber_state::at_threadgroup;
            polls   |= f.state == fiber_state::polling;
        }
        if (waiting == 0 || polls) {
            return;
        }
        if (ahead) {
            fail("some threads of a simdgroup are at a threadgroup barrier, others are not; first thread", first);
        }
        for (int t = first; t < last; ++t) {
            fiber & f = group.fibers[t];
            if (f.state == fiber_state::at_simdgroup) {
                f.state    = fiber_state::running;
                f.together = waiting;
            }
        }
    }
}

inline int count(const threadgroup_run & group, fiber_state state) {
    int n = 0;
    for (const fiber & f : group.fibers) { n += f.state == state; }
    return n;
}

inline void go_on(threadgroup_run & group, fiber_state from) {
    for (fiber & f : group.fibers) {
        if (f.state == from) { f.state = fiber_state::running; }
    }
}

inline void run_threadgroup(threadgroup_run & group) {
    const int n = (int) group.fibers.size();
    for (long ended = -1;;) {
        for (int first = 0; first < n; first += SIMD_WIDTH) {
            run_simdgroup(group, first, first + SIMD_WIDTH < n ? first + SIMD_WIDTH : n);
        }
        const int done = count(group, fiber_state::done), polling = count(group, fiber_state::polling);
        if (done == n) {
            return;
        }
        if (polling > 0) { // if none could go on since they were asked last, what is on its way arrives
            if (ended == polls_that_ended && !arrivals()) {
                fail("threads wait for what nobody brings; threads", polling);
            }
            ended = polls_that_ended;
            go_on(group, fiber_state::polling);
            continue;
        }
        if (done != 0) {
            fail("a threadgroup barrier that some threads never reach, for they are done; threads", done);
        }
        go_on(group, fiber_state::at_threadgroup);
    }
}

inline void start_fiber(threadgroup_run & group, fiber & f) {
    f.stack.resize(STACK_BYTES);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp   = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link          = &group.scheduler;
    makecontext(&f.context, fiber_main, 0);
    f.state = fiber_state::running;
    f.turn  = 0;
}

// what a kernel's attributes would bring
struct thread_place {
    uint3  tgpig;  // [[threadgroup_position_in_grid]]
    uint3  tpitg;  // [[thread_position_in_threadgroup]]
    uint3  ntg;    // [[threads_per_threadgroup]]
    ushort tiitg;  // [[thread_index_in_threadgroup]]
    ushort tiisg;  // [[thread_index_in_simdgroup]]
    ushort sgitg;  // [[simdgroup_index_in_threadgroup]]
    char * shared; // [[threadgroup(0)]]
};

// Calls `call` for each thread of the grid. Threadgroup memory begins as NaN, for a GPU does not clear it.
inline void launch(uint3 grid, uint3 ntg, size_t shared_bytes, const std::function<void(const thread_place &)> & call) {
    static threadgroup_run group;
    running = &group;
    const int n = (int) (ntg.x*ntg.y*ntg.z);
    group.fibers.resize((size_t) n);
    group.exchange.assign((size_t) 2*(n + SIMD_WIDTH)*EXCHANGE_BYTES, 0);
    std::vector<metal::float4> shared(shared_bytes/sizeof(metal::float4) + 1);

    for (uint i = 0; i < grid.x*grid.y*grid.z; ++i) {
        const uint3 tgpig(i % grid.x, i/grid.x % grid.y, i/(grid.x*grid.y));
        memset((void *) shared.data(), 0xff, shared.size()*sizeof(metal::float4));
        group.body = [&](int t) {
            const uint3 tpitg(t % ntg.x, t/ntg.x % ntg.y, t/(ntg.x*ntg.y));
            call({ tgpig, tpitg, ntg, (ushort) t, (ushort) (t % SIMD_WIDTH), (ushort) (t/SIMD_WIDTH), (char *) shared.data() });
        };
        for (fiber & f : group.fibers) {
            start_fiber(group, f);
        }
        run_threadgroup(group);
    }
}

// ---- what the threads of a simdgroup tell each other -------------------------------------------------------------------

template <class T> struct exchanged {
    const char * values;
    uint32_t     together;
    int          lane;

    bool has(int l) const { return l >= 0 && l < SIMD_WIDTH && (together >> l & 1); }
    T at(int l) const {
        T v;
        memcpy(&v, values + l*EXCHANGE_BYTES, sizeof(v));
        return v;
    }
    T at_or(int l, T other) const { return has(l) ? at(l) : other; }
};

template <class T> exchanged<T> exchange(T v) {
    static_assert(sizeof(T) <= EXCHANGE_BYTES, "a value is at most 16 bytes");
    threadgroup_run & group = *running;
    const int t = group.current;
    fiber & f   = group.fibers[t];
    f.turn ^= 1;
    char * values = group.exchange.data() + (f.turn*group.fibers.size() + t/SIMD_WIDTH*SIMD_WIDTH)*EXCHANGE_BYTES;
    memcpy(values + t % SIMD_WIDTH*EXCHANGE_BYTES, &v, sizeof(v));
    wait_for_simdgroup();
    return { values, f.together, t % SIMD_WIDTH };
}

} // namespace host

namespace metal {

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

inline void simdgroup_barrier(mem_flags)   { host::wait_for_simdgroup(); }
inline void threadgroup_barrier(mem_flags) { host::wait_for_threadgroup(); }

template <class T> T simd_sum(T v) {
    const auto x = host::exchange(v);
    T s = (T) 0;
    for (int l = 0; l < host::SIMD_WIDTH; ++l) {
        if (x.has(l)) { s += x.at(l); }
    }
    return s;
}

template <class T> T simd_max(T v) {
    const auto x = host::exchange(v);
    for (int l = 0; l < host::SIMD_WIDTH; ++l) {
        if (x.has(l) && x.at(l) > v) { v = x.at(l); }
    }
    return v;
}

template <class T> T simd_min(T v) {
    const auto x = host::exchange(v);
    for (int l = 0; l < host::SIMD_WIDTH; ++l) {
        if (x.has(l) && x.at(l) < v) { v = x.at(l); }
    }
    return v;
}

template <class T> T simd_shuffle(T v, ushort lane)     { return host::exchange(v).at_or(lane, v); }
template <class T> T simd_shuffle_xor(T v, ushort mask) { const auto x = host::exchange(v); return x.at_or(x.lane ^ mask, v); }
template <class T> T simd_shuffle_down(T v, ushort by)  { const auto x = host::exchange(v); return x.at_or(x.lane + by, v); }
template <class T> T simd_shuffle_up(T v, ushort by)    { const auto x = host::exchange(v); return x.at_or(x.lane - by, v); }

} // namespace metal
