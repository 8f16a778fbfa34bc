#pragma once

// How D neighbouring values of a row get into a cache of each type. A team of warps does it, each of which has them as
// attention-row.cuh says. The row of one token is so few of them that more warps for each cost nothing and save time.

#include "cpy-utils.cuh"
#include "turbo-quants.cuh"
#include "turbo-quants-encode.cuh"

// WARPS: of all teams of a CTA. values: of the team, D of them
template <typename block_t, int WARPS> struct encode_turbo {
    typedef block_t block;
    static constexpr int BLOCK = QK_TURBO;
    turbo_encode_shared<block_t, WARPS> s;
    __device__ __forceinline__ void prepare(int thread, int n) { turbo_encode_prepare(s, thread, n); }
    template <int D, int TEAM, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[D/32], block_t * y, float *) {
        turbo_encode<D, TEAM, barrier_t>(s, x, y);
    }
};

// upstream's, which a thread does for a block of 32
template <typename block_t, void (* quantize)(const float *, block_t *)> struct encode_block_32 {
    typedef block_t block;
    static constexpr int BLOCK = 32;
    __device__ __forceinline__ void prepare(int, int) {}
    template <int D, int TEAM, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[D/32], block_t * y, float * values) {
        const int lane = threadIdx.x % TURBO_LANES;
        if (threadIdx.x % (TEAM*TURBO_LANES) < TURBO_LANES) {
            store_row<D>(values, x, lane);
            turbo_syncwarp();
            if (lane < D/BLOCK) { quantize(values + lane*BLOCK, y + lane); }
        }
    }
};

struct encode_half {
    typedef half block;
    static constexpr int BLOCK = 1;
    __device__ __forceinline__ void prepare(int, int) {}
    template <int D, int TEAM, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[D/32], half * y, float *) {
        const int lane = threadIdx.x % TURBO_LANES;
        if (threadIdx.x % (TEAM*TURBO_LANES) < TURBO_LANES) {
#pragma unroll
            for (int i = 0; i < D/32; ++i) { y[row_index<D>(lane, i)] = __float2half(x[i]); }
        }
    }
};
