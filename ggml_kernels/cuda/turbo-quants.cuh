#pragma once

// turbo3 and turbo4 on CUDA and HIP: what upstream's files call. Kernels: turbo-quants.cu, -encode.cuh,
// -decode.cuh; SET_ROWS is in attention-rows.cu.

#include "common.cuh"

static inline bool ggml_cuda_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// Cache types: SET_ROWS, GET_ROWS, CPY and attention, but no arithmetic. Some cases of supports_op answer for all types,
// so they are asked only when this says no.
bool ggml_cuda_turbo_unsupported(const ggml_tensor * op);

// f32 -> turbo and turbo -> f32, in whole blocks
bool ggml_cuda_cpy_turbo_supported(const ggml_tensor * src0, const ggml_tensor * src1);

void ggml_cuda_cpy_turbo(ggml_backend_cuda_context & ctx, const ggml_tensor * src0, ggml_tensor * src1);
