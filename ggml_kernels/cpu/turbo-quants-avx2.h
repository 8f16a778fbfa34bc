#pragma once

#include <immintrin.h>

#define TURBO_ISA "avx2"

typedef struct {
    __m256i v[2];
} turbo_entries;

typedef __m256 turbo_sum;

typedef struct {
    __m256i x[2][4];
} turbo_lanes;

static inline float turbo_half_to_float(ggml_half h) {
    return _cvtsh_ss(h);
}

static inline uint16_t turbo_float_to_half(float f) {
    return (uint16_t) _cvtss_sh(f, 0);
}

static inline turbo_entries turbo4_entries(const block_turbo4 * b) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i raw    = _mm256_loadu_si256((const __m256i *) b->qs);
    const __m256i book   = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) kvalues_turbo4[b->d & (TURBO_BOOKS - 1)]));
    turbo_entries t;
    t.v[0] = _mm256_shuffle_epi8(book, _mm256_and_si256(raw, nibble));
    t.v[1] = _mm256_shuffle_epi8(book, _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble));
    return t;
}

static inline turbo_entries turbo3_entries(const block_turbo3 * b) {
    const __m256i two  = _mm256_set1_epi8(3);
    const __m256i four = _mm256_set1_epi8(4);
    // bit of qh per lane; the second half of the block has it four higher
    const __m256i bit0 = _mm256_set_epi64x(0x0808080808080808, 0x0202020202020202, 0x0404040404040404, 0x0101010101010101);
    const __m256i bit1 = _mm256_slli_epi16(bit0, 4);
    long long high, book;
    memcpy(&high, b->qh, sizeof(high));
    memcpy(&book, kvalues_turbo3[b->d & (TURBO_BOOKS - 1)], sizeof(book));
    const __m256i qh     = _mm256_set1_epi64x(high);
    const __m256i values = _mm256_set1_epi64x(book);
    const __m256i raw    = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) b->qs));
    // 32-bit shifts drag in bits of the next byte, above the two that are kept
    const __m256i spread = _mm256_srlv_epi32(raw, _mm256_set_epi32(2, 2, 2, 2, 0, 0, 0, 0));
    const __m256i up0 = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(qh, bit0), bit0), four);
    const __m256i up1 = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(qh, bit1), bit1), four);
    turbo_entries t;
    t.v[0] = _mm256_shuffle_epi8(values, _mm256_or_si256(_mm256_and_si256(spread, two), up0));
    t.v[1] = _mm256_shuffle_epi8(values, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(spread, 4), two), up1));
    return t;
}

static inline void turbo_store_floats(turbo_entries t, float d, float * y) {
    const __m256 scale = _mm256_set1_ps(d);
    for (int h = 0; h < 2; ++h) {
        const __m128i lo = _mm256_castsi256_si128(t.v[h]);
        const __m128i hi = _mm256_extracti128_si256(t.v[h], 1);
        float * p = y + 32*h;
        _mm256_storeu_ps(p +  0, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(lo))));
        _mm256_storeu_ps(p +  8, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(lo, 8)))));
        _mm256_storeu_ps(p + 16, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(hi))));
        _mm256_storeu_ps(p + 24, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(hi, 8)))));
    }
}

static inline turbo_sum turbo_sum_zero(void) {
    return _mm256_setzero_ps();
}

static inline float turbo_sum_total(turbo_sum s) {
    __m128 r = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

static inline turbo_sum turbo_sum_add(turbo_sum sum, turbo_entries t, float d, const block_q8_0 * y) {
    for (int h = 0; h < 2; ++h) {
        const __m256i q   = _mm256_loadu_si256((const __m256i *) y[h].qs);
        // |q| * (t with the sign of q): t is never -128, and 2*128*127 fits int16
        const __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(t.v[h], q)), _mm256_set1_epi16(1));
        sum = _mm256_fmadd_ps(_mm256_set1_ps(d * turbo_half_to_float(y[h].d)), _mm256_cvtepi32_ps(dot), sum);
    }
    return sum;
}

static inline float turbo_max8(__m256 v) {
    __m128 r = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    r = _mm_max_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

static inline int turbo_load_lanes(const float * x, turbo_lanes * q, struct turbo_found * f) {
    const __m256 most  = _mm256_set1_ps(TURBO_VALUE_MAX);
    const __m256 least = _mm256_set1_ps(-TURBO_VALUE_MAX);
    __m256 v[8];
    __m256 high = least;
    __m256 low  = most;
    for (int i = 0; i < 8; ++i) {
        v[i] = _mm256_loadu_ps(x + 8*i);
        v[i] = _mm256_and_ps(v[i], _mm256_cmp_ps(v[i], v[i], _CMP_ORD_Q));
        v[i] = _mm256_min_ps(_mm256_max_ps(v[i], least), most);
        high = _mm256_max_ps(high, v[i]);
        low  = _mm256_min_ps(low, v[i]);
    }
    const float top    = turbo_max8(high);
    const float bottom = turbo_max8(_mm256_sub_ps(_mm256_setzero_ps(), low)); // = -(least value)
    f->negative = !(top >= bottom);
    f->peak     = f->negative ? bottom : top;
    if (f->peak < TURBO_VALUE_MIN) {
        return 0;
    }
    const float factor = TURBO_Q_MAX / f->peak;
    const __m256 turn  = _mm256_set1_ps(f->negative ? -factor : factor);
    for (int i = 0; i < 4; ++i) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(v[2*i], turn));
        const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(v[2*i + 1], turn));
        q->x[0][i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        q->x[1][i] = _mm256_sub_epi16(_mm256_setzero_si256(), q->x[0][i]);
    }
    return 1;
}

static inline void turbo_count(const __m256i * x, const int16_t * bounds, int levels, __m256i * code) {
    for (int h = 0; h < 4; ++h) {
        code[h] = _mm256_setzero_si256();
    }
    for (int i = 1; i < levels; ++i) {
        const __m256i bound = _mm256_set1_epi16(bounds[i]);
        for (int h = 0; h < 4; ++h) {
            code[h] = _mm256_sub_epi16(code[h], _mm256_cmpgt_epi16(x[h], bound));
        }
    }
}

// sums of 8 vectors, in order
static inline __m256i turbo_reduce8(const __m256i * r) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(r[0], r[1]), _mm256_hadd_epi32(r[2], r[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(r[4], r[5]), _mm256_hadd_epi32(r[6], r[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

// four candidates: sums[0..3] of q*t, sums[4..7] of t*t
static inline void turbo_try4(const turbo_lanes * q, const int16_t * bounds, const int8_t * kvalues, const uint8_t * book,
        const uint8_t * flip, int levels, int32_t * sums) {
    __m256i s[8];
    for (int c = 0; c < 4; ++c) {
        const __m128i bytes  = levels == 16 ? _mm_loadu_si128((const __m128i *) (kvalues + book[c]*levels))
                                            : _mm_loadl_epi64((const __m128i *) (kvalues + book[c]*levels));
        const __m256i values = _mm256_broadcastsi128_si256(bytes);
        const __m256i * x = q->x[flip[c]];
        __m256i code[4];
        turbo_count(x, bounds + c*levels, levels, code);
        __m256i dot    = _mm256_setzero_si256();
        __m256i energy = _mm256_setzero_si256();
        for (int h = 0; h < 4; h += 2) {
            // packing and unpacking both work within 128-bit lanes, so the order comes back
            const __m256i t  = _mm256_shuffle_epi8(values, _mm256_packs_epi16(code[h], code[h + 1]));
            const __m256i t0 = _mm256_srai_epi16(_mm256_unpacklo_epi8(t, t), 8);
            const __m256i t1 = _mm256_srai_epi16(_mm256_unpackhi_epi8(t, t), 8);
            dot    = _mm256_add_epi32(dot, _mm256_add_epi32(_mm256_madd_epi16(x[h], t0), _mm256_madd_epi16(x[h + 1], t1)));
            energy = _mm256_add_epi32(energy, _mm256_add_epi32(_mm256_madd_epi16(t0, t0), _mm256_madd_epi16(t1, t1)));
        }
        s[c]     = dot;
        s[c + 4] = energy;
    }
    _mm256_storeu_si256((__m256i *) sums, turbo_reduce8(s));
}

static inline void turbo_codes(const turbo_lanes * q, const int16_t * bounds, int flip, int levels, uint8_t * codes) {
    __m256i code[4];
    turbo_count(q->x[flip], bounds, levels, code);
    for (int h = 0; h < 2; ++h) {
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(code[2*h], code[2*h + 1]), 0xd8);
        _mm256_storeu_si256((__m256i *) (codes + 32*h), bytes);
    }
}
