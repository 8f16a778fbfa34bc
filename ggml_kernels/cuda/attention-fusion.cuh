#pragma once

#include "common.cuh"
#include "ggml-backend-impl.h"

#include <unordered_map>
#include <vector>

// Around attention on a quantized cache the graph has many small kernels a layer: norm and RoPE of Q and of K, four products
// with Hadamard matrices, two SET_ROWS. At depth 0 they cost a tenth of the time of a token. Here those before the attention
// become one (attention-rows.cuh), and decode attention undoes the rotation of V as it combines its parts.

// Before allocation: keeps what a fused kernel reads in place until then.
void ggml_cuda_attention_fusion_add_deps(int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params);

struct attention_layer;

// What belongs together in an allocated graph. It is looked for a layer at a time, just before its first node, while the GPU is at
// work on the layer ahead: each token and each batch of a prompt that no CUDA graph replays would wait for the search.
class ggml_cuda_attention_fusion {
public:
    explicit ggml_cuda_attention_fusion(const ggml_cgraph * cgraph);
    ~ggml_cuda_attention_fusion();

    // True if node i needs nothing more: it was computed here together with others, or another node does it. Nodes are asked for in
    // their order; some may be left out.
    bool compute(ggml_backend_cuda_context & ctx, int i);

private:
    void look_ahead(int from);

    const ggml_cgraph * cgraph;
    int unseen; // the first node that no search has come to
    std::vector<attention_layer> layers;
    std::unordered_map<const ggml_tensor *, int> part_of; // number of the layer
};
