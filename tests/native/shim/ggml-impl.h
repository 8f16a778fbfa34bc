// The half conversions of ggml-impl.h, in plain integer code: every finite half, round to nearest even.
#pragma once

#include "ggml.h"

#include <math.h>
#include <string.h>

static inline float shim_half_to_float(uint16_t h) {
    const int exponent = h >> 10 & 31;
    const int mantissa = h & 1023;
    const float value = exponent ? ldexpf((float) (1024 + mantissa), exponent - 25) : ldexpf((float) mantissa, -24);
    return h & 0x8000 ? -value : value;
}

static inline uint16_t shim_float_to_half(float f) {
    const float size = fabsf(f);
    int exponent;
    frexpf(size, &exponent);
    const int unit = exponent - 11 < -24 ? -24 : exponent - 11; // of the last mantissa bit
    // a mantissa that rounds up to 2048 carries into the exponent, as it should
    const uint16_t bits = (uint16_t) (rintf(ldexpf(size, -unit)) + (float) ((unit + 24) * 1024));
    return (uint16_t) (bits | (signbit(f) ? 0x8000 : 0));
}

#define GGML_FP16_TO_FP32(x) shim_half_to_float(x)
#define GGML_FP32_TO_FP16(x) shim_float_to_half(x)
