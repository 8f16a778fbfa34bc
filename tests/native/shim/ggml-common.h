// The few lines of ggml-common.h that the codec kernels need.
#pragma once

#include <assert.h>
#include <stdint.h>

#define GGML_COMMON_DECL

typedef uint16_t ggml_half;

#define QK8_0 32
typedef struct {
    ggml_half d;
    int8_t qs[QK8_0];
} block_q8_0;
