// Upstream's common.cuh for kernels that run on the CPU: that of tests/hip, and what NVIDIA's kernels use besides.
#pragma once

#include "../../hip/include/common.cuh"

#include <functional>
#include <map>
#include <utility>

// what of the kernels has a form for AMD takes NVIDIA's here
#undef GGML_USE_HIP
#undef __HIP_DEVICE_COMPILE__
#define __grid_constant__

using std::max, std::min;
inline int min(int a, int b) { return std::min(a, b); } // of int and what becomes one

inline dim blockDim = { WARP_SIZE, 1, 1 };
inline dim place_of_thread() {
    const unsigned t = (unsigned) host::running->current;
    return { t % blockDim.x, t/blockDim.x, 0 };
}
#undef threadIdx
#define threadIdx (place_of_thread())

inline void __syncwarp() { host::wait_for_simdgroup(); }

inline unsigned __ballot_sync(unsigned, int v) {
    const auto x = host::exchange(v);
    unsigned r = 0;
    for (int l = 0; l < WARP_SIZE; ++l) { r |= (x.at(l) != 0 ? 1u : 0u) << l; }
    return r;
}

template <typename T> T __shfl_sync(unsigned, T v, int from, int = WARP_SIZE) { return host::exchange(v).at(from); }

inline bool __any_sync(unsigned m, int v) { return __ballot_sync(m, v) != 0; }
inline bool __all_sync(unsigned m, int v) { return __ballot_sync(m, v) == ~0u; }

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return { x, y, z, w }; }
inline int   __float2int_rn(float x)                                     { return (int) rintf(x); }
inline float rsqrtf(float x)                                             { return 1.0f/sqrtf(x); }
inline half2 __hadd2(half2 a, half2 b)                                   { return a + b; }
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t n) { return (uint32_t) (((uint64_t) high << 32 | low) >> (n & 31)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned) x); }
inline half __float2half_rn(float x) { return __float2half(x); }
inline int  __dp4a(int a, int b, int c) { return ggml_cuda_dp4a(a, b, c); }

// two int16 times the lower or the upper two of four int8
template <int FIRST> int dot_of_two(int a, int b, int c) {
    for (int i = 0; i < 2; ++i) { c += (int16_t) (a >> 16*i)*(int8_t) (b >> 8*(FIRST + i)); }
    return c;
}
inline int __dp2a_lo(int a, int b, int c) { return dot_of_two<0>(a, b, c); }
inline int __dp2a_hi(int a, int b, int c) { return dot_of_two<2>(a, b, c); }

inline uint3    init_fastdiv_values(uint64_t d)    { return { 0, 0, (uint32_t) d }; }
inline uint32_t fastdiv(uint32_t n, uint3 d)       { return n/d.z; }
inline uint32_t fastmodulo(uint32_t n, uint3 d)    { return n%d.z; }

// bar.sync of some warps, or bar.arrive
inline std::map<int, std::pair<int, unsigned>> named_barriers; // how many are there, and how often all were
inline void named_barrier(int id, int threads, bool wait = true) {
    auto & [there, turn] = named_barriers[id];
    if (++there == threads) {
        there = 0;
        ++turn;
        return;
    }
    if (wait) { host::wait_until([&turn = turn, mine = turn] { return turn != mine; }); }
}

// prmt without a mode
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = (uint64_t) b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t s = selector >> 4*i & 15, byte = (uint32_t) (bytes >> 8*(s & 7)) & 0xff;
        r |= (s & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8*i;
    }
    return r;
}
