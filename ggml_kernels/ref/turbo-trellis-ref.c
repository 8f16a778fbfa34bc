#include "turbo-trellis-ref.h"

#include "ggml-impl.h"

#include "turbo-trellis-tables.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define STATES  64 // two symbols
#define WINDOWS 512
#define ENTRIES 64

static_assert(STATES*8 == WINDOWS, "a window is a state and a symbol");

#define Q_MAX  16384.0f // the block as integers has its largest magnitude here
#define TARGET 4.0f     // targets are in quarters of an entry

static inline int turbo3t_index(int window) {
    int index = 0;
    for (int bit = 0; bit < 6; ++bit) {
        for (int masked = window & turbo3t_masks[bit]; masked; masked &= masked - 1) {
            index ^= 1 << bit;
        }
    }
    return index;
}

static void turbo3t_entries(int state, const uint8_t * symbol, int8_t * t) {
    for (int v = 0; v < QK_TURBO; ++v) {
        const int window = state << 3 | symbol[v];
        t[v]  = kvalues_turbo3t[turbo3t_index(window)];
        state = window & (STATES - 1);
    }
}

// The symbols and the start state (returned) whose entries are nearest to the target.
static int turbo3t_viterbi(const int32_t * target, const uint8_t * index, uint8_t * symbol) {
    uint8_t came[QK_TURBO][STATES]; // the three oldest bits of the window by which a state was reached
    int32_t cost[STATES] = { 0 };
    for (int v = 0; v < QK_TURBO; ++v) {
        int32_t near[ENTRIES]; // |target/4 - entry|^2 less what does not depend on the entry, halved
        for (int i = 0; i < ENTRIES; ++i) {
            near[i] = 2*kvalues_turbo3t[i]*kvalues_turbo3t[i] - kvalues_turbo3t[i]*target[v];
        }
        int32_t total[WINDOWS];
        for (int w = 0; w < WINDOWS; ++w) {
            total[w] = cost[w >> 3] + near[index[w]];
        }
        for (int s = 0; s < STATES; ++s) {
            cost[s]    = total[s];
            came[v][s] = 0;
        }
        for (int oldest = 1; oldest < 8; ++oldest) {
            for (int s = 0; s < STATES; ++s) {
                const int32_t other  = total[oldest*STATES + s];
                const int     better = other < cost[s];
                cost[s]    = better ? other : cost[s];
                came[v][s] = (uint8_t) (better ? oldest : came[v][s]);
            }
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
    const float factor = Q_MAX/peak;
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

// what the search keeps: sums of q*t and t*t, and the path
struct turbo3t_found {
    int32_t dot;
    int32_t energy;
    int     start;
    uint8_t symbol[QK_TURBO];
};

// One try of the scale: kept if it is better than what was found.
static void turbo3t_try(const int32_t * q, float factor, const uint8_t * index, struct turbo3t_found * found) {
    int32_t target[QK_TURBO];
    for (int v = 0; v < QK_TURBO; ++v) {
        target[v] = (int32_t) lrintf((float) q[v]*factor);
    }
    struct turbo3t_found f = { 0, 0, 0, { 0 } };
    int8_t t[QK_TURBO];
    f.start = turbo3t_viterbi(target, index, f.symbol);
    turbo3t_entries(f.start, f.symbol, t);
    for (int v = 0; v < QK_TURBO; ++v) {
        f.dot    += q[v]*t[v];
        f.energy += t[v]*t[v];
    }
    const float a = (float) f.dot;
    const float b = (float) found->dot;
    // dot^2/energy is what a least-squares scale removes from the error
    if (f.dot > 0 && a*a*(float) found->energy > b*b*(float) f.energy) {
        *found = f;
    }
}

void quantize_row_turbo3t_ref(const float * GGML_RESTRICT x, block_turbo3t * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    uint8_t index[WINDOWS];
    for (int w = 0; w < WINDOWS; ++w) {
        index[w] = (uint8_t) turbo3t_index(w);
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
            turbo3t_try(q, turbo3t_spans[i]*TARGET/rms, index, &f);
        }
        turbo3t_try(q, 127.0f*TARGET/Q_MAX, index, &f);
        const float scale = peak*((float) f.dot/(float) f.energy)*(128.0f/Q_MAX);
        const int   half  = GGML_FP32_TO_FP16(scale < 65504.0f ? scale : 65504.0f);
        const int   kept  = (half + 16) >> 5;
        y[ib].ds = (uint16_t) ((kept < 0x7c00 >> 5 ? kept : (0x7c00 >> 5) - 1) << 6 | f.start);
        for (int v = 0; v < QK_TURBO; ++v) {
            for (int plane = 0; plane < 3; ++plane) {
                y[ib].qs[plane][v >> 3] |= (uint8_t) ((f.symbol[v] >> plane & 1) << (v & 7));
            }
        }
    }
}

ggml_half turbo3t_entries_ref(const block_turbo3t * x, int8_t * t) {
    uint8_t symbol[QK_TURBO];
    for (int v = 0; v < QK_TURBO; ++v) {
        symbol[v] = 0;
        for (int plane = 0; plane < 3; ++plane) {
            symbol[v] |= (uint8_t) ((x->qs[plane][v >> 3] >> (v & 7) & 1) << plane);
        }
    }
    turbo3t_entries(x->ds & (STATES - 1), symbol, t);
    return (ggml_half) (x->ds >> 6 << 5);
}

void dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_TURBO == 0);
    for (int64_t ib = 0; ib < k/QK_TURBO; ++ib) {
        int8_t t[QK_TURBO];
        const ggml_half bits = turbo3t_entries_ref(&x[ib], t);
        const float d = GGML_FP16_TO_FP32(bits)*TURBO_ENTRY_SCALE;
        for (int v = 0; v < QK_TURBO; ++v) {
            y[ib*QK_TURBO + v] = d*t[v];
        }
    }
}
