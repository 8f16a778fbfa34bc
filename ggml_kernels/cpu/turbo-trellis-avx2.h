#pragma once

// ---- decoding ---------------------------------------------------------------------------------------------------------

// bit j of four bytes of a plane, from byte `first` on, to byte j as 0 or -1
static inline __m256i turbo3t_bits_32(const uint8_t * plane, int first) {
    const __m256i each = _mm256_set1_epi64x((long long) 0x8040201008040201);
    const __m256i spread = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    int bits;
    memcpy(&bits, plane + first, sizeof(bits));
    return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), each), each);
}

static inline __m256i turbo3t_symbols_32(const block_turbo3t * b, int first) {
    const __m256i bit0 = _mm256_and_si256(turbo3t_bits_32(b->qs[0], first), _mm256_set1_epi8(1));
    const __m256i bit1 = _mm256_and_si256(turbo3t_bits_32(b->qs[1], first), _mm256_set1_epi8(2));
    const __m256i bit2 = _mm256_and_si256(turbo3t_bits_32(b->qs[2], first), _mm256_set1_epi8(4));
    return _mm256_or_si256(_mm256_or_si256(bit0, bit1), bit2);
}

static inline __m256i turbo3t_map(const uint8_t * map, __m256i symbols) {
    long long bytes;
    memcpy(&bytes, map, sizeof(bytes));
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(bytes), symbols);
}

// entries of 32 symbols; `before` has in each 128-bit lane the 16 symbols before those of this lane
static inline __m256i turbo3t_entries_32(__m256i symbols, __m256i before) {
    const __m256i index = _mm256_xor_si256(turbo3t_map(turbo3t_maps[0], symbols), _mm256_xor_si256(
        turbo3t_map(turbo3t_maps[1], _mm256_alignr_epi8(symbols, before, 15)),
        turbo3t_map(turbo3t_maps[2], _mm256_alignr_epi8(symbols, before, 14))));
    __m256i part[4];
    for (int i = 0; i < 4; ++i) {
        const __m128i table = _mm_loadu_si128((const __m128i *) (kvalues_turbo3t + 16*i));
        part[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
    }
    const __m256i bit4 = _mm256_slli_epi16(index, 3);
    const __m256i bit5 = _mm256_slli_epi16(index, 2);
    return _mm256_blendv_epi8(_mm256_blendv_epi8(part[0], part[1], bit4), _mm256_blendv_epi8(part[2], part[3], bit4), bit5);
}

static inline turbo_entries turbo3t_entries(const block_turbo3t * b) {
    const __m128i start = _mm_insert_epi16(_mm_setzero_si128(), (b->ds >> 3 & 7) | (b->ds & 7) << 8, 7);
    const __m256i low   = turbo3t_symbols_32(b, 0);
    const __m256i high  = turbo3t_symbols_32(b, 4);
    turbo_entries t;
    t.v[0] = turbo3t_entries_32(low, _mm256_inserti128_si256(_mm256_castsi128_si256(start), _mm256_castsi256_si128(low), 1));
    t.v[1] = turbo3t_entries_32(high, _mm256_permute2x128_si256(low, high, 0x21));
    return t;
}

// ---- encoding ---------------------------------------------------------------------------------------------------------

static inline float turbo3t_load(const float * x, int32_t * q) {
    const __m256 most = _mm256_set1_ps(TURBO3T_VALUE_MAX);
    const __m256 least = _mm256_set1_ps(-TURBO3T_VALUE_MAX);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[8];
    __m256 size = _mm256_setzero_ps();
    for (int i = 0; i < 8; ++i) {
        v[i] = _mm256_loadu_ps(x + 8*i);
        v[i] = _mm256_and_ps(v[i], _mm256_cmp_ps(v[i], v[i], _CMP_ORD_Q));
        v[i] = _mm256_min_ps(_mm256_max_ps(v[i], least), most);
        size = _mm256_max_ps(size, _mm256_andnot_ps(sign, v[i]));
    }
    const float peak = turbo_max8(size);
    if (peak < TURBO3T_VALUE_MIN) {
        return 0.0f;
    }
    const __m256 factor = _mm256_set1_ps(TURBO3T_Q_MAX/peak);
    for (int i = 0; i < 8; ++i) {
        _mm256_storeu_si256((__m256i *) (q + 8*i), _mm256_cvtps_epi32(_mm256_mul_ps(v[i], factor)));
    }
    return peak;
}

// [row pair][x]: int16 pairs (entry, 2*entry^2) for the four tries of both rows
struct turbo3t_steps {
    __m256i pair[4][8];
};

static inline void turbo3t_make_steps(struct turbo3t_steps * steps) {
    for (int row = 0; row < 8; ++row) {
        for (int x = 0; x < 8; ++x) {
            const int e = kvalues_turbo3t[turbo3t_maps[1][row] ^ x << 3];
            const __m128i pair = _mm_set1_epi32((e & 0xffff) | 2*e*e << 16);
            _mm_store_si128((__m128i *) &steps->pair[row >> 1][x] + (row & 1), pair);
        }
    }
}

// where turbo3t_paths.came has a state
static inline int turbo3t_place(int state) {
    return (state & 0x33) | (state >> 1 & 4) | (state << 1 & 8);
}

static inline void turbo3t_windows(__m256i * best, __m256i cost, const __m256i * dist, int turn) {
    for (int column = 0; column < 8; ++column) {
        best[column] = _mm256_min_epi32(best[column], _mm256_add_epi32(cost, dist[column ^ turn]));
    }
}

// the states of two rows: from costs [oldest][pair of rows] to costs [row][pair of columns]
static inline void turbo3t_rows(__m256i before[8][4], __m256i after[8][4], int pair, const __m256i * dist, uint8_t * came) {
    const __m256i low = _mm256_set1_epi32(7);
    const __m256i row = _mm256_set_m128i(_mm_set1_epi32(2*pair + 1), _mm_set1_epi32(2*pair));
    __m256i best[8], oldest[8];
    for (int column = 0; column < 8; ++column) {
        best[column] = _mm256_add_epi32(before[0][pair], dist[column ^ turbo3t_turn(0)]);
    }
    turbo3t_windows(best, before[1][pair], dist, turbo3t_turn(1));
    turbo3t_windows(best, before[2][pair], dist, turbo3t_turn(2));
    turbo3t_windows(best, before[3][pair], dist, turbo3t_turn(3));
    turbo3t_windows(best, before[4][pair], dist, turbo3t_turn(4));
    turbo3t_windows(best, before[5][pair], dist, turbo3t_turn(5));
    turbo3t_windows(best, before[6][pair], dist, turbo3t_turn(6));
    turbo3t_windows(best, before[7][pair], dist, turbo3t_turn(7));
    for (int column = 0; column < 8; ++column) {
        oldest[column] = _mm256_and_si256(best[column], low);
        best[column]   = _mm256_or_si256(_mm256_andnot_si256(low, best[column]), row);
    }
    for (int i = 0; i < 2; ++i) {
        _mm256_storeu_si256((__m256i *) came + i, _mm256_packus_epi16(
            _mm256_packs_epi32(oldest[4*i + 0], oldest[4*i + 1]), _mm256_packs_epi32(oldest[4*i + 2], oldest[4*i + 3])));
    }
    for (int i = 0; i < 4; ++i) {
        after[2*pair    ][i] = _mm256_permute2x128_si256(best[2*i], best[2*i + 1], 0x20);
        after[2*pair + 1][i] = _mm256_permute2x128_si256(best[2*i], best[2*i + 1], 0x31);
    }
}

static inline void turbo3t_last(__m256i cost[8][4], int * last) {
    __m256i least = _mm256_set1_epi32(INT32_MAX);
    for (int row = 0; row < 8; ++row) {
        for (int i = 0; i < 4; ++i) {
            const int     state  = 8*row + 2*i;
            const __m256i states = _mm256_set_m128i(_mm_set1_epi32(state + 1), _mm_set1_epi32(state));
            const __m256i key    = _mm256_slli_epi32(_mm256_andnot_si256(_mm256_set1_epi32(7), cost[row][i]), 3);
            least = _mm256_min_epi32(least, _mm256_or_si256(key, states));
        }
    }
    const __m128i both = _mm_min_epi32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
    _mm_storeu_si128((__m128i *) last, _mm_and_si128(both, _mm_set1_epi32(TURBO3T_STATES - 1)));
}

static inline void turbo3t_forward(const int32_t * q, const float * factors, const struct turbo3t_steps * steps, struct turbo3t_paths * paths) {
    const __m128 factor = _mm_loadu_ps(factors);
    __m256i cost[2][8][4];
    for (int row = 0; row < 8; ++row) {
        for (int i = 0; i < 4; ++i) {
            cost[0][row][i] = _mm256_set1_epi32(row);
        }
    }
    for (int v = 0; v < QK_TURBO; ++v) {
        const __m128i target = _mm_cvtps_epi32(_mm_mul_ps(_mm_set1_ps((float) q[v]), factor));
        const __m128i turned = _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(target, 3));
        // 8*(2*entry^2 - entry*target)
        const __m256i weight = _mm256_broadcastsi128_si256(_mm_blend_epi16(turned, _mm_set1_epi32(8 << 16), 0xaa));
        for (int pair = 0; pair < 4; ++pair) {
            __m256i dist[8];
            for (int x = 0; x < 8; ++x) {
                dist[x] = _mm256_madd_epi16(steps->pair[pair][x], weight);
            }
            turbo3t_rows(cost[v & 1], cost[~v & 1], pair, dist, paths->came[v][16*pair]);
        }
    }
    turbo3t_last(cost[QK_TURBO & 1], paths->last);
}
