#pragma once

// Queries for fattn-decode-kernel.cuh: rotated, and packed for the tensor cores. A warp takes a row.

#include "fattn-decode-params.cuh"

#include <stdint.h>

// ---- rows of D values, D/32 in each lane ------------------------------------------------------------------------------------
// Value i of a lane is number row_index(lane, i) of the row: a row is read and written 16 bytes a lane, without gaps.

template <int D> static __device__ __forceinline__ constexpr int row_index(int lane, int i) {
    return D == 64 ? lane*2 + i : i/4*128 + lane*4 + i%4;
}

// x times the Hadamard matrix of n_rot values; a bit of lane or i is a bit of the index
template <int D>
static __device__ __forceinline__ void hadamard(float (&x)[D/32], int lane, int n_rot) {
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
#pragma unroll
            for (int i = 0; i < D/32; ++i) {
                const float other = __shfl_xor_sync(~0u, x[i], bit, 32);
                x[i] = lane & bit ? other - x[i] : x[i] + other;
            }
        }
    }
    const float norm = rsqrtf((float) n_rot);
#pragma unroll
    for (int i = 0; i < D/32; ++i) { x[i] *= norm; }
}

template <int D>
static __device__ __forceinline__ void load_row(float (&x)[D/32], const float * row, int lane) {
    if constexpr (D == 64) {
        const float2 v = ((const float2 *) row)[lane];
        x[0] = v.x; x[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < D/32; i += 4) {
            const float4 v = *(const float4 *) (row + row_index<D>(lane, i));
            x[i] = v.x; x[i + 1] = v.y; x[i + 2] = v.z; x[i + 3] = v.w;
        }
    }
}

template <int D>
static __device__ __forceinline__ void store_row(float * row, const float (&x)[D/32], int lane) {
    if constexpr (D == 64) {
        ((float2 *) row)[lane] = make_float2(x[0], x[1]);
    } else {
#pragma unroll
        for (int i = 0; i < D/32; i += 4) { *(float4 *) (row + row_index<D>(lane, i)) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]); }
    }
}

static __device__ __forceinline__ float max_of_warp(float x) {
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { x = fmaxf(x, __shfl_xor_sync(~0u, x, w, 32)); }
    return x;
}

static __device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { x += __shfl_xor_sync(~0u, x, w, 32); }
    return x;
}

// ---- packed queries -----------------------------------------------------------------------------------------------------
// Each is packed in shared memory by all lanes, in its own order, and taken from there as fragments, in the order of K.
// A packed query: 2*D bytes, the unit of a product with it (float), what its blocks of 32 contribute to a bias (int each).

template <int D>
static __device__ __forceinline__ float peak_of_row(const float (&x)[D/32]) {
    float peak = 0.0f;
#pragma unroll
    for (int i = 0; i < D/32; ++i) { peak = fmaxf(peak, fabsf(x[i])); }
    return max_of_warp(peak);
}

// int16 as two int8 parts: D high bytes, then D low ones. unit: of a step of K's entries
template <int D>
static __device__ __forceinline__ void pack_query_int8(char * packed, const float (&x)[D/32], float peak, float unit, int lane) {
    constexpr int RUN = D == 64 ? 2 : 4, LANES = 32/RUN; // values that neighbour each other in a lane; lanes of a block of 32
    const float inv = peak > 0.0f ? 32512.0f/peak : 0.0f;
#pragma unroll
    for (int i = 0; i < D/32; i += RUN) {
        uint32_t high = 0, low = 0;
        int sum = 0;
#pragma unroll
        for (int e = 0; e < RUN; ++e) {
            const int v = __float2int_rn(x[i + e]*inv);
            const int h = (v + 128) >> 8;
            high |= (uint32_t) (h & 0xff) << 8*e;
            low  |= (uint32_t) ((v - 256*h) & 0xff) << 8*e;
            sum += v;
        }
        char * at = packed + row_index<D>(lane, i);
        if constexpr (RUN == 4) {
            *(uint32_t *) at       = high;
            *(uint32_t *) (at + D) = low;
        } else {
            *(uint16_t *) at       = (uint16_t) high;
            *(uint16_t *) (at + D) = (uint16_t) low;
        }
#pragma unroll
        for (int w = 1; w < LANES; w *= 2) { sum += __shfl_xor_sync(~0u, sum, w, 32); }
        if (lane % LANES == 0) { ((int *) (packed + 2*D + 4))[row_index<D>(lane, i)/32] = sum; }
    }
    if (lane == 0) { *(float *) (packed + 2*D) = peak/32512.0f*unit; }
}
