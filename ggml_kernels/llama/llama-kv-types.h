#pragma once

// Cache types by layer: a file that names the type of K and of V for every layer with a cache (KV-TYPES.md has the format).
//
// Some layers suffer much more than others from a small type, so the same bytes serve better when they are not spread
// evenly. Which layers those are is measured (turbobench policy); here is only what obeys the file.

#include "ggml.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

struct llama_context_params;
struct llama_kv_types_use;
struct llama_model;

struct llama_kv_layer_types {
    ggml_type type_k;
    ggml_type type_v;
};

class llama_kv_types {
public:
    // Throws std::runtime_error with the line and what is wrong for a file that cannot be read, or that is for another model.
    llama_kv_types(const char * path, const llama_model & model);

    const std::string & path() const { return file; }

    // by layer: only those that have a cache
    const std::map<int32_t, llama_kv_layer_types> & layers() const { return types; }

private:
    std::string file;
    std::map<int32_t, llama_kv_layer_types> types;
};

// Checks the file of params.kv_types and sets type_k and type_v to the most demanding types in it, so that whatever is
// required of a cache type is required for the file too. Nothing if there is none; false, with the reason logged, if the
// file does not fit, or if types were asked for beside it.
bool llama_kv_types_prepare(const llama_model & model, llama_context_params & params);

// While it lives, the caches that this thread constructs take their types from the file; nothing if path is null or empty.
//
// Nine kinds of memory hand one type of K and one of V down to the caches they are made of. The table does not go that way,
// through all of their constructors: a scope around the only place that constructs them reaches each cache.
class llama_kv_types_scope {
public:
    llama_kv_types_scope(const llama_model & model, const char * path);
    ~llama_kv_types_scope();

    llama_kv_types_scope(const llama_kv_types_scope &) = delete;
    llama_kv_types_scope & operator=(const llama_kv_types_scope &) = delete;

    // Throws std::runtime_error if there is a layer in the file that no cache has taken its types for.
    void check_all_taken() const;

private:
    std::unique_ptr<llama_kv_types_use> use;
};

// whether a scope with a file is open in this thread
bool llama_kv_types_given();

// The types for layer il of the cache under construction: those of the open scope's file, else the ones given.
// Throws std::runtime_error if the file has none for this layer, or if another cache has taken them.
llama_kv_layer_types llama_kv_types_take(int32_t il, ggml_type type_k, ggml_type type_v);

// the more demanding of two types: turbo, which is good only if rotated, then any quantized one
ggml_type llama_kv_types_stricter(ggml_type a, ggml_type b);
