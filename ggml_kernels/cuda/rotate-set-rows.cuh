#pragma once

#include "common.cuh"

// SET_ROWS into a quantized cache of values that are multiplied by a Hadamard matrix on the way; K's and V's in one launch.

// n_rot: size of the Hadamard blocks
bool ggml_cuda_rotate_set_rows_supported(const ggml_tensor * set_rows, int n_rot);

struct ggml_cuda_rotated_rows {
    const ggml_tensor * src;      // the values before their rotation, which are stored where set_rows stores its src[0]
    ggml_tensor       * set_rows;
    int                 n_rot;
};

// Queries that decode attention will take packed (fattn-decode-query.cuh), by the way: it would do it in every block.
struct ggml_cuda_packed_queries {
    const float * src     = nullptr; // [n_rows][head_size], before their rotation; null: none
    char        * dst     = nullptr;
    int           n_rows = 0, head_size = 0, n_rot = 0;
    float         unit   = 0.0f;
};

void ggml_cuda_rotate_set_rows(ggml_backend_cuda_context & ctx, const ggml_cuda_rotated_rows * ops, int n_ops, // one or two
    const ggml_cuda_packed_queries & queries);

// the op itself, for turbo types
void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows);
