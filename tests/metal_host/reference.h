// The scalar reference, behind types that a Metal kernel's translation unit does not have names of its own for.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void reference_quantize_turbo3(const float * x, void * y, int64_t k);
void reference_quantize_turbo4(const float * x, void * y, int64_t k);

void reference_dequantize_turbo3(const void * x, float * y, int64_t k);
void reference_dequantize_turbo4(const void * x, float * y, int64_t k);

#ifdef __cplusplus
}
#endif
