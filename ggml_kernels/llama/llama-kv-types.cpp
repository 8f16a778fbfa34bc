#include "llama-kv-types.h"

#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "turbo-guard.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

static const char * const FORMAT    = "kv-types";
static const int          VERSION   = 1;
static const char * const MAKE_ANEW = "make one with 'turbobench policy -m MODEL', or leave --kv-types out";

//
// reading
//

// what -ctk and -ctv take (kv_cache_types in common/arg.cpp)
static bool type_from_name(const std::string & name, ggml_type & type) {
    for (const ggml_type known : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
            GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_TURBO3, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3T }) {
        if (name == ggml_type_name(known)) {
            type = known;
            return true;
        }
    }
    return false;
}

namespace {

// Reads one file line by line; every complaint names the file and the line.
class reader {
public:
    reader(const std::string & path, const llama_model & model) : path(path), model(model) {}

    std::map<int32_t, llama_kv_layer_types> read() {
        std::ifstream in(path);
        if (!in) {
            throw std::runtime_error(format("the file of K/V types %s cannot be read; %s", path.c_str(), MAKE_ANEW));
        }
        for (std::string line; std::getline(in, line); ) {
            ++n_lines;
            std::istringstream words(line.substr(0, line.find('#')));
            std::string key;
            if (words >> key) {
                take(key, words);
                std::string rest;
                if (words >> rest) {
                    fail("'" + rest + "' is one word too many");
                }
            }
        }
        check_whole();
        return types;
    }

private:
    [[noreturn]] void fail(const std::string & reason) const {
        throw std::runtime_error(format("%s, line %d: %s; %s", path.c_str(), n_lines, reason.c_str(), MAKE_ANEW));
    }

    void take(const std::string & key, std::istringstream & words) {
        if (n_keys++ == 0) {
            if (key != FORMAT) {
                fail(format("it is no file of K/V types, which begins with '%s %d'", FORMAT, VERSION));
            }
            expect(FORMAT, words, std::to_string(VERSION), "the version of this program");
        } else if (key == "layer") {
            take_layers(words);
        } else if (key == "architecture") {
            expect(key, words, model.arch_name(), "the model's");
        } else if (key == "layers") {
            expect(key, words, std::to_string(model.hparams.n_layer()), "the model's");
        } else if (key == "embedding") {
            expect(key, words, std::to_string(model.hparams.n_embd), "the model's");
        } else {
            fail("'" + key + "' is not known here");
        }
    }

    void expect(const std::string & key, std::istringstream & words, const std::string & wanted, const char * whose) {
        std::string found;
        words >> found;
        if (found != wanted) {
            fail(format("the file is for another model, or of another version: its %s is '%s', %s is '%s'", key.c_str(), found.c_str(), whose, wanted.c_str()));
        }
        if (!keys.insert(key).second) {
            fail("'" + key + "' is there twice");
        }
    }

    // layer 4    192 turbo4  192 turbo3
    // layer 5-9  192 turbo3  192 turbo3
    void take_layers(std::istringstream & words) {
        std::string range, name_k, name_v;
        long n_k = 0, n_v = 0;
        int32_t first = -1, last = -1;
        if (!(words >> range >> n_k >> name_k >> n_v >> name_v) || !parse_range(range, first, last)) {
            fail("layers are written 'layer FIRST-LAST  K-VALUES K-TYPE  V-VALUES V-TYPE'");
        }
        if (last < first || last >= (int32_t) model.hparams.n_layer()) {
            fail("the model has no layer " + range);
        }
        for (int32_t il = first; il <= last; ++il) {
            take_layer(il, n_k, name_k, n_v, name_v);
        }
    }

    static bool parse_range(const std::string & text, int32_t & first, int32_t & last) {
        int end = 0;
        if (sscanf(text.c_str(), "%9d%n", &first, &end) != 1 || first < 0) {
            return false;
        }
        last = first;
        int end_last = 0;
        return text[end] == '\0' || (sscanf(text.c_str() + end, "-%9d%n", &last, &end_last) == 1 && text[end + end_last] == '\0');
    }

    void take_layer(int32_t il, long n_k, const std::string & name_k, long n_v, const std::string & name_v) {
        const auto & hparams = model.hparams;
        if (n_k != (long) hparams.n_embd_k_gqa(il) || n_v != (long) hparams.n_embd_v_gqa(il)) {
            fail(format("layer %d has %ld values of K and %ld of V for each token, the model's has %u and %u",
                il, n_k, n_v, hparams.n_embd_k_gqa(il), hparams.n_embd_v_gqa(il)));
        }
        const llama_kv_layer_types found = { type_of("K", name_k, hparams.n_embd_head_k(il)), type_of("V", name_v, hparams.n_embd_head_v(il)) };
        if (!types.emplace(il, found).second) {
            fail(format("layer %d is there twice", il));
        }
    }

    ggml_type type_of(const char * side, const std::string & name, uint32_t n_embd_head) const {
        ggml_type type;
        if (!type_from_name(name, type)) {
            fail("'" + name + "' is no cache type");
        }
        if (n_embd_head % ggml_blck_size(type) != 0) {
            fail(format("%s cannot store heads of %u values, which %s has here", name.c_str(), n_embd_head, side));
        }
        return type;
    }

    void check_whole() const {
        for (const char * key : { FORMAT, "architecture", "layers", "embedding" }) {
            if (keys.count(key) == 0) {
                fail(format("the file ends without a line '%s'", key));
            }
        }
        if (types.empty()) {
            fail("the file ends without a layer");
        }
    }

    const std::string   path;
    const llama_model & model;

    int n_lines = 0;
    int n_keys  = 0;
    std::set<std::string> keys;
    std::map<int32_t, llama_kv_layer_types> types;
};

} // namespace

llama_kv_types::llama_kv_types(const char * path, const llama_model & model) : file(path) {
    if (model.hparams.is_mla() || model.hparams.indexer_head_size > 0) {
        throw std::runtime_error("this model cannot have K/V types by layer: what it caches is more than K and V "
            "(latent attention, or a sparse-attention indexer); leave --kv-types out");
    }
    types = reader(file, model).read();
}

//
// obeying
//

ggml_type llama_kv_types_stricter(ggml_type a, ggml_type b) {
    const auto rank = [](ggml_type type) { return llama_is_turbo(type) ? 2 : ggml_is_quantized(type) ? 1 : 0; };
    return rank(b) > rank(a) ? b : a;
}

static bool given(const char * path) {
    return path && *path;
}

bool llama_kv_types_prepare(const llama_model & model, llama_context_params & params) {
    if (!given(params.kv_types)) {
        return true;
    }
    if (params.type_k != GGML_TYPE_F16 || params.type_v != GGML_TYPE_F16) {
        LLAMA_LOG_ERROR("%s: K/V types are given both by the file %s (--kv-types) and as K %s / V %s (-ctk, -ctv); leave one of them out\n",
            __func__, params.kv_types, ggml_type_name(params.type_k), ggml_type_name(params.type_v));
        return false;
    }
    try {
        const llama_kv_types file(params.kv_types, model);
        params.type_k = file.layers().begin()->second.type_k;
        params.type_v = file.layers().begin()->second.type_v;
        for (const auto & [_, layer] : file.layers()) {
            params.type_k = llama_kv_types_stricter(params.type_k, layer.type_k);
            params.type_v = llama_kv_types_stricter(params.type_v, layer.type_v);
        }
        return true;
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        return false;
    }
}

struct llama_kv_types_use {
    llama_kv_types    file;
    std::set<int32_t> taken;
};

static thread_local llama_kv_types_use * open_use = nullptr;

llama_kv_types_scope::llama_kv_types_scope(const llama_model & model, const char * path) {
    if (given(path)) {
        GGML_ASSERT(!open_use);
        use.reset(new llama_kv_types_use { llama_kv_types(path, model), {} });
        open_use = use.get();
    }
}

llama_kv_types_scope::~llama_kv_types_scope() {
    if (use) {
        open_use = nullptr;
    }
}

void llama_kv_types_scope::check_all_taken() const {
    if (!use) {
        return;
    }
    const llama_kv_types & file = use->file;
    for (const auto & [il, _] : file.layers()) {
        if (use->taken.count(il) == 0) {
            throw std::runtime_error(format("%s has types for layer %d, which keeps no cache of its own here; %s", file.path().c_str(), il, MAKE_ANEW));
        }
    }
    LLAMA_LOG_INFO("llama_kv_types: K and V of %zu layers have the types that %s names\n", use->taken.size(), file.path().c_str());
}

bool llama_kv_types_given() {
    return open_use != nullptr;
}

llama_kv_layer_types llama_kv_types_take(int32_t il, ggml_type type_k, ggml_type type_v) {
    if (!open_use) {
        return { type_k, type_v };
    }
    const char * path = open_use->file.path().c_str();
    const auto & layers = open_use->file.layers();
    const auto it = layers.find(il);
    if (it == layers.end()) {
        throw std::runtime_error(format("%s has no types for layer %d, which has a cache; %s", path, il, MAKE_ANEW));
    }
    if (!open_use->taken.insert(il).second) {
        throw std::runtime_error(format("layer %d has two caches in this model, and %s cannot say which it means; leave --kv-types out", il, path));
    }
    return it->second;
}

//
// the cache that has them
//

void llama_kv_cache::set_types_by_layer(ggml_type & type_k, ggml_type & type_v) {
    types_by_layer = true;
    std::string text;
    for (const auto & layer : layers) {
        type_k = layer.il == layers[0].il ? layer.k->type : llama_kv_types_stricter(type_k, layer.k->type);
        type_v = layer.il == layers[0].il ? layer.v->type : llama_kv_types_stricter(type_v, layer.v->type);
        text += format(" %u:%s/%s", layer.il, ggml_type_name(layer.k->type), ggml_type_name(layer.v->type));
    }
    LLAMA_LOG_INFO("llama_kv_cache: types by layer:%s\n", text.c_str());
}

bool llama_kv_cache::has_turbo_k() const {
    return std::any_of(layers.begin(), layers.end(), [](const auto & layer) { return llama_is_turbo(layer.k->type); });
}

// The types of K or V for the log: without a file the one type there is, with one each type and how many layers have it.
std::string llama_kv_cache::types_text(bool of_k, ggml_type type) const {
    if (!types_by_layer) {
        return ggml_type_name(type);
    }
    std::map<std::string, int> counts;
    for (const auto & layer : layers) {
        counts[ggml_type_name((of_k ? layer.k : layer.v)->type)]++;
    }
    std::string text;
    for (const auto & [name, count] : counts) {
        text += format("%s%d*%s", text.empty() ? "" : "+", count, name.c_str());
    }
    return text;
}

// A layer whose values are kept as they are needs no rotation. It would do no harm, but without it such a layer is to the bit
// what it is in a cache of that type alone, and K-shift, which turns back quantized keys only, stays right.
ggml_tensor * llama_kv_cache::rot_k(ggml_tensor * rot, int32_t il) const {
    return types_by_layer && !ggml_is_quantized(layers[map_layer_ids.at(il)].k->type) ? nullptr : rot;
}

ggml_tensor * llama_kv_cache::rot_v(ggml_tensor * rot, int32_t il) const {
    return types_by_layer && !ggml_is_quantized(layers[map_layer_ids.at(il)].v->type) ? nullptr : rot;
}

ggml_tensor * llama_kv_cache_context::rot_k(ggml_tensor * rot, int32_t il) const {
    return kv->rot_k(rot, il);
}

ggml_tensor * llama_kv_cache_context::rot_v(ggml_tensor * rot, int32_t il) const {
    return kv->rot_v(rot, il);
}
