#pragma once

#include "common.cuh"

// FLASH_ATTN_EXT for prompts over a packed K/V cache, converted to halves (fattn-prompt-kernel.cuh): NVIDIA, Ampere and newer,
// heads of 64 and 128, two blocks of it a multiprocessor. It needs the scratch that upstream's kernel would.
bool ggml_cuda_fattn_prompt_supported(int device, const ggml_tensor * dst);

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
