#pragma once

// turbo3 and turbo4 on the CPU: AVX-512, AVX2 and NEON forms of turbo-quants-ref.h, with the same bytes and floats.

#include "turbo-quants-ref.h"

#ifdef __cplusplus
extern "C" {
#endif

void quantize_row_turbo3(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k);
void quantize_row_turbo4(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k);

void turbo_dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);
void turbo_dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);

void ggml_vec_dot_turbo3_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);
void ggml_vec_dot_turbo4_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);

// name of the instruction set that this file was compiled for
const char * turbo_quants_isa(void);

#ifdef __cplusplus
}
#endif
