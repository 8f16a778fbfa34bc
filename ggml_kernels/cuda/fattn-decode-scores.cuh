#pragma once

// S^T = K Q^T: the scores of a warp's positions, in the log2 domain.

#include "fattn-decode-columns.cuh"
#include "fattn-decode-loaders.cuh"

// s[n] += 16 positions of K, which start at row, times the columns; sixteen rows lie stride bytes apart. par: see row_parity
template <int D, typename LK, int NT>
static __device__ __forceinline__ void add_scores(float (&s)[NT][4], const query_of<D, LK> (&query)[NT], const char * row, int stride, const uint32_t * books,
        int par = row_parity<D, LK>()) {
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    if constexpr (LK::HALF) {
        const char * p = row + lane%16*stride + lane/16*16;
#pragma unroll
        for (int i = 0; i < D/16; ++i) {
            uint32_t a[4];
            load_matrices(a, p + i*32);
#pragma unroll
            for (int n = 0; n < NT; ++n) { mma_half(s[n], a, query[n].q[i][0], query[n].q[i][1]); }
        }
    } else {
        constexpr int PER_BLOCK = LK::BLOCK/32;
        const char * r0 = row + g*stride;
        const char * r1 = r0 + 8*stride;
#pragma unroll
        for (int b = 0; b < D/LK::BLOCK; ++b) {
            int high[NT][4] = {}, low[NT][4] = {};
#pragma unroll
            for (int i = 0; i < PER_BLOCK; ++i) {
                uint32_t lo0, hi0, lo1, hi1;
                LK::template chunk<true>(r0, par, b, i*4 + t, books, lo0, hi0);
                LK::template chunk<true>(r1, par, b, i*4 + t, books, lo1, hi1);
#pragma unroll
                for (int n = 0; n < NT; ++n) {
                    const auto & q = query[n].q[b*PER_BLOCK + i];
                    mma_int8(high[n], lo0, lo1, hi0, hi1, q[0][0], q[0][1]);
                    mma_int8(low[n],  lo0, lo1, hi0, hi1, q[1][0], q[1][1]);
                }
            }
            const float d0 = block_scale<LK>(r0, b), d1 = block_scale<LK>(r1, b);
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int sum = high[n][e]*256 + low[n][e] - (LK::K_BIAS != 0 ? query[n].bias[b][e & 1] : 0);
                    s[n][e] += (e < 2 ? d0 : d1)*(float) sum;
                }
            }
        }
    }
}

// products of column tile n to scores: scaled, capped, masked. mask: of the tile
template <int D, typename LK, int NT, int STEPS>
static __device__ __forceinline__ void cap_and_mask(float (&s)[STEPS][NT][4], int n, const warp_columns<D, LK, NT> & columns, const half * mask, const fattn_decode_params & p) {
#pragma unroll
    for (int st = 0; st < STEPS; ++st) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float x = s[st][n][i]*columns.factor[n][i & 1];
            if (p.softcap != 0.0f) { x = p.softcap*FATTN_DECODE_LOG2E*tanhf(x); }
            if (p.mask) { x += __half2float(mask[columns.mask_at[n][i & 1] + st*16 + i/2*8])*columns.slope[n][i & 1]; }
            s[st][n][i] = x;
        }
    }
}

// left: positions from this lane's first on
template <int NT, int STEPS>
static __device__ __forceinline__ void mask_past_end(float (&s)[STEPS][NT][4], int n, int left) {
    if (left < STEPS*16) {
#pragma unroll
        for (int i = 0; i < STEPS*4; ++i) {
            if (i/4*16 + i%4/2*8 >= left) { s[i/4][n][i%4] = -INFINITY; }
        }
    }
}

// m: of columns 2t, 2t + 1
template <int NT, int STEPS>
static __device__ __forceinline__ void max_of_columns(float (&m)[2], const float (&s)[STEPS][NT][4], int n) {
#pragma unroll
    for (int i = 0; i < STEPS*2; ++i) {
        m[0] = fmaxf(m[0], s[i/2][n][i%2*2]);
        m[1] = fmaxf(m[1], s[i/2][n][i%2*2 + 1]);
    }
#pragma unroll
    for (int w = 4; w < 32; w *= 2) {
        m[0] = fmaxf(m[0], __shfl_xor_sync(~0u, m[0], w));
        m[1] = fmaxf(m[1], __shfl_xor_sync(~0u, m[1], w));
    }
}
