#include "turbo-trellis.h"

#include "turbo-tables.h"
#include "turbo-trellis-tables.h"
#include "turbo-quants-simd.h"
#include "turbo-trellis-simd.h"

#include <assert.h>
#include <math.h>

#if defined(TURBO_ISA)

static_assert(TURBO3T_SPANS + 1 == TURBO3T_TRIES, "the tries are the lanes of a vector");

// the entry of each window
static void turbo3t_window_entries(int8_t * entry) {
    for (int w = 0; w < TURBO3T_WINDOWS; ++w) {
        entry[w] = kvalues_turbo3t[turbo3t_maps[0][w & 7] ^ turbo3t_maps[1][w >> 3 & 7] ^ turbo3t_maps[2][w >> 6]];
    }
}

// what each try multiplies q by: three RMS, and the largest magnitude at entry 127
static void turbo3t_factors(const int32_t * q, float * factor) {
    int64_t sum = 0;
    for (int v = 0; v < QK_TURBO; ++v) {
        sum += (int64_t) q[v]*q[v];
    }
    const float rms = sqrtf((float) sum)/8.0f;
    for (int i = 0; i < TURBO3T_SPANS; ++i) {
        factor[i] = turbo3t_spans[i]*TURBO3T_TARGET/rms;
    }
    factor[TURBO3T_SPANS] = 127.0f*TURBO3T_TARGET/TURBO3T_Q_MAX;
}

// The paths backwards, all tries at once: their steps wait for each other, not for those of another try. state[] is the
// last state of each try and becomes the one before the first symbol.
static void turbo3t_trace(const struct turbo3t_paths * paths, const int8_t * window_entry, int * state,
        uint8_t symbol[TURBO3T_TRIES][QK_TURBO], int8_t entry[TURBO3T_TRIES][QK_TURBO]) {
    for (int v = QK_TURBO - 1; v >= 0; --v) {
        for (int i = 0; i < TURBO3T_TRIES; ++i) {
            const int window = (paths->came[v][turbo3t_place(state[i])][i] & 7) << 6 | state[i];
            symbol[i][v] = (uint8_t) (window & 7);
            entry[i][v]  = window_entry[window];
            state[i]     = window >> 3;
        }
    }
}

static void turbo3t_find(const int32_t * q, const struct turbo3t_steps * steps, const int8_t * window_entry, struct turbo3t_found * f) {
    float factor[TURBO3T_TRIES];
    struct turbo3t_paths paths;
    uint8_t symbol[TURBO3T_TRIES][QK_TURBO];
    int8_t  entry[TURBO3T_TRIES][QK_TURBO];
    turbo3t_factors(q, factor);
    turbo3t_forward(q, factor, steps, &paths);
    turbo3t_trace(&paths, window_entry, paths.last, symbol, entry);
    memset(f, 0, sizeof(*f));
    f->energy = 1;
    for (int i = 0; i < TURBO3T_TRIES; ++i) {
        int32_t dot    = 0;
        int32_t energy = 0;
        for (int v = 0; v < QK_TURBO; ++v) {
            dot    += q[v]*entry[i][v];
            energy += entry[i][v]*entry[i][v];
        }
        if (turbo3t_is_better(dot, energy, f)) {
            f->dot    = dot;
            f->energy = energy;
            f->start  = paths.last[i];
            memcpy(f->symbol, symbol[i], QK_TURBO);
        }
    }
}

static void turbo3t_write_planes(const uint8_t * symbol, block_turbo3t * y) {
    for (int i = 0; i < QK_TURBO/8; ++i) {
        for (int plane = 0; plane < 3; ++plane) {
            int bits = 0;
            for (int j = 0; j < 8; ++j) {
                bits |= (symbol[8*i + j] >> plane & 1) << j;
            }
            y->qs[plane][i] = (uint8_t) bits;
        }
    }
}

void quantize_row_turbo3t(const float * GGML_RESTRICT x, void * GGML_RESTRICT vy, int64_t k) {
    assert(k % QK_TURBO == 0);
    block_turbo3t * y = (block_turbo3t *) vy;
    struct turbo3t_steps steps;
    int8_t window_entry[TURBO3T_WINDOWS];
    turbo3t_make_steps(&steps);
    turbo3t_window_entries(window_entry);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int32_t q[QK_TURBO];
        struct turbo3t_found f;
        const float peak = turbo3t_load(x + ib*QK_TURBO, q);
        if (peak == 0.0f) {
            memset(&y[ib], 0, sizeof(y[ib]));
            continue;
        }
        turbo3t_find(q, &steps, window_entry, &f);
        turbo3t_write_planes(f.symbol, &y[ib]);
        y[ib].ds = turbo3t_field(turbo_float_to_half(turbo3t_found_scale(peak, &f)), f.start);
    }
}

void turbo_dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        turbo_store_floats(turbo3t_entries(&x[ib]), turbo_half_to_float(turbo3t_scale_half(&x[ib])) * TURBO_ENTRY_SCALE, y + ib*QK_TURBO);
    }
}

void ggml_vec_dot_turbo3t_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    (void) bs; (void) bx; (void) by; (void) nrc;

    const block_turbo3t * x = (const block_turbo3t *) vx;
    const block_q8_0    * y = (const block_q8_0 *) vy;
    turbo_sum sum = turbo_sum_zero();
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        sum = turbo_sum_add(sum, turbo3t_entries(&x[ib]), turbo_half_to_float(turbo3t_scale_half(&x[ib])), &y[2*ib]);
    }
    *s = turbo_sum_total(sum) * TURBO_ENTRY_SCALE;
}

#else // no SIMD form for this target

void quantize_row_turbo3t(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    quantize_row_turbo3t_ref(x, (block_turbo3t *) y, k);
}

void turbo_dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    dequantize_row_turbo3t(x, y, k);
}

void ggml_vec_dot_turbo3t_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    ggml_vec_dot_turbo3t_q8_0_generic(n, s, bs, vx, bx, vy, by, nrc);
}

#endif
