// Upstream's common.cuh for kernels that run on the CPU: that of tests/hip, and what NVIDIA's kernels use besides.
#pragma once

#include "../../hip/include/common.cuh"

#include <functional>
#include <map>

using std::max, std::min;

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

inline bool __any_sync(unsigned m, int v) { return __ballot_sync(m, v) != 0; }
inline bool __all_sync(unsigned m, int v) { return __ballot_sync(m, v) == ~0u; }

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return { x, y, z, w }; }
inline int   __float2int_rn(float x)                                     { return (int) rintf(x); }
inline float rsqrtf(float x)                                             { return 1.0f/sqrtf(x); }
inline half2 __hadd2(half2 a, half2 b)                                   { return a + b; }
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t n) { return (uint32_t) (((uint64_t) high << 32 | low) >> (n & 31)); }
