#include "turbo-quants-ref.h"

#include "ggml-impl.h"

#define TURBO_TABLES_SEARCH
#include "turbo-tables.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// where the third code bit of value 16*c + i stands in qh[i & 7]
static inline int turbo3_high_bit(int c, int i) {
    return 4*(c >> 1) + 2*(i >> 3) + (c & 1);
}

static inline float turbo_sanitize(float v) {
    if (v != v) {
        return 0.0f;
    }
    return v > TURBO_VALUE_MAX ? TURBO_VALUE_MAX : v < -TURBO_VALUE_MAX ? -TURBO_VALUE_MAX : v;
}

// the block as integers, turned so that the largest magnitude is +TURBO_Q_MAX; returns 0 for a block of zeros
static int turbo_load_block(const float * x, int16_t * q, struct turbo_found * f) {
    float v[QK_TURBO];
    float high = -INFINITY;
    float low  =  INFINITY;
    for (int j = 0; j < QK_TURBO; ++j) {
        v[j] = turbo_sanitize(x[j]);
        high = v[j] > high ? v[j] : high;
        low  = v[j] < low  ? v[j] : low;
    }
    f->negative = !(high >= -low);
    f->peak     = f->negative ? -low : high;
    if (f->peak < TURBO_VALUE_MIN) {
        return 0;
    }
    const float factor = TURBO_Q_MAX / f->peak;
    const float turn   = f->negative ? -factor : factor;
    for (int j = 0; j < QK_TURBO; ++j) {
        q[j] = (int16_t) lrintf(v[j] * turn);
    }
    return 1;
}

// code of each value = how many bounds are below it; bounds[0] is unused. Plain loops that any compiler vectorizes:
// a search in the bounds is slower, its branches being coin tosses.
static void turbo_codes(const int16_t * q, int flip, const int16_t * bounds, int levels, int16_t * code) {
    int16_t v[QK_TURBO];
    for (int j = 0; j < QK_TURBO; ++j) {
        v[j]    = flip ? (int16_t) -q[j] : q[j];
        code[j] = 0;
    }
    for (int i = 1; i < levels; ++i) {
        for (int j = 0; j < QK_TURBO; ++j) {
            code[j] = (int16_t) (code[j] + (v[j] > bounds[i]));
        }
    }
}

// Best candidate of the scale search. Row c of `bounds` is [unused, bound of code 1, ..., bound of the last code].
static void turbo_search(const int16_t * q, int levels, const int16_t * bounds, const uint8_t * book, const uint8_t * flip,
        const int8_t * kvalues, struct turbo_found * f) {
    f->index  = 0;
    f->dot    = 0;
    f->energy = 1;
    for (int c = 0; c < TURBO_SEARCH; ++c) {
        const int8_t * values = kvalues + book[c]*levels;
        int16_t code[QK_TURBO];
        turbo_codes(q, flip[c], bounds + c*levels, levels, code);
        int32_t dot    = 0;
        int32_t energy = 0;
        for (int j = 0; j < QK_TURBO; ++j) {
            const int t = values[code[j]];
            dot    += q[j]*t;
            energy += t*t;
        }
        dot = flip[c] ? -dot : dot;
        if (turbo_is_better(dot, energy, f)) {
            f->index  = c;
            f->dot    = dot;
            f->energy = energy;
        }
    }
}

void quantize_row_turbo3_ref(const float * GGML_RESTRICT x, block_turbo3 * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int16_t q[QK_TURBO];
        struct turbo_found f;
        memset(&y[ib], 0, sizeof(y[ib]));
        if (!turbo_load_block(x + ib*QK_TURBO, q, &f)) {
            continue;
        }
        turbo_search(q, 8, &turbo3_search_bounds[0][0], turbo3_search_book, turbo3_search_flip, &kvalues_turbo3[0][0], &f);
        const int flip = turbo3_search_flip[f.index];
        int16_t code[QK_TURBO];
        turbo_codes(q, flip, turbo3_search_bounds[f.index], 8, code);
        for (int c = 0; c < 4; ++c) {
            for (int i = 0; i < 16; ++i) {
                y[ib].qs[i]     |= (uint8_t) ((code[16*c + i] & 3)  << 2*c);
                y[ib].qh[i & 7] |= (uint8_t) ((code[16*c + i] >> 2) << turbo3_high_bit(c, i));
            }
        }
        y[ib].d = turbo_half_with_book(GGML_FP32_TO_FP16(turbo_found_scale(&f)), turbo3_search_book[f.index], flip ^ f.negative);
    }
}

void quantize_row_turbo4_ref(const float * GGML_RESTRICT x, block_turbo4 * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int16_t q[QK_TURBO];
        struct turbo_found f;
        memset(&y[ib], 0, sizeof(y[ib]));
        if (!turbo_load_block(x + ib*QK_TURBO, q, &f)) {
            continue;
        }
        turbo_search(q, 16, &turbo4_search_bounds[0][0], turbo4_search_book, turbo4_search_flip, &kvalues_turbo4[0][0], &f);
        const int flip = turbo4_search_flip[f.index];
        int16_t code[QK_TURBO];
        turbo_codes(q, flip, turbo4_search_bounds[f.index], 16, code);
        for (int i = 0; i < QK_TURBO/2; ++i) {
            y[ib].qs[i] = (uint8_t) (code[i] | code[i + QK_TURBO/2] << 4);
        }
        y[ib].d = turbo_half_with_book(GGML_FP32_TO_FP16(turbo_found_scale(&f)), turbo4_search_book[f.index], flip ^ f.negative);
    }
}

void turbo3_entries_ref(const block_turbo3 * x, int8_t * t) {
    const int8_t * values = kvalues_turbo3[x->d & (TURBO_BOOKS - 1)];
    for (int c = 0; c < 4; ++c) {
        for (int i = 0; i < 16; ++i) {
            const int high = x->qh[i & 7] >> turbo3_high_bit(c, i) & 1;
            t[16*c + i] = values[(x->qs[i] >> 2*c & 3) | high << 2];
        }
    }
}

void turbo4_entries_ref(const block_turbo4 * x, int8_t * t) {
    const int8_t * values = kvalues_turbo4[x->d & (TURBO_BOOKS - 1)];
    for (int i = 0; i < QK_TURBO/2; ++i) {
        t[i]              = values[x->qs[i] & 0xf];
        t[i + QK_TURBO/2] = values[x->qs[i] >> 4];
    }
}

void dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo3_entries_ref(&x[ib], t);
        const float d = GGML_FP16_TO_FP32(x[ib].d) * TURBO_ENTRY_SCALE;
        for (int j = 0; j < QK_TURBO; ++j) {
            y[ib*QK_TURBO + j] = d * t[j];
        }
    }
}

void dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo4_entries_ref(&x[ib], t);
        const float d = GGML_FP16_TO_FP32(x[ib].d) * TURBO_ENTRY_SCALE;
        for (int j = 0; j < QK_TURBO; ++j) {
            y[ib*QK_TURBO + j] = d * t[j];
        }
    }
}

size_t quantize_turbo3(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix) {
    GGML_UNUSED(imatrix);
    quantize_row_turbo3_ref(src, (block_turbo3 *) dst, nrows*n_per_row);
    return nrows * (n_per_row/QK_TURBO) * sizeof(block_turbo3);
}

size_t quantize_turbo4(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix) {
    GGML_UNUSED(imatrix);
    quantize_row_turbo4_ref(src, (block_turbo4 *) dst, nrows*n_per_row);
    return nrows * (n_per_row/QK_TURBO) * sizeof(block_turbo4);
}

float turbo_dot_block_ref(const int8_t * t, ggml_half d, const block_q8_0 * y) {
    int32_t sum0 = 0;
    int32_t sum1 = 0;
    for (int j = 0; j < QK8_0; ++j) {
        sum0 += t[j]         * y[0].qs[j];
        sum1 += t[QK8_0 + j] * y[1].qs[j];
    }
    return GGML_FP16_TO_FP32(d) * (GGML_FP16_TO_FP32(y[0].d)*(float) sum0 + GGML_FP16_TO_FP32(y[1].d)*(float) sum1);
}

void ggml_vec_dot_turbo3_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    GGML_UNUSED(bs); GGML_UNUSED(bx); GGML_UNUSED(by); GGML_UNUSED(nrc);

    const block_turbo3 * x = (const block_turbo3 *) vx;
    const block_q8_0   * y = (const block_q8_0 *) vy;
    float sum = 0.0f;
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo3_entries_ref(&x[ib], t);
        sum += turbo_dot_block_ref(t, x[ib].d, &y[2*ib]);
    }
    *s = sum * TURBO_ENTRY_SCALE;
}

void ggml_vec_dot_turbo4_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    GGML_UNUSED(bs); GGML_UNUSED(bx); GGML_UNUSED(by); GGML_UNUSED(nrc);

    const block_turbo4 * x = (const block_turbo4 *) vx;
    const block_q8_0   * y = (const block_q8_0 *) vy;
    float sum = 0.0f;
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo4_entries_ref(&x[ib], t);
        sum += turbo_dot_block_ref(t, x[ib].d, &y[2*ib]);
    }
    *s = sum * TURBO_ENTRY_SCALE;
}
