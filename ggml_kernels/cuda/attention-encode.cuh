#pragma once

// How 64 neighbouring values of a row get into a cache of each type. A team of WARPS warps, 1, 2 or 4, does it; its first warp
// has the values, lane and 32 + lane in each thread. The row of one token is so few of them that more warps for each cost
// nothing and save time.

#include "cpy-utils.cuh"
#include "turbo-quants.cuh"
#include "turbo-quants-encode.cuh"

constexpr int ENCODE_LANES = TURBO_LANES, ENCODE_RUN = QK_TURBO;

template <typename block_t> struct encode_turbo {
    typedef block_t block;
    static constexpr int BLOCK = QK_TURBO;
    turbo_encode_shared<block_t> s;
    __device__ __forceinline__ void prepare(int thread, int n) { turbo_encode_prepare(s, thread, n); }
    template <int WARPS, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[2], block_t * y, float *) {
        turbo_encode<WARPS, barrier_t>(s, x[0], x[1], y);
    }
};

// upstream's, which a thread does for a block of 32
template <typename block_t, void (* quantize)(const float *, block_t *)> struct encode_block_32 {
    typedef block_t block;
    static constexpr int BLOCK = 32;
    __device__ __forceinline__ void prepare(int, int) {}
    template <int WARPS, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[2], block_t * y, float * values) {
        const int lane = threadIdx.x % ENCODE_LANES;
        if (threadIdx.x % (WARPS*ENCODE_LANES) < ENCODE_LANES) {
            values[lane]         = x[0];
            values[lane + ENCODE_LANES] = x[1];
            ggml_cuda_syncwarp();
            if (lane < ENCODE_RUN/BLOCK) { quantize(values + lane*BLOCK, y + lane); }
        }
    }
};

struct encode_half {
    typedef half block;
    static constexpr int BLOCK = 1;
    __device__ __forceinline__ void prepare(int, int) {}
    template <int WARPS, typename barrier_t> __device__ __forceinline__ void store(const float (&x)[2], half * y, float *) {
        const int lane = threadIdx.x % ENCODE_LANES;
        if (threadIdx.x % (WARPS*ENCODE_LANES) < ENCODE_LANES) {
            y[lane]         = __float2half(x[0]);
            y[lane + ENCODE_LANES] = __float2half(x[1]);
        }
    }
};
