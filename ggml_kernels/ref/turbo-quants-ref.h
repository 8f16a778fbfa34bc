#pragma once

// Scalar reference of turbo3 and turbo4 (formats: turbo-blocks.h). It is the specification: every fast path gives the
// same bytes and the same floats.
//
// Extreme input of the quantizers: NaN counts as 0; magnitudes above TURBO_VALUE_MAX, infinities included, count as
// TURBO_VALUE_MAX (the largest value that a block can hold); a block in which no magnitude reaches TURBO_VALUE_MIN is
// stored as zero bytes. The scale is always finite.

#ifndef GGML_COMMON_DECL
#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#endif

#include "ggml.h"
#include "turbo-blocks.h"

#define TURBO_VALUE_MAX 64992.25f          // 65504 * 127 / 128
#define TURBO_VALUE_MIN 9.5367431640625e-7f // 2^-20
#define TURBO_Q_MAX     16384.0f           // the scale search sees a block as int16, its largest magnitude here

#ifdef __cplusplus
extern "C" {
#endif

GGML_API void quantize_row_turbo3_ref(const float * GGML_RESTRICT x, block_turbo3 * GGML_RESTRICT y, int64_t k);
GGML_API void quantize_row_turbo4_ref(const float * GGML_RESTRICT x, block_turbo4 * GGML_RESTRICT y, int64_t k);

GGML_API void dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);
GGML_API void dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);

// the 64 codebook entries of a block, in the order of its values
GGML_API void turbo3_entries_ref(const block_turbo3 * x, int8_t * t);
GGML_API void turbo4_entries_ref(const block_turbo4 * x, int8_t * t);

// entries [64] of a block whose scale is d against its two Q8_0 blocks, times 128
GGML_API float turbo_dot_block_ref(const int8_t * t, ggml_half d, const block_q8_0 * y);

// imatrix is ignored: a cache row has no importance known beforehand
GGML_API size_t quantize_turbo3(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix);
GGML_API size_t quantize_turbo4(const float * GGML_RESTRICT src, void * GGML_RESTRICT dst, int64_t nrows, int64_t n_per_row, const float * imatrix);

GGML_API void ggml_vec_dot_turbo3_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);
GGML_API void ggml_vec_dot_turbo4_q8_0_generic(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);

#ifdef __cplusplus
}
#endif

// Shared by the reference and the SIMD encoders: what one block's search found.
struct turbo_found {
    float   peak;     // largest magnitude
    int     negative; // the largest magnitude is a negative value
    int     index;    // of the winning candidate
    int32_t dot;      // sum of q*t
    int32_t energy;   // sum of t*t
};

// |scale| rounded to the nearest half whose low bits are the book, with the sign bit. half_bits = fp16 of |scale|.
static inline uint16_t turbo_half_with_book(int half_bits, int book, int negative) {
    int bits = ((half_bits - book + TURBO_BOOKS/2) & -TURBO_BOOKS) + book;
    if (bits > 0x7bff) {
        bits -= TURBO_BOOKS; // keep it finite
    }
    return (uint16_t) (bits | (negative ? 0x8000 : 0));
}

// |scale| in halves; the caller converts (fp16 conversion differs between ggml-base and ggml-cpu, its result does not)
static inline float turbo_found_scale(const struct turbo_found * f) {
    const float scale = f->peak * ((float) f->dot / (float) f->energy) * (128.0f/TURBO_Q_MAX);
    return scale < 65504.0f ? scale : 65504.0f;
}

// Is (dot, energy) better than what was found? dot^2/energy is what a least-squares scale removes from the error.
static inline int turbo_is_better(int32_t dot, int32_t energy, const struct turbo_found * f) {
    const float a = (float) dot;
    const float b = (float) f->dot;
    return dot > 0 && a*a*(float) f->energy > b*b*(float) energy;
}
