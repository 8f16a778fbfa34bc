#pragma once

#include "attention-rows.cuh"
#include "common.cuh"

// FLASH_ATTN_EXT for up to 16 queries straight from a packed K/V cache (fattn-decode-kernel.cuh): NVIDIA, Ampere and newer,
// for the pairs of types that were compiled (GGML_CUDA_FA_DECODE_PAIRS).

// what the graph has around the op (attention-fusion.cuh)
struct ggml_cuda_fattn_decode_fusion {
    const char  * packed_q = nullptr; // Q, packed, instead of Q's data
    ggml_tensor * dst      = nullptr; // where the output goes with the rotation of V undone, instead of the op's own

    // Of one token: the rows of K and V, both or none. In a short context the op stores them, all from the projections on
    // (fattn-short-kernel.cuh); in a longer one they and Q are what the launches ahead have to make, and nothing else is.
    const ggml_cuda_attention_rows  * k = nullptr, * v = nullptr;
    const ggml_cuda_attention_chain * q = nullptr; // in a short context; or null: Q's data
};

bool ggml_cuda_fattn_decode_supported(int device, const ggml_tensor * dst);

// Whether it can be done by the kernel for short contexts, which takes the token's own rows of K and V as they come.
bool ggml_cuda_fattn_short_supported(int device, const ggml_tensor * dst);

// whether K's and V's rows are those of the one token, in the caches that attention reads
bool ggml_cuda_fattn_decode_takes(const ggml_tensor * dst, const ggml_cuda_attention_rows & k, const ggml_cuda_attention_rows & v);

// The unit of a step of K's entries, if the op can take its queries packed, or 0.
float ggml_cuda_fattn_decode_packed_unit(int device, const ggml_tensor * dst);

void ggml_cuda_fattn_decode(ggml_backend_cuda_context & ctx, ggml_tensor * dst, const ggml_cuda_fattn_decode_fusion & fusion = {});
