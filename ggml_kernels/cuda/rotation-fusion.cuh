#pragma once

#include "common.cuh"
#include "ggml-backend-impl.h"

// With a quantized cache the graph multiplies Q, K, V and the attention's output by Hadamard matrices: four small kernels a
// layer, which cost a tenth of the time of a token at depth 0. Here they become part of the kernels beside them: SET_ROWS
// rotates what it stores, the decode attention rotates Q as it loads it and undoes the rotation of V as it combines its parts.

// Before allocation: keeps what a fused kernel reads in place until then.
void ggml_cuda_rotation_fusion_add_deps(ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params);

// True if node i needs nothing more: it is a rotation that a later node does, or it was computed here together with one.
bool ggml_cuda_rotation_fusion(ggml_backend_cuda_context & ctx, ggml_cgraph * cgraph, int i);
