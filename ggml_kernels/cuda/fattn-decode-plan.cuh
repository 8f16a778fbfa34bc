#pragma once

// How one FLASH_ATTN_EXT is laid out for the decode kernel, whatever its types.

#include "common.cuh"
#include "fattn-decode.cuh"

#include "fattn-decode-params.cuh"
#include "fattn-short-params.cuh"

struct fattn_decode_plan {
    fattn_decode_params params; // but for what the launch adds: n_splits, part, meta
    fattn_decode_token  token;
    int head_size, n_seq;
    int tile;                   // positions
    int per_warp;               // heads
    bool known;                 // there is an instance for its heads
    int smem;                   // bytes a block
};

struct fattn_short_plan {
    fattn_short_params params; // but for the parts
    int head_size, n_seq;
    int smem;                  // bytes a block
};

// what was compiled for a pair of types; null: nothing
struct fattn_decode_kernels {
    void (* general)   (ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) = nullptr;
    void (* one_launch)(ggml_backend_cuda_context & ctx, const fattn_short_plan  & plan) = nullptr;
};

fattn_decode_kernels ggml_cuda_fattn_decode_kernels(ggml_type type_k, ggml_type type_v);

inline fattn_decode_index fattn_decode_index_of(const ggml_cuda_attention_rows & rows) {
    return { rows.set_rows->src[1]->data, rows.set_rows->src[1]->type == GGML_TYPE_I64 };
}

// attention: what does not depend on the layout (fattn-short.cu)
void ggml_cuda_fattn_short(ggml_backend_cuda_context & ctx, ggml_tensor * dst, const fattn_decode_params & attention, const ggml_cuda_fattn_decode_fusion & fusion);
