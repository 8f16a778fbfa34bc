#pragma once

#include <arm_neon.h>

#define TURBO_ISA "neon"

typedef struct {
    int8x16_t v[4];
} turbo_entries;

typedef float32x4_t turbo_sum;

typedef struct {
    int16x8_t x[2][8];
} turbo_lanes;

static inline float turbo_half_to_float(ggml_half h) {
    __fp16 half;
    memcpy(&half, &h, sizeof(half));
    return (float) half;
}

static inline uint16_t turbo_float_to_half(float f) {
    const __fp16 half = (__fp16) f;
    uint16_t bits;
    memcpy(&bits, &half, sizeof(bits));
    return bits;
}

static inline turbo_entries turbo4_entries(const block_turbo4 * b) {
    const int8x16_t book = vld1q_s8(kvalues_turbo4[b->d & (TURBO_BOOKS - 1)]);
    turbo_entries t;
    for (int i = 0; i < 2; ++i) {
        const uint8x16_t raw = vld1q_u8(b->qs + 16*i);
        t.v[i]     = vqtbl1q_s8(book, vandq_u8(raw, vdupq_n_u8(15)));
        t.v[i + 2] = vqtbl1q_s8(book, vshrq_n_u8(raw, 4));
    }
    return t;
}

static inline turbo_entries turbo3_entries(const block_turbo3 * b) {
    const int8x8_t   half = vld1_s8(kvalues_turbo3[b->d & (TURBO_BOOKS - 1)]);
    const int8x16_t  book = vcombine_s8(half, half);
    const uint8x8_t  h8   = vld1_u8(b->qh);
    const uint8x16_t high = vcombine_u8(h8, h8);
    const uint8x16_t bit  = vcombine_u8(vdup_n_u8(0x01), vdup_n_u8(0x04));
    const uint8x16_t low  = vld1q_u8(b->qs);
    const uint8x16_t two  = vdupq_n_u8(3);
    const uint8x16_t four = vdupq_n_u8(4);
    turbo_entries t;
    t.v[0] = vqtbl1q_s8(book, vorrq_u8(vandq_u8(low,                two), vandq_u8(vtstq_u8(high, bit), four)));
    t.v[1] = vqtbl1q_s8(book, vorrq_u8(vandq_u8(vshrq_n_u8(low, 2), two), vandq_u8(vtstq_u8(high, vshlq_n_u8(bit, 1)), four)));
    t.v[2] = vqtbl1q_s8(book, vorrq_u8(vandq_u8(vshrq_n_u8(low, 4), two), vandq_u8(vtstq_u8(high, vshlq_n_u8(bit, 4)), four)));
    t.v[3] = vqtbl1q_s8(book, vorrq_u8(vshrq_n_u8(low, 6),                vandq_u8(vtstq_u8(high, vshlq_n_u8(bit, 5)), four)));
    return t;
}

static inline void turbo_store_floats(turbo_entries t, float d, float * y) {
    for (int i = 0; i < 4; ++i) {
        const int16x8_t lo = vmovl_s8(vget_low_s8(t.v[i]));
        const int16x8_t hi = vmovl_s8(vget_high_s8(t.v[i]));
        vst1q_f32(y + 16*i +  0, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))),  d));
        vst1q_f32(y + 16*i +  4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))), d));
        vst1q_f32(y + 16*i +  8, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))),  d));
        vst1q_f32(y + 16*i + 12, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi))), d));
    }
}

static inline turbo_sum turbo_sum_zero(void) {
    return vdupq_n_f32(0.0f);
}

static inline float turbo_sum_total(turbo_sum s) {
    return vaddvq_f32(s);
}

static inline int32x4_t turbo_dot16(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, a, b);
#else
    // 2*128*127 fits int16
    return vpadalq_s16(sum, vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vget_high_s8(a), vget_high_s8(b)));
#endif
}

static inline turbo_sum turbo_sum_add(turbo_sum sum, turbo_entries t, float d, const block_q8_0 * y) {
    for (int h = 0; h < 2; ++h) {
        int32x4_t dot = turbo_dot16(vdupq_n_s32(0), t.v[2*h], vld1q_s8(y[h].qs));
        dot = turbo_dot16(dot, t.v[2*h + 1], vld1q_s8(y[h].qs + 16));
        sum = vfmaq_n_f32(sum, vcvtq_f32_s32(dot), d * turbo_half_to_float(y[h].d));
    }
    return sum;
}

static inline int turbo_load_lanes(const float * x, turbo_lanes * q, struct turbo_found * f) {
    const float32x4_t most  = vdupq_n_f32(TURBO_VALUE_MAX);
    const float32x4_t least = vdupq_n_f32(-TURBO_VALUE_MAX);
    float32x4_t v[16];
    float32x4_t high = least;
    float32x4_t low  = most;
    for (int i = 0; i < 16; ++i) {
        v[i] = vld1q_f32(x + 4*i);
        v[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v[i]), vceqq_f32(v[i], v[i])));
        v[i] = vminq_f32(vmaxq_f32(v[i], least), most);
        high = vmaxq_f32(high, v[i]);
        low  = vminq_f32(low, v[i]);
    }
    const float top    = vmaxvq_f32(high);
    const float bottom = -vminvq_f32(low);
    f->negative = !(top >= bottom);
    f->peak     = f->negative ? bottom : top;
    if (f->peak < TURBO_VALUE_MIN) {
        return 0;
    }
    const float factor = TURBO_Q_MAX / f->peak;
    const float turn   = f->negative ? -factor : factor;
    for (int i = 0; i < 8; ++i) {
        const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(v[2*i], turn));
        const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(v[2*i + 1], turn));
        q->x[0][i] = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        q->x[1][i] = vnegq_s16(q->x[0][i]);
    }
    return 1;
}

static inline void turbo_count(const int16x8_t * x, const int16_t * bounds, int levels, uint8x16_t * code) {
    uint16x8_t count[8];
    for (int h = 0; h < 8; ++h) {
        count[h] = vdupq_n_u16(0);
    }
    for (int i = 1; i < levels; ++i) {
        const int16x8_t bound = vdupq_n_s16(bounds[i]);
        for (int h = 0; h < 8; ++h) {
            count[h] = vsubq_u16(count[h], vcgtq_s16(x[h], bound));
        }
    }
    for (int h = 0; h < 4; ++h) {
        code[h] = vcombine_u8(vmovn_u16(count[2*h]), vmovn_u16(count[2*h + 1]));
    }
}

// four candidates: sums[0..3] of q*t, sums[4..7] of t*t
static inline void turbo_try4(const turbo_lanes * q, const int16_t * bounds, const int8_t * kvalues, const uint8_t * book,
        const uint8_t * flip, int levels, int32_t * sums) {
    for (int c = 0; c < 4; ++c) {
        const int8_t * row = kvalues + book[c]*levels;
        const int8x16_t values = levels == 16 ? vld1q_s8(row) : vcombine_s8(vld1_s8(row), vdup_n_s8(0));
        const int16x8_t * x = q->x[flip[c]];
        uint8x16_t code[4];
        turbo_count(x, bounds + c*levels, levels, code);
        int32x4_t dot    = vdupq_n_s32(0);
        int32x4_t energy = vdupq_n_s32(0);
        for (int h = 0; h < 4; ++h) {
            const int8x16_t t  = vqtbl1q_s8(values, code[h]);
            const int16x8_t t0 = vmovl_s8(vget_low_s8(t));
            const int16x8_t t1 = vmovl_s8(vget_high_s8(t));
            dot = vmlal_s16(dot, vget_low_s16(x[2*h]), vget_low_s16(t0));
            dot = vmlal_high_s16(dot, x[2*h], t0);
            dot = vmlal_s16(dot, vget_low_s16(x[2*h + 1]), vget_low_s16(t1));
            dot = vmlal_high_s16(dot, x[2*h + 1], t1);
            energy = turbo_dot16(energy, t, t);
        }
        sums[c]     = vaddvq_s32(dot);
        sums[c + 4] = vaddvq_s32(energy);
    }
}

static inline void turbo_codes(const turbo_lanes * q, const int16_t * bounds, int flip, int levels, uint8_t * codes) {
    uint8x16_t code[4];
    turbo_count(q->x[flip], bounds, levels, code);
    for (int h = 0; h < 4; ++h) {
        vst1q_u8(codes + 16*h, code[h]);
    }
}
