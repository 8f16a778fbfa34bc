#pragma once

// Queries for fattn-decode-kernel.cuh: rotated, and packed for the tensor cores. A warp takes a row.

#include "attention-row.cuh"
#include "fattn-decode-params.cuh"

#include <stdint.h>

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
    constexpr int RUN = row_run<D>(), LANES = 32/RUN; // lanes of a block of 32
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
