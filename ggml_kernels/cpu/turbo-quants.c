#include "turbo-quants.h"

void quantize_row_turbo3(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) { quantize_row_turbo3_ref(x, (block_turbo3 *) y, k); }
void quantize_row_turbo4(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) { quantize_row_turbo4_ref(x, (block_turbo4 *) y, k); }
void turbo_dequantize_row_turbo3(const block_turbo3 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) { dequantize_row_turbo3(x, y, k); }
void turbo_dequantize_row_turbo4(const block_turbo4 * GGML_RESTRICT x, float * GGML_RESTRICT y, int64_t k) { dequantize_row_turbo4(x, y, k); }
void ggml_vec_dot_turbo3_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) { ggml_vec_dot_turbo3_q8_0_generic(n, s, bs, vx, bx, vy, by, nrc); }
void ggml_vec_dot_turbo4_q8_0(int n, float * GGML_RESTRICT s, size_t bs, const void * GGML_RESTRICT vx, size_t bx, const void * GGML_RESTRICT vy, size_t by, int nrc) { ggml_vec_dot_turbo4_q8_0_generic(n, s, bs, vx, bx, vy, by, nrc); }
const char * turbo_quants_isa(void) { return "generic"; }
