#pragma once

#include "common.cuh"

// SET_ROWS into a quantized cache of values that are multiplied by a Hadamard matrix on the way.

// n_rot: size of the Hadamard blocks
bool ggml_cuda_rotate_set_rows_supported(const ggml_tensor * set_rows, int n_rot);

// stores src, the values before their rotation, where the op stores its src[0]
void ggml_cuda_rotate_set_rows(ggml_backend_cuda_context & ctx, const ggml_tensor * src, int n_rot, ggml_tensor * set_rows);

// the op itself, for turbo types
void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows);
