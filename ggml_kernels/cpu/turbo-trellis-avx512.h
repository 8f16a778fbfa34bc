#pragma once

// ---- decoding ---------------------------------------------------------------------------------------------------------

static inline __m512i turbo3t_map(const uint8_t * map, __m512i symbols) {
    long long bytes;
    memcpy(&bytes, map, sizeof(bytes));
    return _mm512_shuffle_epi8(_mm512_set1_epi64(bytes), symbols);
}

static inline __m512i turbo3t_lookup(__m512i index) {
#if defined(__AVX512VBMI__)
    return _mm512_permutexvar_epi8(index, _mm512_loadu_si512(kvalues_turbo3t));
#else
    const __mmask64 bit4 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(16));
    const __mmask64 bit5 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(32));
    __m512i table[4];
    for (int i = 0; i < 4; ++i) {
        table[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) (kvalues_turbo3t + 16*i)));
    }
    const __m512i low  = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table[0], index), bit4, table[1], index);
    const __m512i high = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table[2], index), bit4, table[3], index);
    return _mm512_mask_mov_epi8(low, bit5, high);
#endif
}

static inline turbo_entries turbo3t_entries(const block_turbo3t * b) {
    uint64_t plane[3];
    memcpy(plane, b->qs, sizeof(plane));
    const __m512i bit0    = _mm512_maskz_set1_epi8(plane[0], 1);
    const __m512i bit1    = _mm512_maskz_set1_epi8(plane[1], 2);
    const __m512i bit2    = _mm512_maskz_set1_epi8(plane[2], 4);
    const __m512i symbols = _mm512_ternarylogic_epi32(bit0, bit1, bit2, 0xfe); // or
    const __m512i start   = _mm512_set1_epi16((short) ((b->ds >> 3 & 7) | (b->ds & 7) << 8));
    const __m512i before  = _mm512_alignr_epi32(symbols, start, 12); // in each 128-bit lane, the one before it
    const __m512i index   = _mm512_ternarylogic_epi32(turbo3t_map(turbo3t_maps[0], symbols),
        turbo3t_map(turbo3t_maps[1], _mm512_alignr_epi8(symbols, before, 15)),
        turbo3t_map(turbo3t_maps[2], _mm512_alignr_epi8(symbols, before, 14)), 0x96); // xor
    return turbo3t_lookup(index);
}

// ---- encoding ---------------------------------------------------------------------------------------------------------

static inline float turbo3t_load(const float * x, int32_t * q) {
    const __m512 most  = _mm512_set1_ps(TURBO3T_VALUE_MAX);
    const __m512 least = _mm512_set1_ps(-TURBO3T_VALUE_MAX);
    __m512 v[4];
    __m512 size = _mm512_setzero_ps();
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_loadu_ps(x + 16*i);
        v[i] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v[i], v[i], _CMP_ORD_Q), v[i]);
        v[i] = _mm512_min_ps(_mm512_max_ps(v[i], least), most);
        size = _mm512_max_ps(size, _mm512_abs_ps(v[i]));
    }
    const float peak = _mm512_reduce_max_ps(size);
    if (peak < TURBO3T_VALUE_MIN) {
        return 0.0f;
    }
    const __m512 factor = _mm512_set1_ps(TURBO3T_Q_MAX/peak);
    for (int i = 0; i < 4; ++i) {
        _mm512_storeu_si512(q + 16*i, _mm512_cvtps_epi32(_mm512_mul_ps(v[i], factor)));
    }
    return peak;
}

// [four rows][x]: int16 pairs (entry, 2*entry^2) for the four tries of each row
struct turbo3t_steps {
    __m512i pair[2][8];
};

static inline void turbo3t_make_steps(struct turbo3t_steps * steps) {
    for (int row = 0; row < 8; ++row) {
        for (int x = 0; x < 8; ++x) {
            const int e = kvalues_turbo3t[turbo3t_maps[1][row] ^ x << 3];
            const __m128i pair = _mm_set1_epi32((e & 0xffff) | 2*e*e << 16);
            _mm_store_si128((__m128i *) &steps->pair[row >> 2][x] + (row & 3), pair);
        }
    }
}

// where turbo3t_paths.came has a state
static inline int turbo3t_place(int state) {
    return (state & 0x20) | (state << 2 & 0x1c) | (state >> 3 & 3);
}

static inline void turbo3t_windows(__m512i * best, __m512i cost, const __m512i * dist, int turn) {
    for (int column = 0; column < 8; ++column) {
        best[column] = _mm512_min_epi32(best[column], _mm512_add_epi32(cost, dist[column ^ turn]));
    }
}

// the states of four rows: from costs [oldest][four rows] to costs [row][four columns]
static inline void turbo3t_rows(__m512i before[8][2], __m512i after[8][2], int four, const __m512i * dist, uint8_t * came) {
    const __m512i row = _mm512_add_epi32(_mm512_set1_epi32(4*four), _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0));
    __m512i best[8];
    for (int column = 0; column < 8; ++column) {
        best[column] = _mm512_add_epi32(before[0][four], dist[column ^ turbo3t_turn(0)]);
    }
    turbo3t_windows(best, before[1][four], dist, turbo3t_turn(1));
    turbo3t_windows(best, before[2][four], dist, turbo3t_turn(2));
    turbo3t_windows(best, before[3][four], dist, turbo3t_turn(3));
    turbo3t_windows(best, before[4][four], dist, turbo3t_turn(4));
    turbo3t_windows(best, before[5][four], dist, turbo3t_turn(5));
    turbo3t_windows(best, before[6][four], dist, turbo3t_turn(6));
    turbo3t_windows(best, before[7][four], dist, turbo3t_turn(7));
    for (int column = 0; column < 8; ++column) {
        _mm_storeu_si128((__m128i *) came + column, _mm512_cvtepi32_epi8(best[column]));
        // the row in place of the low three bits
        best[column] = _mm512_ternarylogic_epi32(best[column], row, _mm512_set1_epi32(7), 0xd8);
    }
    for (int i = 0; i < 2; ++i) {
        const __m512i a = _mm512_shuffle_i32x4(best[4*i + 0], best[4*i + 1], 0x44);
        const __m512i b = _mm512_shuffle_i32x4(best[4*i + 2], best[4*i + 3], 0x44);
        const __m512i c = _mm512_shuffle_i32x4(best[4*i + 0], best[4*i + 1], 0xee);
        const __m512i d = _mm512_shuffle_i32x4(best[4*i + 2], best[4*i + 3], 0xee);
        after[4*four + 0][i] = _mm512_shuffle_i32x4(a, b, 0x88);
        after[4*four + 1][i] = _mm512_shuffle_i32x4(a, b, 0xdd);
        after[4*four + 2][i] = _mm512_shuffle_i32x4(c, d, 0x88);
        after[4*four + 3][i] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
}

static inline void turbo3t_last(__m512i cost[8][2], int * last) {
    const __m512i columns = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    __m512i least = _mm512_set1_epi32(INT32_MAX);
    for (int row = 0; row < 8; ++row) {
        for (int i = 0; i < 2; ++i) {
            const __m512i states = _mm512_add_epi32(columns, _mm512_set1_epi32(8*row + 4*i));
            const __m512i key    = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(7), cost[row][i]), 3);
            least = _mm512_min_epi32(least, _mm512_or_si512(key, states));
        }
    }
    const __m256i half = _mm256_min_epi32(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
    const __m128i all  = _mm_min_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128((__m128i *) last, _mm_and_si128(all, _mm_set1_epi32(TURBO3T_STATES - 1)));
}

static inline void turbo3t_forward(const int32_t * q, const float * factors, const struct turbo3t_steps * steps, struct turbo3t_paths * paths) {
    const __m128 factor = _mm_loadu_ps(factors);
    __m512i cost[2][8][2];
    for (int row = 0; row < 8; ++row) {
        cost[0][row][0] = _mm512_set1_epi32(row);
        cost[0][row][1] = _mm512_set1_epi32(row);
    }
    for (int v = 0; v < QK_TURBO; ++v) {
        const __m128i target = _mm_cvtps_epi32(_mm_mul_ps(_mm_set1_ps((float) q[v]), factor));
        const __m128i turned = _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(target, 3));
        // 8*(2*entry^2 - entry*target)
        const __m512i weight = _mm512_broadcast_i32x4(_mm_blend_epi16(turned, _mm_set1_epi32(8 << 16), 0xaa));
        for (int four = 0; four < 2; ++four) {
            __m512i dist[8];
            for (int x = 0; x < 8; ++x) {
                dist[x] = _mm512_madd_epi16(steps->pair[four][x], weight);
            }
            turbo3t_rows(cost[v & 1], cost[~v & 1], four, dist, paths->came[v][32*four]);
        }
    }
    turbo3t_last(cost[QK_TURBO & 1], paths->last);
}
