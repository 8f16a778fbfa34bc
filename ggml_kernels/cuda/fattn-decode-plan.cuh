#pragma once

// How one FLASH_ATTN_EXT is laid out for the decode kernel, whatever its types.

#include "common.cuh"

#include "fattn-decode-params.cuh"

struct fattn_decode_plan {
    fattn_decode_params params; // but for what the launch adds: n_splits, cluster, part, meta
    int head_size, n_seq;
    int tile;                   // positions
    bool brief;                 // for a short context (fattn-decode-params.cuh)
    int smem;                   // bytes a block
};

typedef void (* fattn_decode_case_t)(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan);
