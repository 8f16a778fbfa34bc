#include "reference.h"

#include "turbo-quants-ref.h"

void reference_quantize_turbo3(const float * x, void * y, int64_t k) { quantize_row_turbo3_ref(x, y, k); }
void reference_quantize_turbo4(const float * x, void * y, int64_t k) { quantize_row_turbo4_ref(x, y, k); }

void reference_dequantize_turbo3(const void * x, float * y, int64_t k) { dequantize_row_turbo3(x, y, k); }
void reference_dequantize_turbo4(const void * x, float * y, int64_t k) { dequantize_row_turbo4(x, y, k); }
