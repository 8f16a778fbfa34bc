#pragma once

#include "common.cuh"
#include "ggml-backend-impl.h"

// Around attention on a quantized cache the graph has many small kernels a layer: norm and RoPE of Q and of K, four products
// with Hadamard matrices, two SET_ROWS. At depth 0 they cost a tenth of the time of a token. Here those before the attention
// become one (attention-rows.cuh), and decode attention undoes the rotation of V as it combines its parts.

// Before allocation: keeps what a fused kernel reads in place until then.
void ggml_cuda_attention_fusion_add_deps(int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params);

// True if node i needs nothing more: it was computed here together with others, or a later node does it.
bool ggml_cuda_attention_fusion(ggml_backend_cuda_context & ctx, ggml_cgraph * cgraph, int i);
