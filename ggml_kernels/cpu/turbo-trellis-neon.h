#pragma once

// ---- decoding ---------------------------------------------------------------------------------------------------------

static inline uint8x16_t turbo3t_symbols_16(const block_turbo3t * b, int first) {
    const uint8x16_t each = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    uint8x16_t symbols = vdupq_n_u8(0);
    for (int plane = 0; plane < 3; ++plane) {
        const uint8x16_t bits = vcombine_u8(vld1_dup_u8(b->qs[plane] + first), vld1_dup_u8(b->qs[plane] + first + 1));
        symbols = vorrq_u8(symbols, vandq_u8(vtstq_u8(bits, each), vdupq_n_u8((uint8_t) (1 << plane))));
    }
    return symbols;
}

static inline uint8x16_t turbo3t_map(const uint8_t * map, uint8x16_t symbols) {
    const uint8x8_t half = vld1_u8(map);
    return vqtbl1q_u8(vcombine_u8(half, half), symbols);
}

static inline turbo_entries turbo3t_entries(const block_turbo3t * b) {
    int8x16x4_t table;
    for (int i = 0; i < 4; ++i) {
        table.val[i] = vld1q_s8(kvalues_turbo3t + 16*i);
    }
    uint8x16_t before = vsetq_lane_u8((uint8_t) (b->ds & 7), vdupq_n_u8((uint8_t) (b->ds >> 3 & 7)), 15);
    turbo_entries t;
    for (int i = 0; i < 4; ++i) {
        const uint8x16_t symbols = turbo3t_symbols_16(b, 2*i);
        const uint8x16_t index = veorq_u8(turbo3t_map(turbo3t_maps[0], symbols), veorq_u8(
            turbo3t_map(turbo3t_maps[1], vextq_u8(before, symbols, 15)),
            turbo3t_map(turbo3t_maps[2], vextq_u8(before, symbols, 14))));
        t.v[i] = vqtbl4q_s8(table, index);
        before = symbols;
    }
    return t;
}

// ---- encoding ---------------------------------------------------------------------------------------------------------

static inline float turbo3t_load(const float * x, int32_t * q) {
    const float32x4_t most  = vdupq_n_f32(TURBO3T_VALUE_MAX);
    const float32x4_t least = vdupq_n_f32(-TURBO3T_VALUE_MAX);
    float32x4_t v[16];
    float32x4_t size = vdupq_n_f32(0.0f);
    for (int i = 0; i < 16; ++i) {
        v[i] = vld1q_f32(x + 4*i);
        v[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v[i]), vceqq_f32(v[i], v[i])));
        v[i] = vminq_f32(vmaxq_f32(v[i], least), most);
        size = vmaxq_f32(size, vabsq_f32(v[i]));
    }
    const float peak = vmaxvq_f32(size);
    if (peak < TURBO3T_VALUE_MIN) {
        return 0.0f;
    }
    for (int i = 0; i < 16; ++i) {
        vst1q_s32(q + 4*i, vcvtnq_s32_f32(vmulq_n_f32(v[i], TURBO3T_Q_MAX/peak)));
    }
    return peak;
}

// [row][x]: entry for the four tries, then entry^2 for them
struct turbo3t_steps {
    int16x8_t pair[8][8];
};

static inline void turbo3t_make_steps(struct turbo3t_steps * steps) {
    for (int row = 0; row < 8; ++row) {
        for (int x = 0; x < 8; ++x) {
            const int16_t e = kvalues_turbo3t[turbo3t_maps[1][row] ^ x << 3];
            steps->pair[row][x] = vcombine_s16(vdup_n_s16(e), vdup_n_s16((int16_t) (e*e)));
        }
    }
}

// where turbo3t_paths.came has a state
static inline int turbo3t_place(int state) {
    return state;
}

static inline void turbo3t_windows(int32x4_t * best, int32x4_t cost, const int32x4_t * dist, int turn) {
    for (int column = 0; column < 8; ++column) {
        best[column] = vminq_s32(best[column], vaddq_s32(cost, dist[column ^ turn]));
    }
}

// the states of a row: from costs [oldest][row] to costs [row][column]
static inline void turbo3t_row(int32x4_t before[8][8], int32x4_t after[8][8], int row, const int32x4_t * dist, uint8_t * came) {
    const int32x4_t low = vdupq_n_s32(7);
    int32x4_t best[8];
    for (int column = 0; column < 8; ++column) {
        best[column] = vaddq_s32(before[0][row], dist[column ^ turbo3t_turn(0)]);
    }
    turbo3t_windows(best, before[1][row], dist, turbo3t_turn(1));
    turbo3t_windows(best, before[2][row], dist, turbo3t_turn(2));
    turbo3t_windows(best, before[3][row], dist, turbo3t_turn(3));
    turbo3t_windows(best, before[4][row], dist, turbo3t_turn(4));
    turbo3t_windows(best, before[5][row], dist, turbo3t_turn(5));
    turbo3t_windows(best, before[6][row], dist, turbo3t_turn(6));
    turbo3t_windows(best, before[7][row], dist, turbo3t_turn(7));
    for (int i = 0; i < 2; ++i) {
        const int16x8_t a = vuzp1q_s16(vreinterpretq_s16_s32(best[4*i + 0]), vreinterpretq_s16_s32(best[4*i + 1]));
        const int16x8_t b = vuzp1q_s16(vreinterpretq_s16_s32(best[4*i + 2]), vreinterpretq_s16_s32(best[4*i + 3]));
        vst1q_u8(came + 16*i, vuzp1q_u8(vreinterpretq_u8_s16(a), vreinterpretq_u8_s16(b)));
    }
    for (int column = 0; column < 8; ++column) {
        after[row][column] = vorrq_s32(vbicq_s32(best[column], low), vdupq_n_s32(row));
    }
}

static inline void turbo3t_last(int32x4_t cost[8][8], int * last) {
    int32x4_t least = vdupq_n_s32(INT32_MAX);
    for (int row = 0; row < 8; ++row) {
        for (int column = 0; column < 8; ++column) {
            const int32x4_t key = vshlq_n_s32(vbicq_s32(cost[row][column], vdupq_n_s32(7)), 3);
            least = vminq_s32(least, vorrq_s32(key, vdupq_n_s32(8*row + column)));
        }
    }
    vst1q_s32(last, vandq_s32(least, vdupq_n_s32(TURBO3T_STATES - 1)));
}

static inline void turbo3t_forward(const int32_t * q, const float * factors, const struct turbo3t_steps * steps, struct turbo3t_paths * paths) {
    const float32x4_t factor = vld1q_f32(factors);
    int32x4_t cost[2][8][8];
    for (int row = 0; row < 8; ++row) {
        for (int column = 0; column < 8; ++column) {
            cost[0][row][column] = vdupq_n_s32(row);
        }
    }
    for (int v = 0; v < QK_TURBO; ++v) {
        const int32x4_t target = vcvtnq_s32_f32(vmulq_n_f32(factor, (float) q[v]));
        const int16x4_t weight = vmovn_s32(vnegq_s32(vshlq_n_s32(target, 3)));
        for (int row = 0; row < 8; ++row) {
            int32x4_t dist[8]; // 8*(2*entry^2 - entry*target)
            for (int x = 0; x < 8; ++x) {
                const int16x8_t pair = steps->pair[row][x];
                dist[x] = vmlal_n_s16(vmull_s16(vget_low_s16(pair), weight), vget_high_s16(pair), 16);
            }
            turbo3t_row(cost[v & 1], cost[~v & 1], row, dist, paths->came[v][8*row]);
        }
    }
    turbo3t_last(cost[QK_TURBO & 1], paths->last);
}
