// llama-kv-center: measures K after RoPE, per layer, head and channel, over bins of positions.
//
// What is read is the cache itself, right after the rows of a batch were stored in it: keys pass there in every
// architecture, on every backend, and no fusion can leave them out. The cache is f16, so K is not rotated; its rounding is
// far below what is measured. What to make of the statistics is left to the caller (turbobench calibrate).

#include "arg.h"
#include "common.h"
#include "ggml-cpp.h"
#include "gguf.h"
#include "llama.h"
#include "log.h"

#include "../src/llama-ext.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

// how many different tokens are tried as the first one of a sequence, where the model has no fixed one
constexpr int N_FIRST = 64;

struct layer_stats {
    int64_t n_embd_head = 0;
    int64_t n_embd      = 0;
    std::vector<double> sum; // [n_bins][n_embd]
    std::vector<double> sqr;
};

struct collector {
    std::vector<int32_t> edges;     // bin i is the positions from edges[i] up to edges[i + 1]
    std::vector<int32_t> n_tokens;  // per bin
    std::map<int, layer_stats> layers;
    int32_t pos = 0;                // of the first token of the batch being decoded

    int n_bins() const { return (int) edges.size() - 1; }

    int bin_of(int32_t position) const {
        return (int) (std::upper_bound(edges.begin(), edges.end(), position) - edges.begin()) - 1;
    }
};

// The first token alone, then 64 positions, then four bins an octave: what drifts with position does so on a log scale.
static std::vector<int32_t> make_edges(int32_t n_ctx) {
    std::vector<int32_t> edges = { 0, 1 };
    for (int32_t octave = 64; octave < n_ctx; octave *= 2) {
        for (int quarter = 0; quarter < 4; ++quarter) {
            const int32_t edge = octave + quarter*octave/4;
            if (edge < n_ctx) {
                edges.push_back(edge);
            }
        }
    }
    edges.push_back(n_ctx);
    return edges;
}

// the layer whose keys this node stores, or -1
static int layer_stored(const ggml_tensor * t) {
    if (t->op != GGML_OP_SET_ROWS || !t->view_src) {
        return -1;
    }
    int il = -1, end = 0;
    const char * name = t->view_src->name;
    return sscanf(name, "cache_k_l%d%n", &il, &end) == 1 && name[end] == '\0' ? il : -1;
}

static void add_row(collector & c, layer_stats & stats, const float * row, int32_t position) {
    const size_t offset = (size_t) c.bin_of(position)*stats.n_embd;
    for (int64_t i = 0; i < stats.n_embd; ++i) {
        stats.sum[offset + i] += row[i];
        stats.sqr[offset + i] += (double) row[i]*row[i];
    }
}

static bool collect(ggml_tensor * t, bool ask, void * user_data) {
    const int il = layer_stored(t);
    if (ask || il < 0) {
        return !ask || il >= 0;
    }
    collector & c = *(collector *) user_data;
    layer_stats & stats = c.layers[il];
    if (stats.n_embd == 0) {
        stats.n_embd      = t->ne[0];
        stats.n_embd_head = t->src[0]->src[0]->ne[0];
        stats.sum.resize((size_t) c.n_bins()*stats.n_embd);
        stats.sqr.resize((size_t) c.n_bins()*stats.n_embd);
    }
    const ggml_tensor * idxs = t->src[1];
    std::vector<int64_t> cells(ggml_nelements(idxs));
    ggml_backend_tensor_get(idxs, cells.data(), 0, ggml_nbytes(idxs));

    std::vector<ggml_fp16_t> stored(stats.n_embd);
    std::vector<float>       row(stats.n_embd);
    for (size_t i = 0; i < cells.size(); ++i) {
        ggml_backend_tensor_get(t, stored.data(), cells[i]*t->nb[1], stats.n_embd*sizeof(ggml_fp16_t));
        ggml_fp16_to_fp32_row(stored.data(), row.data(), stats.n_embd);
        add_row(c, stats, row.data(), c.pos + (int32_t) i);
    }
    return true;
}

// decodes a sequence from position 0 in batches of one ubatch, so that the order of rows is that of positions
static bool decode(llama_context * ctx, collector & c, std::vector<llama_token> tokens) {
    llama_memory_clear(llama_get_memory(ctx), true);
    const int32_t n_ubatch = (int32_t) llama_n_ubatch(ctx);
    for (c.pos = 0; c.pos < (int32_t) tokens.size(); c.pos += n_ubatch) {
        const int32_t n = std::min(n_ubatch, (int32_t) tokens.size() - c.pos);
        if (llama_decode(ctx, llama_batch_get_one(tokens.data() + c.pos, n))) {
            LOG_ERR("%s: failed to decode at position %d\n", __func__, c.pos);
            return false;
        }
        for (int32_t i = 0; i < n; ++i) {
            c.n_tokens[c.bin_of(c.pos + i)]++;
        }
    }
    return true;
}

static bool measure(llama_context * ctx, collector & c, const std::vector<llama_token> & text, int n_chunks) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    const bool    add_bos = llama_vocab_get_add_bos(vocab);
    const int32_t n_ctx   = c.edges.back();
    for (int i = 0; i < N_FIRST && !add_bos; ++i) {
        if (!decode(ctx, c, { text[i*text.size()/N_FIRST] })) {
            return false;
        }
    }
    for (int i = 0; i < n_chunks; ++i) {
        std::vector<llama_token> chunk(text.begin() + (size_t) i*n_ctx, text.begin() + (size_t) (i + 1)*n_ctx);
        if (add_bos) {
            chunk[0] = llama_vocab_bos(vocab);
        }
        if (!decode(ctx, c, chunk)) {
            return false;
        }
        LOG_INF("measured %d of %d chunks\n", i + 1, n_chunks);
    }
    return true;
}

static std::vector<float> means(const collector & c, const std::vector<double> & sums, int64_t n_embd) {
    std::vector<float> res(sums.size());
    for (size_t i = 0; i < sums.size(); ++i) {
        res[i] = (float) (sums[i] / std::max(1, c.n_tokens[i/n_embd]));
    }
    return res;
}

// One tensor each for the mean and the mean square, [n_embd_head, n_head, n_bins]
static bool save(const llama_context * ctx, const collector & c, const std::string & path) {
    gguf_context_ptr file { gguf_init_empty() };
    llama_kv_center_describe(ctx, file.get());
    gguf_set_val_u32 (file.get(), "kv_center.n_ctx", (uint32_t) c.edges.back());
    gguf_set_arr_data(file.get(), "kv_center.bin_edges",  GGUF_TYPE_INT32, c.edges.data(),    c.edges.size());
    gguf_set_arr_data(file.get(), "kv_center.bin_tokens", GGUF_TYPE_INT32, c.n_tokens.data(), c.n_tokens.size());

    size_t size = 0;
    for (const auto & [_, stats] : c.layers) {
        size += 2*(ggml_tensor_overhead() + stats.sum.size()*sizeof(float) + GGML_MEM_ALIGN);
    }
    ggml_context_ptr data { ggml_init({ /*.mem_size =*/ size, /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ false }) };
    for (const auto & [il, stats] : c.layers) {
        for (const bool squares : { false, true }) {
            ggml_tensor * t = ggml_new_tensor_3d(data.get(), GGML_TYPE_F32, stats.n_embd_head, stats.n_embd/stats.n_embd_head, c.n_bins());
            ggml_format_name(t, "blk.%d.%s", il, squares ? "k_sqr" : "k_mean");
            const std::vector<float> values = means(c, squares ? stats.sqr : stats.sum, stats.n_embd);
            memcpy(t->data, values.data(), ggml_nbytes(t));
            gguf_add_tensor(file.get(), t);
        }
    }
    return gguf_write_to_file(file.get(), path.c_str(), false);
}

static void print_usage(int, char ** argv) {
    LOG("\nexample usage:\n");
    LOG("\n    %s -m model.gguf -f text.txt -c 8192 --chunks 3 -o stats.gguf\n", argv[0]);
    LOG("\n");
}

int main(int argc, char ** argv) {
    common_params params;
    params.escape = false;
    common_init();
    if (!common_params_parse(argc, argv, params, LLAMA_EXAMPLE_IMATRIX, print_usage)) {
        return 1;
    }
    llama_backend_init();
    llama_numa_init(params.numa);

    collector c;
    params.cb_eval           = collect;
    params.cb_eval_user_data = &c;
    params.warmup            = false;
    params.cache_type_k      = GGML_TYPE_F16;
    params.cache_type_v      = GGML_TYPE_F16;
    params.kv_types          = "";
    params.kv_center         = "";
    params.n_parallel        = 1;
    params.n_batch           = params.n_ubatch;

    auto init = common_init_from_params(params);
    llama_context * ctx = init->context();
    if (ctx == nullptr) {
        LOG_ERR("%s: failed to load the model\n", __func__);
        return 1;
    }
    if (llama_get_memory(ctx) == nullptr || llama_model_has_encoder(init->model())) {
        LOG_ERR("%s: this model has no KV cache of the usual kind\n", __func__);
        return 1;
    }
    c.edges = make_edges(params.n_ctx > 0 ? params.n_ctx : (int32_t) llama_n_ctx(ctx));
    c.n_tokens.resize(c.n_bins());

    const std::vector<llama_token> text = common_tokenize(ctx, params.prompt, false);
    const int n_chunks = (int) std::min<size_t>(std::max(params.n_chunks, 1), text.size() / c.edges.back());
    if (n_chunks == 0) {
        LOG_ERR("%s: the text has %zu tokens, %d are needed\n", __func__, text.size(), c.edges.back());
        return 1;
    }
    if (!measure(ctx, c, text, n_chunks)) {
        return 1;
    }
    if (c.layers.empty()) {
        LOG_ERR("%s: this model stores no keys\n", __func__);
        return 1;
    }
    if (!save(ctx, c, params.out_file)) {
        LOG_ERR("%s: failed to write %s\n", __func__, params.out_file.c_str());
        return 1;
    }
    llama_backend_free();
    return 0;
}
