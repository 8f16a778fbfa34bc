#pragma once

#include "common.cuh"

// FLASH_ATTN_EXT of a prompt to a deep quantized cache, for which llama.cpp's tensor-core kernel wants K and V in half
// precision. Converting them waits for memory, the products for multiprocessors. So the heads are done in two parts, and
// while the first is multiplied, the second is converted beside it, on another stream.

bool ggml_cuda_fattn_prompt_supported(int device, const ggml_tensor * dst);

// rotated: null, or where the output goes with the rotation of V undone, instead of dst
void ggml_cuda_fattn_prompt(ggml_backend_cuda_context & ctx, ggml_tensor * dst, ggml_tensor * rotated = nullptr);

// upstream's, in fattn.cu: what does each part
void ggml_cuda_flash_attn_ext_mma_f16(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
