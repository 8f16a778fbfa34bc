#pragma once

// cache-convert.cuh for q8_0, q5_0 and q4_0, to half precision: two blocks of 32 make the 64 values of eight threads.

#include "common.cuh" // the blocks

#include "cache-convert.cuh"

// d*(byte - bias), rounded once
static __device__ __forceinline__ void cache_store4(half * y, uint32_t bytes, int bias, uint16_t scale) {
    half2 h[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#ifdef TURBO_FAST_HALF
        const half2 unbias = __float2half2_rn(-(1024.0f + bias)); // the sum is exact
        h[i] = __hmul2(__hadd2(turbo_bytes_as_halves(bytes, 0x64, i), unbias), __half2half2(__ushort_as_half(scale)));
#else
        const float d = turbo_scale(scale);
        h[i] = __floats2half2_rn(d*((int) (bytes >> 16*i & 0xff) - bias), d*((int) (bytes >> (16*i + 8) & 0xff) - bias));
#endif // TURBO_FAST_HALF
    }
    *(uint2 *) y = *(const uint2 *) h;
}

struct cache_packed_32 {
    uint32_t codes[2], fifth[2];
    uint16_t scale[2];
};

template <> struct cache_format<block_q8_0> {
    static constexpr int BLOCKS = 2;
    typedef cache_packed_32 packed;
    static __device__ __forceinline__ packed load(const block_q8_0 * x, int j) {
        return { { turbo_load_word((const uint8_t *) x[0].qs, j), turbo_load_word((const uint8_t *) x[1].qs, j) }, {},
                 { *(const uint16_t *) &x[0].d, *(const uint16_t *) &x[1].d } };
    }
    static __device__ __forceinline__ void decode(const packed & p, int j, half * y) {
#pragma unroll
        for (int b = 0; b < 2; ++b) { cache_store4(y + 32*b + 4*j, p.codes[b] ^ 0x80808080, 128, p.scale[b]); }
    }
};

template <> struct cache_format<block_q4_0> {
    static constexpr int BLOCKS = 2;
    typedef cache_packed_32 packed;
    static __device__ __forceinline__ packed load(const block_q4_0 * x, int j) {
        return { { turbo_load_word(x[0].qs, j & 3), turbo_load_word(x[1].qs, j & 3) }, {}, { *(const uint16_t *) &x[0].d, *(const uint16_t *) &x[1].d } };
    }
    static __device__ __forceinline__ void decode(const packed & p, int j, half * y) {
#pragma unroll
        for (int b = 0; b < 2; ++b) { cache_store4(y + 32*b + 4*j, p.codes[b] >> (j & 4) & 0x0f0f0f0f, 8, p.scale[b]); }
    }
};

template <> struct cache_format<block_q5_0> {
    static constexpr int BLOCKS = 2;
    typedef cache_packed_32 packed;
    static __device__ __forceinline__ packed load(const block_q5_0 * x, int j) {
        return { { turbo_load_word(x[0].qs, j & 3), turbo_load_word(x[1].qs, j & 3) }, { turbo_load_word(x[0].qh, 0), turbo_load_word(x[1].qh, 0) },
                 { *(const uint16_t *) &x[0].d, *(const uint16_t *) &x[1].d } };
    }
    static __device__ __forceinline__ void decode(const packed & p, int j, half * y) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const uint32_t four  = p.codes[b] >> (j & 4) & 0x0f0f0f0f;
            const uint32_t fifth = ((p.fifth[b] >> 4*j & 15)*0x00204081 & 0x01010101) << 4; // four bits to four bytes
            cache_store4(y + 32*b + 4*j, four | fifth, 16, p.scale[b]);
        }
    }
};
