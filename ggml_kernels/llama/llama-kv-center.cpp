#include "llama-kv-center.h"

#include "llama-context.h"
#include "llama-ext.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"

#include "gguf.h"

#include <cstring>
#include <memory>
#include <stdexcept>

static const char * const KEY_TYPE    = "general.type";
static const char * const KEY_N_CTX   = "kv_center.n_ctx";
static const char * const FILE_TYPE   = "kv-center";
static const char * const RECALIBRATE = "make one with 'turbobench calibrate -m MODEL', or leave --kv-center out";

//
// what a file must have been made for
//

static void hash_bytes(uint64_t & h, const void * data, size_t n) { // FNV-1a
    for (size_t i = 0; i < n; ++i) {
        h = (h ^ ((const uint8_t *) data)[i]) * 0x100000001b3ull;
    }
}

// The norm weights: every quantization of a model has the same, a model that was trained on has others.
static std::string hash_of_norms(const llama_model & model) {
    std::map<std::string, const ggml_tensor *> norms;
    for (const auto & [name, tensor] : model.tensors_by_name) {
        int il = -1;
        sscanf(name.c_str(), "blk.%d.", &il);
        const bool is_norm = name.size() > 11 && name.compare(name.size() - 11, 11, "norm.weight") == 0;
        if (is_norm && tensor->type == GGML_TYPE_F32 && il < (int) model.hparams.n_layer()) {
            norms[name] = tensor;
        }
    }
    uint64_t h = 0xcbf29ce484222325ull;
    for (const auto & [name, tensor] : norms) {
        std::vector<uint8_t> data(ggml_nbytes(tensor));
        ggml_backend_tensor_get(tensor, data.data(), 0, data.size());
        hash_bytes(h, name.data(), name.size());
        hash_bytes(h, data.data(), data.size());
    }
    return format("%016llx of %zu norms", (unsigned long long) h, norms.size());
}

static std::string rope_of(const llama_model & model, const llama_cparams & cparams) {
    const auto & hparams = model.hparams;
    std::string res = format("type %d, %u values, base %g, scale %g", (int) hparams.rope_type, hparams.n_rot(),
        cparams.rope_freq_base, cparams.rope_freq_scale);
    if (cparams.yarn_ext_factor != 0.0f) {
        res += format(", yarn %g %g %g %g", cparams.yarn_ext_factor, cparams.yarn_attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);
    }
    if (!model.layers.empty() && model.layers[0].rope_long) {
        res += cparams.n_ctx_seq > cparams.n_ctx_orig_yarn ? ", long factors" : ", short factors";
    }
    return res;
}

static std::map<std::string, std::string> identity_of(const llama_context & lctx) {
    const auto & model = lctx.get_model();
    return {
        { "kv_center.architecture", model.arch_name() },
        { "kv_center.layers",       std::to_string(model.hparams.n_layer()) },
        { "kv_center.rope",         rope_of(model, lctx.get_cparams()) },
        { "kv_center.weights",      hash_of_norms(model) },
    };
}

void llama_kv_center_describe(const struct llama_context * ctx, struct gguf_context * file) {
    gguf_set_val_str(file, KEY_TYPE, FILE_TYPE);
    for (const auto & [key, value] : identity_of(*ctx)) {
        gguf_set_val_str(file, key.c_str(), value.c_str());
    }
}

//
// llama_kv_center
//

static std::string string_of(const gguf_context * file, const std::string & key) {
    const int64_t id = gguf_find_key(file, key.c_str());
    return id < 0 || gguf_get_kv_type(file, id) != GGUF_TYPE_STRING ? "nothing" : gguf_get_val_str(file, id);
}

llama_kv_center::llama_kv_center(const char * path, const llama_context & lctx) : path(path) {
    ggml_context * data = nullptr;
    gguf_context_ptr file { gguf_init_from_file(path, { /*.no_alloc =*/ false, /*.ctx =*/ &data }) };
    ggml_context_ptr guard { data };
    if (!file) {
        throw std::runtime_error(format("the key center %s cannot be read as GGUF; %s", path, RECALIBRATE));
    }
    if (string_of(file.get(), KEY_TYPE) != FILE_TYPE) {
        throw std::runtime_error(format("%s is no key center: its %s is %s; %s", path, KEY_TYPE, string_of(file.get(), KEY_TYPE).c_str(), RECALIBRATE));
    }
    for (const auto & [key, wanted] : identity_of(lctx)) {
        const std::string found = string_of(file.get(), key);
        if (found != wanted) {
            throw std::runtime_error(format("the key center %s is for another model or context: its %s is '%s', here it is '%s'; %s",
                path, key.c_str(), found.c_str(), wanted.c_str(), RECALIBRATE));
        }
    }
    const int64_t id = gguf_find_key(file.get(), KEY_N_CTX);
    n_ctx_measured = id < 0 || gguf_get_kv_type(file.get(), id) != GGUF_TYPE_UINT32 ? 0 : gguf_get_val_u32(file.get(), id);
    read_tensors(file.get(), data);
}

void llama_kv_center::read_tensors(gguf_context * file, ggml_context * data) {
    for (int64_t i = 0; i < gguf_get_n_tensors(file); ++i) {
        const char * name = gguf_get_tensor_name(file, i);
        const ggml_tensor * t = ggml_get_tensor(data, name);
        int  il       = -1;
        char what[16] = "";
        if (sscanf(name, "blk.%d.%15s", &il, what) != 2 || t->type != GGML_TYPE_F32) {
            throw std::runtime_error(format("the key center %s has an unknown tensor %s of type %s; %s", path.c_str(), name, ggml_type_name(t->type), RECALIBRATE));
        }
        layer & l = layers[il];
        auto & values = strcmp(what, "k_first") == 0 ? l.first : l.mean;
        values.assign((const float *) t->data, (const float *) t->data + ggml_nelements(t));
        l.n_embd_head = t->ne[0];
    }
}

// x [n] in blocks of n_rot, times the matrix
static std::vector<float> rotated(const std::vector<float> & x, const llama_kv_center_store & store) {
    if (store.n_rot == 0) {
        return x;
    }
    std::vector<float> res(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        const size_t block = i / store.n_rot * store.n_rot;
        double sum = 0.0;
        for (int64_t j = 0; j < store.n_rot; ++j) {
            sum += (double) store.rot[(i - block)*store.n_rot + j] * x[block + j];
        }
        res[i] = (float) sum;
    }
    return res;
}

static std::vector<float> quantized(const std::vector<float> & x, ggml_type type) {
    const auto * traits = ggml_get_type_traits(type);
    std::vector<uint8_t> blocks(ggml_row_size(type, x.size()));
    std::vector<float>   res(x.size());
    traits->from_float_ref(x.data(), blocks.data(), x.size());
    traits->to_float(blocks.data(), res.data(), x.size());
    return res;
}

// Moves the mean by the error that the type makes on the first token: then that token is stored without one.
//
// The first token of a sequence draws much of the attention (it is the sink), lies far from the mean, and has nearly the
// same key whatever it is. The move is small beside the spread of all other keys, which are stored as well as before.
static void make_first_exact(std::vector<float> & mean, const std::vector<float> & first, const llama_kv_center_store & store) {
    std::vector<float> diff(mean.size());
    for (size_t i = 0; i < diff.size(); ++i) {
        diff[i] = first[i] - mean[i];
    }
    // what is stored must be stored as itself the next time: a scale search may need a few rounds to come to rest
    std::vector<float> stored = rotated(diff, store);
    for (int round = 0; round < 8; ++round) {
        std::vector<float> again = quantized(stored, store.type);
        std::swap(again, stored);
        if (memcmp(again.data(), stored.data(), again.size()*sizeof(float)) == 0) {
            break;
        }
    }
    const std::vector<float> back = rotated(stored, store);
    for (size_t i = 0; i < mean.size(); ++i) {
        mean[i] = first[i] - back[i];
    }
}

void llama_kv_center::add_layer(int32_t il, int64_t n_embd_head, int64_t n_head, const llama_kv_center_store & store) {
    const auto it = layers.find(il);
    if (it == layers.end() || (int64_t) it->second.mean.size() != n_embd_head*n_head || it->second.n_embd_head != n_embd_head) {
        throw std::runtime_error(format("the key center %s has no vectors of %d x %d values for layer %d; %s",
            path.c_str(), (int) n_embd_head, (int) n_head, il, RECALIBRATE));
    }
    layer & l = it->second;
    l.buft = store.buft;
    if (l.first.size() == l.mean.size() && ggml_is_quantized(store.type)) {
        make_first_exact(l.mean, l.first, store);
    }
}

void llama_kv_center::upload() {
    std::map<std::string, std::pair<ggml_backend_buffer_type_t, std::vector<int32_t>>> places;
    uint64_t h = 0xcbf29ce484222325ull;
    for (auto & [il, l] : layers) {
        if (l.buft) {
            auto & place = places[ggml_backend_buft_name(l.buft)];
            place.first = l.buft;
            place.second.push_back(il);
            hash_bytes(h, l.mean.data(), l.mean.size()*sizeof(float));
        }
    }
    tag = (uint32_t) (h ^ (h >> 32)) | 1;
    for (const auto & [_, place] : places) {
        ggml_context_ptr ctx { ggml_init({ /*.mem_size =*/ place.second.size()*ggml_tensor_overhead(), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }) };
        for (const int32_t il : place.second) {
            layer & l = layers[il];
            l.tensor = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, l.n_embd_head, l.mean.size()/l.n_embd_head);
            ggml_format_name(l.tensor, "k_center_l%d", il);
        }
        ggml_backend_buffer_ptr buf { ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), place.first) };
        if (!buf) {
            throw std::runtime_error(format("no memory for the key center %s", path.c_str()));
        }
        // so the scheduler runs the subtraction where the layer's cache is
        ggml_backend_buffer_set_usage(buf.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        for (const int32_t il : place.second) {
            ggml_backend_tensor_set(layers[il].tensor, layers[il].mean.data(), 0, ggml_nbytes(layers[il].tensor));
        }
        ctxs_bufs.emplace_back(std::move(ctx), std::move(buf));
    }
}

//
// the caches that can centre their keys
//

bool llama_kv_cache::set_k_center(const std::shared_ptr<llama_kv_center> & center) {
    if (other) {
        return false; // its keys are those of another context
    }
    ggml_context_ptr ctx { ggml_init({ /*.mem_size =*/ 2*ggml_tensor_overhead(), /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }) };
    const ggml_tensor * rot = build_input_k_rot(ctx.get());
    for (const auto & layer : layers) {
        const int64_t n_rot = rot ? rot->ne[0] : 0;
        center->add_layer(layer.il, hparams.n_embd_head_k(layer.il), hparams.n_head_kv(layer.il), {
            layer.k->type, ggml_backend_buffer_get_type(layer.k->buffer), rot ? attn_rot_hadamard.at(n_rot).data() : nullptr, n_rot });
    }
    k_center = center;
    return true;
}

bool llama_kv_cache_iswa::set_k_center(const std::shared_ptr<llama_kv_center> & center) {
    return kv_base->set_k_center(center) && kv_swa->set_k_center(center);
}

bool llama_memory_hybrid::set_k_center(const std::shared_ptr<llama_kv_center> & center) {
    return mem_attn->set_k_center(center);
}

bool llama_memory_hybrid_iswa::set_k_center(const std::shared_ptr<llama_kv_center> & center) {
    return mem_attn->set_k_center(center);
}

int32_t llama_kv_cache::state_k_type(const ggml_tensor * k) const {
    return k_center ? k_center->state_type(k->type) : (int32_t) k->type;
}

ggml_tensor * llama_kv_cache_context::center_k(ggml_context * ctx, ggml_tensor * k_cur, int32_t il) const {
    return kv->center_k(ctx, k_cur, il);
}

ggml_tensor * llama_kv_cache::center_k(ggml_context * ctx, ggml_tensor * k_cur, int32_t il) const {
    return k_cur && k_center ? ggml_sub(ctx, k_cur, k_center->tensor(il)) : k_cur;
}

// Throws for a model in which a constant added to all logits of a query is not ignored, or whose keys are not plain ones.
static void check_attention(const llama_model & model) {
    const auto refuse = [](const char * reason) {
        throw std::runtime_error(format("this model's keys cannot be centred: %s; leave --kv-center out", reason));
    };
    if (model.hparams.is_mla() || model.hparams.indexer_head_size > 0) {
        refuse("what it caches is more than keys (latent attention, or a sparse-attention indexer)");
    }
    if (model.hparams.attn_soft_cap || model.arch == LLM_ARCH_GROK) {
        refuse("it caps attention logits by a tanh, which a constant added to them changes");
    }
    for (const auto & layer : model.layers) {
        if (layer.attn_sinks) {
            refuse("it has learned attention sinks, whose weight a constant added to the other logits changes");
        }
    }
    if (model.split_mode() == LLAMA_SPLIT_MODE_TENSOR) {
        refuse("--split-mode tensor parts the heads among devices");
    }
}

void llama_kv_center_init(const llama_context & lctx, llama_memory_i * memory, const char * path) {
    const auto & model = lctx.get_model();
    if (!path || !*path || !memory || model.hparams.no_alloc) {
        return;
    }
    check_attention(model);
    const auto center = std::make_shared<llama_kv_center>(path, lctx);
    if (!memory->set_k_center(center)) {
        throw std::runtime_error("this model's cache holds no keys of its own that could be centred; leave --kv-center out");
    }
    center->upload();
    const uint32_t n_ctx = lctx.get_cparams().n_ctx_seq;
    if (n_ctx/2 > center->n_ctx()) {
        LLAMA_LOG_WARN("%s: the key center %s was measured at positions up to %u, the context has %u: beyond those it gains little or nothing; "
            "make one with 'turbobench calibrate -m MODEL --n-ctx %u'\n", __func__, path, center->n_ctx(), n_ctx, n_ctx);
    }
    LLAMA_LOG_INFO("%s: K of %zu layers is centred by %s, measured at positions up to %u\n", __func__, center->n_layers(), path, center->n_ctx());
}
