#include "turbo-trellis-ref.h"

#include "ggml-impl.h"
#include "turbo-quants-ref.h"

#include "turbo-trellis-tables.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define STATES  64 // two symbols
#define WINDOWS 512

static_assert(STATES*8 == WINDOWS, "a window is a state and a symbol");

static inline int8_t turbo3t_entry(int window) {
    return kvalues_turbo3t[turbo3t_maps[0][window & 7] ^ turbo3t_maps[1][window >> 3 & 7] ^ turbo3t_maps[2][window >> 6]];
}

static void turbo3t_entries(int state, const uint8_t * symbol, int8_t * t) {
    for (int v = 0; v < QK_TURBO; ++v) {
        const int window = state << 3 | symbol[v];
        t[v]  = turbo3t_entry(window);
        state = window & (STATES - 1);
    }
}

// The symbols and the start state (returned) whose entries are nearest to the target. entry: of each window.
static int turbo3t_viterbi(const int32_t * target, const int16_t * entry, uint8_t * symbol) {
    uint8_t came[QK_TURBO][STATES]; // the three oldest bits of the window by which a state was reached
    int32_t cost[STATES] = { 0 };
    for (int v = 0; v < QK_TURBO; ++v) {
        int32_t total[WINDOWS]; // with |target/4 - entry|^2 less what does not depend on the entry, halved
        for (int before = 0; before < STATES; ++before) {
            for (int w = 8*before; w < 8*before + 8; ++w) {
                total[w] = cost[before] + 2*entry[w]*entry[w] - entry[w]*(int16_t) target[v];
            }
        }
        int32_t oldest[STATES] = { 0 };
        memcpy(cost, total, sizeof(cost));
        for (int other = 1; other < 8; ++other) {
            for (int s = 0; s < STATES; ++s) {
                const int better = total[other*STATES + s] < cost[s];
                cost[s]   = better ? total[other*STATES + s] : cost[s];
                oldest[s] = better ? other : oldest[s];
            }
        }
        for (int s = 0; s < STATES; ++s) {
            came[v][s] = (uint8_t) oldest[s];
        }
    }
    int state = 0;
    for (int s = 1; s < STATES; ++s) {
        state = cost[s] < cost[state] ? s : state;
    }
    for (int v = QK_TURBO - 1; v >= 0; --v) {
        symbol[v] = (uint8_t) (state & 7);
        state     = (came[v][state]*STATES + state) >> 3;
    }
    return state;
}

// the block as integers; returns its largest magnitude, or 0 for a block of zeros
static float turbo3t_load(const float * x, int32_t * q) {
    float value[QK_TURBO];
    float peak = 0.0f;
    for (int v = 0; v < QK_TURBO; ++v) {
        const float size = x[v] != x[v] ? 0.0f : fabsf(x[v]) > TURBO3T_VALUE_MAX ? TURBO3T_VALUE_MAX : fabsf(x[v]);
        value[v] = x[v] < 0.0f ? -size : size;
        peak     = size > peak ? size : peak;
    }
    if (peak < TURBO3T_VALUE_MIN) {
        return 0.0f;
    }
    const float factor = TURBO3T_Q_MAX/peak;
    for (int v = 0; v < QK_TURBO; ++v) {
        q[v] = (int32_t) lrintf(value[v]*factor);
    }
    return peak;
}

static float turbo3t_rms(const int32_t * q) {
    int64_t sum = 0;
    for (int v = 0; v < QK_TURBO; ++v) {
        sum += (int64_t) q[v]*q[v];
    }
    return sqrtf((float) sum)/8.0f;
}

// One try of the scale: kept if it is better than what was found.
static void turbo3t_try(const int32_t * q, float factor, const int16_t * entry, struct turbo3t_found * found) {
    int32_t target[QK_TURBO];
    for (int v = 0; v < QK_TURBO; ++v) {
        target[v] = (int32_t) lrintf((float) q[v]*factor);
    }
    struct turbo3t_found f = { 0, 0, 0, { 0 } };
    int8_t t[QK_TURBO];
    f.start = turbo3t_viterbi(target, entry, f.symbol);
    turbo3t_entries(f.start, f.symbol, t);
    for (int v = 0; v < QK_TURBO; ++v) {
        f.dot    += q[v]*t[v];
        f.energy += t[v]*t[v];
    }
    if (turbo3t_is_better(f.dot, f.energy, found)) {
        *found = f;
    }
}

void quantize_row_turbo3t_ref(const float * GGML_RESTRICT x, block_turbo3t * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    int16_t entry[WINDOWS];
    for (int w = 0; w < WINDOWS; ++w) {
        entry[w] = turbo3t_entry(w);
    }
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int32_t q[QK_TURBO];
        const float peak = turbo3t_load(x + ib*QK_TURBO, q);
        memset(&y[ib], 0, sizeof(y[ib]));
        if (peak == 0.0f) {
            continue;
        }
        const float rms = turbo3t_rms(q);
        struct turbo3t_found f = { 0, 1, 0, { 0 } };
        for (int i = 0; i < TURBO3T_SPANS; ++i) {
            turbo3t_try(q, turbo3t_spans[i]*TURBO3T_TARGET/rms, entry, &f);
        }
        turbo3t_try(q, 127.0f*TURBO3T_TARGET/TURBO3T_Q_MAX, entry, &f);
        y[ib].ds = turbo3t_field(GGML_FP32_TO_FP16(turbo3t_found_scale(peak, &f)), f.start);
        for (int v = 0; v < QK_TURBO; ++v) {
            for (int plane = 0; plane < 3; ++plane) {
                y[ib].qs[plane][v >> 3] |= (uint8_t) ((f.symbol[v] >> plane & 1) << (v & 7));
            }
        }
    }
}

void turbo3t_entries_ref(const block_turbo3t * x, int8_t * t) {
    uint8_t symbol[QK_TURBO];
    for (int v = 0; v < QK_TURBO; ++v) {
        symbol[v] = 0;
        for (int plane = 0; plane < 3; ++plane) {
            symbol[v] |= (uint8_t) ((x->qs[plane][v >> 3] >> (v & 7) & 1) << plane);
        }
    }
    turbo3t_entries(x->ds & (STATES - 1), symbol, t);
}

void dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo3t_entries_ref(&x[ib], t);
        const float d = GGML_FP16_TO_FP32(turbo3t_scale_half(&x[ib]))*TURBO_ENTRY_SCALE;
        for (int v = 0; v < QK_TURBO; ++v) {
            y[ib*QK_TURBO + v] = d*t[v];
        }
    }
}

size_t quantize_turbo3t(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix) {
    GGML_UNUSED(imatrix);
    quantize_row_turbo3t_ref(src, (block_turbo3t *) dst, nrows*n_per_row);
    return nrows * (n_per_row/QK_TURBO) * sizeof(block_turbo3t);
}

void ggml_vec_dot_turbo3t_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) {
    assert(n % QK_TURBO == 0);
    assert(nrc == 1);
    GGML_UNUSED(bs); GGML_UNUSED(bx); GGML_UNUSED(by); GGML_UNUSED(nrc);

    const block_turbo3t * x = (const block_turbo3t *) vx;
    const block_q8_0    * y = (const block_q8_0 *) vy;
    float sum = 0.0f;
    for (int ib = 0; ib < n/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        turbo3t_entries_ref(&x[ib], t);
        sum += turbo_dot_block_ref(t, turbo3t_scale_half(&x[ib]), &y[2*ib]);
    }
    *s = sum * TURBO_ENTRY_SCALE;
}
