#pragma once

// Scalar reference of turbo3t, a trellis code in turbo3's 26 bytes (turbobench/codec/TRELLIS.md says what it gains).
// Not a ggml type yet: no patch registers it, and manifest.yaml does not put it into the tree.
//
//   value[v] = d * kvalues_turbo3t[index(window[v])] / 128,   window[v] = symbol[v-2] << 6 | symbol[v-1] << 3 | symbol[v]
//
// A symbol has 3 bits; each index bit is the XOR of the window bits that turbo3t_masks names. symbol[-1] and symbol[-2]
// (the start state) are bits 0..2 and 3..5 of `ds`; its other ten bits are those of d, an fp16 >= 0 without its sign and
// its five lowest mantissa bits. Plane k of qs holds bit k of symbol v as bit v of a little endian 64-bit number.
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

typedef struct {
    uint16_t ds;             // scale and start state
    uint8_t  qs[3][QK_TURBO / 8]; // the planes
} block_turbo3t;
static_assert(sizeof(block_turbo3t) == sizeof(block_turbo3), "turbo3t takes the bytes of turbo3");

#ifdef __cplusplus
extern "C" {
#endif

GGML_API void quantize_row_turbo3t_ref(const float * GGML_RESTRICT x, block_turbo3t * GGML_RESTRICT y, int64_t k);
GGML_API void dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);

// the 64 table entries of a block; returns the bits of d
GGML_API ggml_half turbo3t_entries_ref(const block_turbo3t * x, int8_t * t);

#ifdef __cplusplus
}
#endif
