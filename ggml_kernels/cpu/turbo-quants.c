#include "turbo-quants.h"

#define TURBO_TABLES_SEARCH
#include "turbo-tables.h"
#include "turbo-quants-simd.h"

#include <assert.h>

#if defined(TURBO_ISA)

static_assert(TURBO_SEARCH % 4 == 0, "candidates are tried four at a time");
static_assert(QK8_0 == 32, "a turbo block goes with two Q8_0 blocks");

const char * turbo_quants_isa(void) {
    return TURBO_ISA;
}

static inline void turbo_find(const turbo_lanes * q, int levels, const int16_t * bounds, const uint8_t * book, const uint8_t * flip,
        const int8_t * kvalues, struct turbo_found * f) {
    f->index  = 0;
    f->dot    = 0;
    f->energy = 1;
    for (int c = 0; c < TURBO_SEARCH; c += 4) {
        int32_t sums[8];
        turbo_try4(q, bounds + c*levels, kvalues, book + c, flip + c, levels, sums);
        for (int i = 0; i < 4; ++i) {
            if (turbo_is_better(sums[i], sums[4 + i], f)) {
                f->index  = c + i;
                f->dot    = sums[i];
                f->energy = sums[4 + i];
            }
        }
    }
}

static inline uint16_t turbo_scale_bits(const struct turbo_found * f, int book, int flip) {
    return turbo_half_with_book(turbo_float_to_half(turbo_found_scale(f)), book, flip ^ f->negative);
}

void quantize_row_turbo3(const float * GGML_RESTRICT x, void * GGML_RESTRICT vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    block_turbo3 * y = (block_turbo3 *) vy;
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        turbo_lanes q;
        struct turbo_found f;
        uint8_t code[QK_TURBO];
        if (!turbo_load_lanes(x + ib*QK_TURBO, &q, &f)) {
            memset(&y[ib], 0, sizeof(y[ib]));
            continue;
        }
        turbo_find(&q, 8, &turbo3_search_bounds[0][0], turbo3_search_book, turbo3_search_flip, &kvalues_turbo3[0][0], &f);
        const int flip = turbo3_search_flip[f.index];
        turbo_codes(&q, turbo3_search_bounds[f.index], flip, 8, code);
        for (int i = 0; i < 16; ++i) {
            y[ib].qs[i] = (uint8_t) ((code[i] & 3) | (code[16 + i] & 3) << 2 | (code[32 + i] & 3) << 4 | (code[48 + i] & 3) << 6);
        }
        for (int i = 0; i < 8; ++i) {
            y[ib].qh[i] = (uint8_t) (code[i]      >> 2      | code[16 + i] >> 2 << 1 | code[ 8 + i] >> 2 << 2 | code[24 + i] >> 2 << 3 |
                                     code[32 + i] >> 2 << 4 | code[48 + i] >> 2 << 5 | code[40 + i] >> 2 << 6 | code[56 + i] >> 2 << 7);
        }
        y[ib].d = turbo_scale_bits(&f, turbo3_search_book[f.index], flip);
    }
}

void quantize_row_turbo4(const float * GGML_RESTRICT x, void * GGML_RESTRICT vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    block_turbo4 * y = (block_turbo4 *) vy;
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        turbo_lanes q;
        struct turbo_found f;
        uint8_t code[QK_TURBO];
        if (!turbo_load_lanes(x + ib*QK_TURBO, &q, &f)) {
            memset(&y[ib], 0, sizeof(y[ib]));
            continue;
        }
        turbo_find(&q, 16, &turbo4_search_bounds[0][0], turbo4_search_book, turbo4_search_flip, &kvalues_turbo4[0][0], &f);
        const int flip = turbo4_search_flip[f.index];
        turbo_codes(&q, turbo4_search_bounds[f.index], flip, 16, code);
        for (int i = 0; i < 32; ++i) {
            y[ib].qs[i] = (uint8_t) (code[i] | code[32 + i] << 4);
        }
        y[ib].d = turbo_scale_bits(&f, turbo4_search_book[f.index], flip);
    }
}

void turbo_dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        turbo_store_floats(turbo3_entries(&x[ib]), turbo_half_to_float(x[ib].d) * TURBO_ENTRY_SCALE, y + ib*QK_TURBO);
    }
}

void turbo_dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        turbo_store_floats(turbo4_entries(&x[ib]), turbo_half_to_float(x[ib].d) * TURBO_ENTRY_SCALE, y + ib*QK_TURBO);
    }
}

void ggml_vec_dot_turbo3_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    (void) bs; (void) bx; (void) by; (void) nrc;

    const block_turbo3 * x = (const block_turbo3 *) vx;
    const block_q8_0   * y = (const block_q8_0 *) vy;
    turbo_sum sum = turbo_sum_zero();
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        sum = turbo_sum_add(sum, turbo3_entries(&x[ib]), turbo_half_to_float(x[ib].d), &y[2*ib]);
    }
    *s = turbo_sum_total(sum) * TURBO_ENTRY_SCALE;
}

void ggml_vec_dot_turbo4_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    (void) bs; (void) bx; (void) by; (void) nrc;

    const block_turbo4 * x = (const block_turbo4 *) vx;
    const block_q8_0   * y = (const block_q8_0 *) vy;
    turbo_sum sum = turbo_sum_zero();
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        sum = turbo_sum_add(sum, turbo4_entries(&x[ib]), turbo_half_to_float(x[ib].d), &y[2*ib]);
    }
    *s = turbo_sum_total(sum) * TURBO_ENTRY_SCALE;
}

#else // no SIMD form for this target

const char * turbo_quants_isa(void) {
    return "generic";
}

void quantize_row_turbo3(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    quantize_row_turbo3_ref(x, (block_turbo3 *) y, k);
}

void quantize_row_turbo4(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    quantize_row_turbo4_ref(x, (block_turbo4 *) y, k);
}

void turbo_dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    dequantize_row_turbo3(x, y, k);
}

void turbo_dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    dequantize_row_turbo4(x, y, k);
}

void ggml_vec_dot_turbo3_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    ggml_vec_dot_turbo3_q8_0_generic(n, s, bs, vx, bx, vy, by, nrc);
}

void ggml_vec_dot_turbo4_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    ggml_vec_dot_turbo4_q8_0_generic(n, s, bs, vx, bx, vy, by, nrc);
}

#endif
