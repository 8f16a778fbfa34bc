#pragma once

#include "attention-source.cuh"
#include "common.cuh"

// All that is between the projections of a token and its attention, in one launch: norm, RoPE, the rotation, SET_ROWS of K
// and V, and the queries.

// Norm, RoPE and queries: left to upstream's kernels where this has never run. The rotation and SET_ROWS are done anywhere.
#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)
constexpr bool GGML_CUDA_ATTENTION_WHOLE_CHAIN = false;
#else
constexpr bool GGML_CUDA_ATTENTION_WHOLE_CHAIN = true;
#endif // defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)

// RMS_NORM, MUL, ROPE, SUB of a center and the multiplication by a Hadamard matrix, in this order; any may be missing.
struct ggml_cuda_attention_chain {
    const ggml_tensor * norm     = nullptr;
    const ggml_tensor * mul      = nullptr;
    const ggml_tensor * rope     = nullptr;
    const ggml_tensor * sub      = nullptr;
    const ggml_tensor * rotation = nullptr;
    const ggml_tensor * x        = nullptr; // what they begin with
};

// the chain without its rotation, as a kernel wants it
attention_source ggml_cuda_attention_make_source(const ggml_cuda_attention_chain & chain, int head_size);

bool ggml_cuda_attention_chain_is_aligned(const ggml_cuda_attention_chain & chain);

int ggml_cuda_attention_rotation_size(const ggml_cuda_attention_chain & chain); // 1: none

// of the graph: no kernel ahead has to be waited for
bool ggml_cuda_attention_is_input(const ggml_tensor * t);

bool ggml_cuda_attention_rotation_supported(int n_rot);

bool ggml_cuda_attention_norm_supported(const ggml_tensor * norm, const ggml_tensor * mul);

bool ggml_cuda_attention_rope_supported(const ggml_tensor * rope);

bool ggml_cuda_attention_center_supported(const ggml_tensor * sub);

struct ggml_cuda_attention_rows {
    ggml_cuda_attention_chain chain; // instead of set_rows->src[0]
    ggml_tensor * set_rows = nullptr;
};

bool ggml_cuda_attention_rows_supported(const ggml_cuda_attention_rows & rows);

struct ggml_cuda_attention_queries {
    ggml_cuda_attention_chain chain; // x null: none
    char  * dst       = nullptr;
    int     head_size = 0;
    float   unit      = 0.0f; // not 0: packed for decode attention (fattn-decode-query.cuh), which would do it in every block
};

void ggml_cuda_attention_prepare(ggml_backend_cuda_context & ctx, const ggml_cuda_attention_rows * rows, int n_rows, // one or two
    const ggml_cuda_attention_queries & queries);

// the op itself, for turbo types
void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows);
