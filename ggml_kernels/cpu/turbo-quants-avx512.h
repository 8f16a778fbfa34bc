#pragma once

#include <immintrin.h>

#define TURBO_ISA "avx512"

typedef __m512i turbo_entries;
typedef __m512  turbo_sum;

typedef struct {
    __m512i x[2][2];
} turbo_lanes;

static inline float turbo_half_to_float(ggml_half h) {
    return _cvtsh_ss(h);
}

static inline uint16_t turbo_float_to_half(float f) {
    return _cvtss_sh(f, 0);
}

static inline turbo_entries turbo4_entries(const block_turbo4 * b) {
    const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i raw   = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) b->qs));
    const __m512i code  = _mm512_and_si512(_mm512_srlv_epi16(raw, shift), _mm512_set1_epi8(15));
    const __m128i book  = _mm_loadu_si128((const __m128i *) kvalues_turbo4[b->d & (TURBO_BOOKS - 1)]);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(book), code);
}

static inline turbo_entries turbo3_entries(const block_turbo3 * b) {
    // 32-bit shifts drag in bits of the next byte, above the two that are kept
    const __m512i shift = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0);
    const __m512i bit   = _mm512_set_epi64(0x8080808080808080, 0x2020202020202020, 0x4040404040404040, 0x1010101010101010,
                                           0x0808080808080808, 0x0202020202020202, 0x0404040404040404, 0x0101010101010101);
    long long high, book;
    memcpy(&high, b->qh, sizeof(high));
    memcpy(&book, kvalues_turbo3[b->d & (TURBO_BOOKS - 1)], sizeof(book));
    const __m512i raw  = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) b->qs));
    const __m512i low  = _mm512_and_si512(_mm512_srlv_epi32(raw, shift), _mm512_set1_epi8(3));
    const __mmask64 up = _mm512_test_epi8_mask(_mm512_set1_epi64(high), bit);
    return _mm512_shuffle_epi8(_mm512_set1_epi64(book), _mm512_mask_add_epi8(low, up, low, _mm512_set1_epi8(4)));
}

static inline void turbo_store_floats(turbo_entries t, float d, float * y) {
    const __m512 scale = _mm512_set1_ps(d);
    _mm512_storeu_ps(y +  0, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_castsi512_si128(t)))));
    _mm512_storeu_ps(y + 16, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(t, 1)))));
    _mm512_storeu_ps(y + 32, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(t, 2)))));
    _mm512_storeu_ps(y + 48, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(t, 3)))));
}

static inline turbo_sum turbo_sum_zero(void) {
    return _mm512_setzero_ps();
}

static inline float turbo_sum_total(turbo_sum s) {
    return _mm512_reduce_add_ps(s);
}

static inline turbo_sum turbo_sum_add(turbo_sum sum, turbo_entries t, float d, const block_q8_0 * y) {
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) y[0].qs)),
                                         _mm256_loadu_si256((const __m256i *) y[1].qs), 1);
#if defined(__AVX512VNNI__)
    // dpbusd wants an unsigned factor: (t + 128)*q - 128*q
    const __m512i half = _mm512_set1_epi8((char) 0x80);
    const __m512i dot  = _mm512_sub_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(t, half), q),
                                          _mm512_dpbusd_epi32(_mm512_setzero_si512(), half, q));
#else
    // |q| * (t with the sign of q): t is never -128, and 2*128*127 fits int16
    const __m512i st  = _mm512_mask_sub_epi8(t, _mm512_movepi8_mask(q), _mm512_setzero_si512(), t);
    const __m512i dot = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(q), st), _mm512_set1_epi16(1));
#endif
    const __m512 scale = _mm512_insertf32x8(_mm512_set1_ps(d * turbo_half_to_float(y[0].d)),
                                            _mm256_set1_ps(d * turbo_half_to_float(y[1].d)), 1);
    return _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), sum);
}

static inline int turbo_load_lanes(const float * x, turbo_lanes * q, struct turbo_found * f) {
    const __m512 most = _mm512_set1_ps(TURBO_VALUE_MAX);
    __m512 v[4];
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_loadu_ps(x + 16*i);
        v[i] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v[i], v[i], _CMP_ORD_Q), v[i]);
        v[i] = _mm512_min_ps(_mm512_max_ps(v[i], _mm512_sub_ps(_mm512_setzero_ps(), most)), most);
    }
    const float high = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(v[0], v[1]), _mm512_max_ps(v[2], v[3])));
    const float low  = _mm512_reduce_min_ps(_mm512_min_ps(_mm512_min_ps(v[0], v[1]), _mm512_min_ps(v[2], v[3])));
    f->negative = !(high >= -low);
    f->peak     = f->negative ? -low : high;
    if (f->peak < TURBO_VALUE_MIN) {
        return 0;
    }
    const float factor = TURBO_Q_MAX / f->peak;
    const __m512 turn  = _mm512_set1_ps(f->negative ? -factor : factor);
    __m256i w[4];
    for (int i = 0; i < 4; ++i) {
        w[i] = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(v[i], turn)));
    }
    for (int h = 0; h < 2; ++h) {
        q->x[0][h] = _mm512_inserti64x4(_mm512_castsi256_si512(w[2*h]), w[2*h + 1], 1);
        q->x[1][h] = _mm512_sub_epi16(_mm512_setzero_si512(), q->x[0][h]);
    }
    return 1;
}

// codes of 32 values by binary search in the bounds
static inline __m512i turbo_bisect(__m512i x, __m512i bounds, int levels) {
    __m512i code = _mm512_setzero_si512();
    for (int step = levels/2; step > 0; step /= 2) {
        const __m512i next = _mm512_or_si512(code, _mm512_set1_epi16((short) step));
        code = _mm512_mask_mov_epi16(code, _mm512_cmpgt_epi16_mask(x, _mm512_permutexvar_epi16(next, bounds)), next);
    }
    return code;
}

static inline __m512i turbo_load_bounds(const int16_t * bounds, int levels) {
    return levels == 16 ? _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) bounds))
                        : _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) bounds));
}

// sums of 8 vectors, in order
static inline __m256i turbo_reduce8(const __m512i * s) {
    __m256i r[8];
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_add_epi32(_mm512_castsi512_si256(s[i]), _mm512_extracti64x4_epi64(s[i], 1));
    }
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(r[0], r[1]), _mm256_hadd_epi32(r[2], r[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(r[4], r[5]), _mm256_hadd_epi32(r[6], r[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

// four candidates: sums[0..3] of q*t, sums[4..7] of t*t
static inline void turbo_try4(const turbo_lanes * q, const int16_t * bounds, const int8_t * kvalues, const uint8_t * book,
        const uint8_t * flip, int levels, int32_t * sums) {
    __m512i s[8];
    for (int c = 0; c < 4; ++c) {
        const __m128i bytes = levels == 16 ? _mm_loadu_si128((const __m128i *) (kvalues + book[c]*levels))
                                           : _mm_loadl_epi64((const __m128i *) (kvalues + book[c]*levels));
        const __m512i values = _mm512_broadcast_i64x4(_mm256_cvtepi8_epi16(bytes));
        const __m512i bound  = turbo_load_bounds(bounds + c*levels, levels);
        const __m512i x0 = q->x[flip[c]][0];
        const __m512i x1 = q->x[flip[c]][1];
        const __m512i t0 = _mm512_permutexvar_epi16(turbo_bisect(x0, bound, levels), values);
        const __m512i t1 = _mm512_permutexvar_epi16(turbo_bisect(x1, bound, levels), values);
        s[c]     = _mm512_add_epi32(_mm512_madd_epi16(x0, t0), _mm512_madd_epi16(x1, t1));
        s[c + 4] = _mm512_add_epi32(_mm512_madd_epi16(t0, t0), _mm512_madd_epi16(t1, t1));
    }
    _mm256_storeu_si256((__m256i *) sums, turbo_reduce8(s));
}

static inline void turbo_codes(const turbo_lanes * q, const int16_t * bounds, int flip, int levels, uint8_t * codes) {
    const __m512i bound = turbo_load_bounds(bounds, levels);
    for (int h = 0; h < 2; ++h) {
        _mm256_storeu_si256((__m256i *) (codes + 32*h), _mm512_cvtepi16_epi8(turbo_bisect(q->x[flip][h], bound, levels)));
    }
}
