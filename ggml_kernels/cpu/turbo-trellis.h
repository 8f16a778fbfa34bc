#pragma once

// turbo3t on the CPU: AVX-512, AVX2 and NEON forms of turbo-trellis-ref.h, with the same bytes and floats.

#include "turbo-trellis-ref.h"

#ifdef __cplusplus
extern "C" {
#endif

void quantize_row_turbo3t(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k);

void turbo_dequantize_row_turbo3t(const block_turbo3t * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k);

void ggml_vec_dot_turbo3t_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc);

#ifdef __cplusplus
}
#endif
