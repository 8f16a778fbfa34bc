#pragma once

// Scalar reference of turbo3t, a trellis code in turbo3's 26 bytes (turbobench/codec/TRELLIS.md says what it gains). It is
// the specification: every fast path gives the same bytes and the same floats.
//
//   value[v] = d * kvalues_turbo3t[maps[0][symbol[v]] ^ maps[1][symbol[v-1]] ^ maps[2][symbol[v-2]]] / 128
//
// A symbol has 3 bits; three are a window, the earlier two a state. symbol[-1] and symbol[-2] (the start state) are bits
// 0..2 and 3..5 of `ds`; its other ten bits are those of d, an fp16 >= 0 without its sign and its five lowest mantissa
// bits. Plane k of qs holds bit k of symbol v as bit v of a little endian 64-bit number.
//
// Extreme input: NaN counts as 0; magnitudes above TURBO3T_VALUE_MAX as TURBO3T_VALUE_MAX; a block in which no magnitude
// reaches TURBO3T_VALUE_MIN is zero bytes. Of equal paths the one with the lowest last state, then the lowest before it.

#ifndef GGML_COMMON_DECL
#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#endif

#include "ggml.h"
#include "turbo-blocks.h"

#define TURBO3T_VALUE_MAX 16384.0f
#define TURBO3T_VALUE_MIN 7.62939453125e-6f // 2^-17

#define TURBO3T_Q_MAX  16384.0f // the search sees a block as integers, its largest magnitude here
#define TURBO3T_TARGET 4.0f     // and compares quarters of an entry

#ifdef __cplusplus
extern "C" {
#endif

GGML_API void quantize_row_turbo3t_ref(const float * GGML_RESTRICT x, block_turbo3t * GGML_RESTRICT y, int64_t k);
GGML_API void dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);

// the 64 table entries of a block, in the order of its values
GGML_API void turbo3t_entries_ref(const block_turbo3t * x, int8_t * t);

// imatrix is ignored: a cache row has no importance known beforehand
GGML_API size_t quantize_turbo3t(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix);

GGML_API void ggml_vec_dot_turbo3t_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);

#ifdef __cplusplus
}
#endif

// the bits of d, as a half
static inline ggml_half turbo3t_scale_half(const block_turbo3t * x) {
    return (ggml_half) (x->ds >> 6 << 5);
}

// Shared by the reference and the SIMD encoders: what the search of one block found.
struct turbo3t_found {
    int32_t dot;    // sum of q*t
    int32_t energy; // sum of t*t
    int     start;  // the state before the first symbol
    uint8_t symbol[QK_TURBO];
};

// Is (dot, energy) better than what was found? dot^2/energy is what a least-squares scale removes from the error.
static inline int turbo3t_is_better(int32_t dot, int32_t energy, const struct turbo3t_found * f) {
    const float a = (float) dot;
    const float b = (float) f->dot;
    return dot > 0 && a*a*(float) f->energy > b*b*(float) energy;
}

// |d| in halves; the caller converts (fp16 conversion differs between ggml-base and ggml-cpu, its result does not)
static inline float turbo3t_found_scale(float peak, const struct turbo3t_found * f) {
    const float scale = peak*((float) f->dot/(float) f->energy)*(128.0f/TURBO3T_Q_MAX);
    return scale < 65504.0f ? scale : 65504.0f;
}

// half_bits = fp16 of the scale; it stays finite
static inline uint16_t turbo3t_field(int half_bits, int start) {
    const int kept = (half_bits + 16) >> 5;
    return (uint16_t) ((kept < 0x7c00 >> 5 ? kept : (0x7c00 >> 5) - 1) << 6 | start);
}
