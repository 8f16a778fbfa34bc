#pragma once

// Mean-centred keys: one fixed vector per layer and KV head, subtracted from K between RoPE and the rotation.
//
// Softmax ignores a constant added to all logits of a query, and q.(k - c) differs from q.k by such a constant. So nothing
// is added back when attention reads the cache; what a block type must store just has less energy, and a smaller error.
//
// It is one GGML_OP_SUB on K of the new tokens, on the backend of the layer's cache. It stands before the rotation because
// ggml-cuda does rotation and SET_ROWS in one kernel (attention-fusion.cu): subtracting the rotated vector after it would
// part the two, while here that kernel only begins one node later and leaves norm and RoPE to their own. (It could subtract
// as it loads: what to look for is a SUB whose second source is k_center_l%d.) Nor does the vector then depend on the rotation.

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

struct gguf_context;
struct llama_context;
struct llama_memory_i;

// What a cache stores keys in: the type, and the orthonormal symmetric matrix that rotates them before (n_rot 0: none).
struct llama_kv_center_store {
    ggml_type                  type;
    ggml_backend_buffer_type_t buft;
    const float *              rot;
    int64_t                    n_rot;
};

class llama_kv_center {
public:
    // Reads a file of `turbobench calibrate`. Throws std::runtime_error if it is none, or of another model or RoPE.
    llama_kv_center(const char * path, const llama_context & lctx);

    // Makes the vector of layer il for a cache that stores rows of n_head heads. Throws if the file has no such layer.
    void add_layer(int32_t il, int64_t n_embd_head, int64_t n_head, const llama_kv_center_store & store);

    // Puts the vectors of all layers added where their caches are.
    void upload();

    // The vector of layer il, [n_embd_head, n_head], f32.
    ggml_tensor * tensor(int32_t il) const { return layers.at(il).tensor; }

    // What a saved state has in place of the key type: keys less another vector must not be restored here.
    int32_t state_type(ggml_type type) const { return (int32_t) type | (int32_t) ((tag & 0x7fffff) << 8); }

    size_t   n_layers() const { return layers.size(); }
    uint32_t n_ctx()    const { return n_ctx_measured; }

private:
    struct layer {
        std::vector<float>         mean;  // [n_embd_head, n_head]
        std::vector<float>         first; // K of the first token of a sequence, or empty
        int64_t                    n_embd_head;
        ggml_backend_buffer_type_t buft   = nullptr; // null: no cache has asked for this layer
        ggml_tensor *              tensor = nullptr;
    };

    void read_tensors(gguf_context * file, ggml_context * data);

    std::string path;
    uint32_t    n_ctx_measured = 0;
    uint32_t    tag            = 0;

    std::map<int32_t, layer> layers;

    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;
};

// Has `memory` centre its keys by the file; nothing if path is null or empty. Throws std::runtime_error with what is wrong
// and what to do: for a file that does not fit, and for a model whose attention is not free to centre keys.
void llama_kv_center_init(const llama_context & lctx, llama_memory_i * memory, const char * path);
