#pragma once

// Refuses a KV cache in which a turbo type would be a bad type.
//
// turbo3, turbo4 and turbo3t have tables for rotated (near Gaussian) values. Without the Hadamard rotation, or where the cache
// tensors are also read by something other than attention, they would run and silently give bad text.

#include "llama-model.h"

#include <stdexcept>
#include <string>

static inline bool llama_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4 || type == GGML_TYPE_TURBO3T;
}

// Throws std::runtime_error with the reason; context creation reports it and fails.
static inline void llama_turbo_check_cache(
        const llama_model & model, ggml_type type_k, ggml_type type_v, bool attn_rot_k, bool attn_rot_v) {
    if (!llama_is_turbo(type_k) && !llama_is_turbo(type_v)) {
        return;
    }
    const auto refuse = [&](const std::string & reason) {
        throw std::runtime_error(std::string("cache types K ") + ggml_type_name(type_k) + " / V " + ggml_type_name(type_v) +
            " cannot serve this model: " + reason + "; use q8_0 or f16 instead");
    };

    if (model.hparams.is_mla()) {
        refuse("it uses multi-head latent attention (MLA), whose cache is not rotated");
    }
    if (model.hparams.indexer_head_size > 0) {
        refuse("its sparse-attention indexer keeps keys of its own in the K cache type");
    }
    if ((llama_is_turbo(type_k) && !attn_rot_k) || (llama_is_turbo(type_v) && !attn_rot_v)) {
        refuse("the attention rotation is not active "
            "(it needs one head size in all layers, a multiple of 64, and LLAMA_ATTN_ROT_DISABLE unset)");
    }
}
