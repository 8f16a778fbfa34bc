#pragma once

// Rows of D values (64, 128 or 256) in a warp, D/32 in each lane. Value i of a lane is number row_index(lane, i) of the row,
// so that a row is read and written in runs of 8 or 16 bytes a lane, without gaps. The includer has the CUDA or HIP headers.

#include <stdint.h>

template <int D> static constexpr __host__ __device__ int row_run() { return D == 64 ? 2 : 4; } // values that neighbour each other in a lane

template <int D> static __device__ __forceinline__ constexpr int row_index(int lane, int i) {
    return i/row_run<D>()*128 + lane*row_run<D>() + i%row_run<D>();
}

// RUN values from x on, which is aligned to all of them
template <int RUN> static __device__ __forceinline__ void load_run(float * y, const float * x) {
    if constexpr (RUN == 2) {
        const float2 v = *(const float2 *) x;
        y[0] = v.x; y[1] = v.y;
    } else {
        const float4 v = *(const float4 *) x;
        y[0] = v.x; y[1] = v.y; y[2] = v.z; y[3] = v.w;
    }
}

template <int D> static __device__ __forceinline__ void load_row(float (&x)[D/32], const float * row, int lane) {
#pragma unroll
    for (int i = 0; i < D/32; i += row_run<D>()) { load_run<row_run<D>()>(x + i, row + row_index<D>(lane, i)); }
}

template <int D> static __device__ __forceinline__ void store_row(float * row, const float (&x)[D/32], int lane) {
    if constexpr (D == 64) {
        ((float2 *) row)[lane] = make_float2(x[0], x[1]);
    } else {
#pragma unroll
        for (int i = 0; i < D/32; i += 4) { *(float4 *) (row + row_index<D>(lane, i)) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]); }
    }
}

// x times the Hadamard matrix of n_rot values; a bit of lane or i is a bit of the index
template <int D> static __device__ __forceinline__ void hadamard(float (&x)[D/32], int lane, int n_rot) {
#pragma unroll
    for (int bit = 1; bit < D/32; bit *= 2) {
        if (row_index<D>(0, bit) < n_rot) {
#pragma unroll
            for (int i = 0; i < D/32; ++i) {
                if (!(i & bit)) {
                    const float a = x[i], b = x[i | bit];
                    x[i]       = a + b;
                    x[i | bit] = a - b;
                }
            }
        }
    }
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
        if (row_index<D>(bit, 0) < n_rot) {
            const float sign = lane & bit ? -1.0f : 1.0f;
#pragma unroll
            for (int i = 0; i < D/32; ++i) { x[i] = fmaf(sign, x[i], __shfl_xor_sync(0xffffffff, x[i], bit, 32)); }
        }
    }
    const float norm = rsqrtf((float) n_rot);
#pragma unroll
    for (int i = 0; i < D/32; ++i) { x[i] *= norm; }
}

static __device__ __forceinline__ float max_of_warp(float x) {
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, w, 32)); }
    return x;
}

static __device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { x += __shfl_xor_sync(0xffffffff, x, w, 32); }
    return x;
}
