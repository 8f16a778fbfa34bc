#pragma once

// FLASH_ATTN_EXT on the CPU for quantized (and mixed) K/V.
//
// Upstream's tiled prefill and split-KV decode take only f16/f16 and f32/f32; everything else re-reads and re-converts the
// cache for each query row. Here a tile of K and of V is unpacked once for all query rows that share a KV head: the heads of
// a GQA group, and in prefill a block of queries as well.

#include "ggml.h"

#include <stdbool.h>
#include <stddef.h>

struct ggml_compute_params;

#ifdef __cplusplus
extern "C" {
#endif

// Whether this FLASH_ATTN_EXT node is computed here: f32 queries, cache types with an unpacker, not both f16 or both f32.
bool ggml_fattn_quant_supported(const struct ggml_tensor * dst);

// Bytes of work buffer that ggml_fattn_quant needs for n_tasks threads.
size_t ggml_fattn_quant_work_size(const struct ggml_tensor * dst, int n_tasks);

// Called by every thread of the pool.
void ggml_fattn_quant(const struct ggml_compute_params * params, struct ggml_tensor * dst);

#ifdef __cplusplus
}
#endif
