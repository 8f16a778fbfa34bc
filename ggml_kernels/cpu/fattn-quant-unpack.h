#pragma once

// Unpackers: one per cache type, from packed blocks to int8 codebook entries and float scales.
//
//   value[j] = d[j / BLOCK] * q[j] + m[j / BLOCK]          (m only where HAS_MIN)
//
// A new cache type is one struct here and one line in the table of fattn-quant.cpp.

#define GGML_COMMON_IMPL_CPP
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#include "turbo-tables.h"
#include "turbo-trellis-tables.h"
#include "turbo-quants-simd.h"
#include "turbo-trellis-simd.h"

#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)

// 16 packed bytes -> 32 nibbles, low nibbles first, the order of all 32-value types
static inline __m256i nibbles_32(const uint8_t * qs) {
    const __m128i x = _mm_loadu_si128((const __m128i *) qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(0xf));
}

// bit j of 32 bits -> 0x10 in byte j
static inline __m256i fifth_bits_32(const uint8_t * qh) {
    int bits;
    memcpy(&bits, qh, 4);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), _mm256_set_epi64x(
        0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0x0000000000000000));
    const __m256i each = _mm256_set1_epi64x((long long) 0x8040201008040201);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, each), each), _mm256_set1_epi8(0x10));
}

static inline void store_32(int8_t * q, __m256i x) { _mm256_storeu_si256((__m256i *) q, x); }

static inline void unpack_nibbles(const uint8_t * qs, int bias, int8_t * q) {
    store_32(q, _mm256_sub_epi8(nibbles_32(qs), _mm256_set1_epi8((char) bias)));
}

static inline void unpack_nibbles5(const uint8_t * qs, const uint8_t * qh, int bias, int8_t * q) {
    store_32(q, _mm256_sub_epi8(_mm256_or_si256(nibbles_32(qs), fifth_bits_32(qh)), _mm256_set1_epi8((char) bias)));
}

static inline void unpack_nibbles_table(const uint8_t * qs, const int8_t * table, int8_t * q) {
    store_32(q, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) table)), nibbles_32(qs)));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

static inline void unpack_nibbles(const uint8_t * qs, int bias, int8_t * q) {
    const uint8x16_t x = vld1q_u8(qs);
    vst1q_s8(q,      vsubq_s8(vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(0xf))), vdupq_n_s8((int8_t) bias)));
    vst1q_s8(q + 16, vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(x, 4)),             vdupq_n_s8((int8_t) bias)));
}

static inline void unpack_nibbles5(const uint8_t * qs, const uint8_t * qh, int bias, int8_t * q) {
    static const uint8_t each[16] = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    const uint8x16_t x = vld1q_u8(qs);
    const uint8x16_t nibbles[2] = { vandq_u8(x, vdupq_n_u8(0xf)), vshrq_n_u8(x, 4) };
    for (int h = 0; h < 2; ++h) {
        const uint8x16_t spread = vcombine_u8(vdup_n_u8(qh[2*h]), vdup_n_u8(qh[2*h + 1]));
        const uint8x16_t fifth  = vandq_u8(vtstq_u8(spread, vld1q_u8(each)), vdupq_n_u8(0x10));
        vst1q_s8(q + 16*h, vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(nibbles[h], fifth)), vdupq_n_s8((int8_t) bias)));
    }
}

static inline void unpack_nibbles_table(const uint8_t * qs, const int8_t * table, int8_t * q) {
    const uint8x16_t x = vld1q_u8(qs);
    const int8x16_t  t = vld1q_s8(table);
    vst1q_s8(q,      vqtbl1q_s8(t, vandq_u8(x, vdupq_n_u8(0xf))));
    vst1q_s8(q + 16, vqtbl1q_s8(t, vshrq_n_u8(x, 4)));
}

#else

static inline void unpack_nibbles(const uint8_t * qs, int bias, int8_t * q) {
    for (int j = 0; j < 16; ++j) {
        q[j]      = (int8_t) ((qs[j] & 0xf) - bias);
        q[j + 16] = (int8_t) ((qs[j] >>  4) - bias);
    }
}

static inline void unpack_nibbles5(const uint8_t * qs, const uint8_t * qh, int bias, int8_t * q) {
    uint32_t bits;
    memcpy(&bits, qh, 4);
    for (int j = 0; j < 16; ++j) {
        q[j]      = (int8_t) (((qs[j] & 0xf) | ((bits >> j        & 1) << 4)) - bias);
        q[j + 16] = (int8_t) (((qs[j] >>  4) | ((bits >> (j + 16) & 1) << 4)) - bias);
    }
}

static inline void unpack_nibbles_table(const uint8_t * qs, const int8_t * table, int8_t * q) {
    for (int j = 0; j < 16; ++j) {
        q[j]      = table[qs[j] & 0xf];
        q[j + 16] = table[qs[j] >>  4];
    }
}

#endif

struct unpack_q8_0 {
    typedef block_q8_0 block_t;
    static constexpr int  BLOCK   = QK8_0;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
        memcpy(q, b.qs, QK8_0);
        d = GGML_CPU_FP16_TO_FP32(b.d);
    }
};

struct unpack_q5_1 {
    typedef block_q5_1 block_t;
    static constexpr int  BLOCK   = QK5_1;
    static constexpr bool HAS_MIN = true;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float & m) {
        unpack_nibbles5(b.qs, b.qh, 0, q);
        d = GGML_CPU_FP16_TO_FP32(b.data.data.d);
        m = GGML_CPU_FP16_TO_FP32(b.data.data.m);
    }
};

struct unpack_q5_0 {
    typedef block_q5_0 block_t;
    static constexpr int  BLOCK   = QK5_0;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
        unpack_nibbles5(b.qs, b.qh, 16, q);
        d = GGML_CPU_FP16_TO_FP32(b.d);
    }
};

struct unpack_q4_1 {
    typedef block_q4_1 block_t;
    static constexpr int  BLOCK   = QK4_1;
    static constexpr bool HAS_MIN = true;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float & m) {
        unpack_nibbles(b.qs, 0, q);
        d = GGML_CPU_FP16_TO_FP32(b.data.data.d);
        m = GGML_CPU_FP16_TO_FP32(b.data.data.m);
    }
};

struct unpack_q4_0 {
    typedef block_q4_0 block_t;
    static constexpr int  BLOCK   = QK4_0;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
        unpack_nibbles(b.qs, 8, q);
        d = GGML_CPU_FP16_TO_FP32(b.d);
    }
};

struct unpack_iq4_nl {
    typedef block_iq4_nl block_t;
    static constexpr int  BLOCK   = QK4_NL;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
        unpack_nibbles_table(b.qs, kvalues_iq4nl, q);
        d = GGML_CPU_FP16_TO_FP32(b.d);
    }
};

// the table entries of a turbo block, by the decoders of turbo-quants.c and turbo-trellis.c
#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
static inline void store_entries(int8_t * q, const turbo_entries & t) { _mm512_storeu_si512(q, t); }
#elif defined(TURBO_ISA)
static inline void store_entries(int8_t * q, const turbo_entries & t) { memcpy(q, &t, QK_TURBO); }
#endif

struct unpack_turbo4 {
    typedef block_turbo4 block_t;
    static constexpr int  BLOCK   = QK_TURBO;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
#if defined(TURBO_ISA)
        store_entries(q, turbo4_entries(&b));
#else
        turbo4_entries_ref(&b, q);
#endif
        d = GGML_CPU_FP16_TO_FP32(b.d) * TURBO_ENTRY_SCALE;
    }
};

struct unpack_turbo3 {
    typedef block_turbo3 block_t;
    static constexpr int  BLOCK   = QK_TURBO;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
#if defined(TURBO_ISA)
        store_entries(q, turbo3_entries(&b));
#else
        turbo3_entries_ref(&b, q);
#endif
        d = GGML_CPU_FP16_TO_FP32(b.d) * TURBO_ENTRY_SCALE;
    }
};

struct unpack_turbo3t {
    typedef block_turbo3t block_t;
    static constexpr int  BLOCK   = QK_TURBO;
    static constexpr bool HAS_MIN = false;
    static inline void unpack(const block_t & b, int8_t * q, float & d, float &) {
#if defined(TURBO_ISA)
        store_entries(q, turbo3t_entries(&b));
#else
        turbo3t_entries_ref(&b, q);
#endif
        d = GGML_CPU_FP16_TO_FP32(turbo3t_scale_half(&b)) * TURBO_ENTRY_SCALE;
    }
};
