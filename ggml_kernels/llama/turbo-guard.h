#pragma once

// Refuses a KV cache in which a turbo type would be a bad type.
//
// turbo3, turbo4 and turbo3t have tables for rotated (near Gaussian) values. Without the Hadamard rotation, or where the cache
// tensors are also read by something other than attention, they would run and silently give bad text.

#include "llama-model.h"

#include "ggml-cpp.h"

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

// Throws if a layer's device cannot write its cache: the scheduler would abort at the first token. turbo3t is such a type
// on everything but the CPU.
template <typename Layers>
static inline void llama_turbo_check_devices(const llama_model & model, const Layers & layers, bool offload) {
    const ggml_context_ptr ctx { ggml_init({ 8*ggml_tensor_overhead(), nullptr, true }) };
    for (const auto & layer : layers) {
        for (const ggml_tensor * cache : { layer.k, layer.v }) {
            if (!offload || cache == nullptr || !llama_is_turbo(cache->type)) {
                continue;
            }
            ggml_reset(ctx.get());
            ggml_tensor * all  = ggml_new_tensor_2d(ctx.get(), cache->type, cache->ne[0], 2);
            ggml_tensor * rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, cache->ne[0], 1);
            ggml_tensor * op   = ggml_set_rows(ctx.get(), all, rows, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1));
            ggml_backend_dev_t dev = model.dev_layer(layer.il);
            if (!ggml_backend_dev_supports_op(dev, op)) {
                throw std::runtime_error(std::string("cache type ") + ggml_type_name(cache->type) + " has no kernels on " +
                    ggml_backend_dev_name(dev) + "; use another type, or keep the cache on the CPU with --no-kv-offload");
            }
        }
    }
}
