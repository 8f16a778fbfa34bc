#include "attention-fusion.cuh"

#include "attention-rows.cuh"
#include "fattn-decode.cuh"
#include "fwht.cuh"

#include "ggml-impl.h"

#include <algorithm>
#include <vector>

// how far from an attention what belongs to it may be: the graph puts no more than a layer's projections between them
constexpr int MAX_DISTANCE = 64;

constexpr int MAX_ROWS = 2; // SET_ROWS of K and of V

static int uses(const ggml_cgraph * cgraph, const ggml_tensor * t) {
    const size_t at = ggml_hash_find(&cgraph->visited_hash_set, t);
    return at != GGML_HASHSET_FULL && ggml_bitset_get(cgraph->visited_hash_set.used, at) ? cgraph->use_counts[at] : -1;
}

static bool is_view(const ggml_tensor * t) {
    return t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
}

// what t is another shape of, if nothing else in the graph reads any of it; or null
static const ggml_tensor * sole_source(const ggml_cgraph * cgraph, const ggml_tensor * t) {
    while (t && uses(cgraph, t) == 1) {
        if ((t->flags & GGML_TENSOR_FLAG_OUTPUT) != 0) {
            return nullptr;
        }
        if (!is_view(t)) {
            return t;
        }
        if (ggml_nelements(t) != ggml_nelements(t->src[0]) || t->data != t->src[0]->data) {
            return nullptr;
        }
        t = t->src[0];
    }
    return nullptr;
}

// read by one node, and by nobody outside
static bool is_passing(const ggml_cgraph * cgraph, const ggml_tensor * t) {
    return uses(cgraph, t) == 1 && (t->flags & GGML_TENSOR_FLAG_OUTPUT) == 0;
}

static bool is_rotation(const ggml_tensor * t) {
    return t && ggml_cuda_op_mul_mat_use_fwht(t) && t->src[1]->type == GGML_TYPE_F32;
}

static int rotation_size(const ggml_tensor * rotation) { return (int) rotation->src[0]->ne[0]; }

static bool disabled() {
    // two streams (GGML_CUDA_GRAPH_OPT) may run what lies between a rotation and its consumer
    static const bool value = [] {
        const char * fusion = getenv("GGML_CUDA_DISABLE_FUSION");
        const char * graph  = getenv("GGML_CUDA_GRAPH_OPT");
        return (fusion && atoi(fusion)) || (graph && atoi(graph));
    }();
    return value;
}

// ---- what belongs to an attention ----------------------------------------------------------------------------------------

// The nodes around an attention that are not computed where they stand: rows[0], the last SET_ROWS, does what its chain, the
// other's and the queries' are, and the attention what follows it. Or the attention does all of it.
struct attention_layer {
    const ggml_tensor * attention = nullptr;
    ggml_cuda_attention_rows rows[MAX_ROWS];
    int n_rows = 0;
    ggml_cuda_attention_chain q;           // x null: left alone
    const ggml_tensor * q_dst  = nullptr;  // where it ends
    const ggml_tensor * output = nullptr;  // the rotation that undoes V's, or null
    bool whole = false;                    // the attention does all of it
    bool alone = false;                    // or these rows and queries are all that it has to wait for
};

static int index_of(const ggml_cgraph * cgraph, const ggml_tensor * t, int before) {
    for (int k = before - 1; k >= 0 && k > before - 2*MAX_DISTANCE; --k) {
        if (cgraph->nodes[k] == t) {
            return k;
        }
    }
    return -1;
}

// of what ends in t, as much as can be done on the way
static ggml_cuda_attention_chain chain_to(const ggml_cgraph * cgraph, const ggml_tensor * t) {
    ggml_cuda_attention_chain c;
    c.x = t;
    const ggml_tensor * last = sole_source(cgraph, t);
    if (is_rotation(last) && ggml_cuda_attention_rotation_supported(rotation_size(last)) && ggml_is_contiguous(last->src[1])) {
        c.rotation = last;
        c.x        = last->src[1];
        last       = sole_source(cgraph, c.x);
    }
    if (GGML_CUDA_ATTENTION_WHOLE_CHAIN && last && ggml_cuda_attention_center_supported(last)) {
        c.sub = last;
        c.x   = last->src[0];
        last  = sole_source(cgraph, c.x);
    }
    if (!GGML_CUDA_ATTENTION_WHOLE_CHAIN || !last || last->op != GGML_OP_ROPE || !ggml_cuda_attention_rope_supported(last)) {
        return c;
    }
    const ggml_tensor * mul = last->src[0];
    if (mul->op == GGML_OP_MUL && (mul->src[0]->op == GGML_OP_RMS_NORM || mul->src[1]->op == GGML_OP_RMS_NORM)) {
        const ggml_tensor * norm = mul->src[mul->src[0]->op == GGML_OP_RMS_NORM ? 0 : 1];
        if (!is_passing(cgraph, mul) || !is_passing(cgraph, norm) || !ggml_cuda_attention_norm_supported(norm, mul)) {
            return c; // upstream makes one kernel of all three, which leaves what is between them unwritten
        }
        c.norm = norm;
        c.mul  = mul;
        c.rope = last;
        c.x    = norm->src[0];
        return c;
    }
    c.rope = last;
    c.x    = last->src[0];
    return c;
}

static bool overlaps(const ggml_tensor * a, const ggml_tensor * b) {
    const char * x = (const char *) a->data, * y = (const char *) b->data;
    return x < y + ggml_nbytes(b) && y < x + ggml_nbytes(a);
}

static const ggml_tensor * first_of(const ggml_cuda_attention_chain & c) {
    return c.norm ? c.norm : c.rope ? c.rope : c.sub ? c.sub : c.rotation;
}

// whether no node from first to last, exclusively, writes over t
static bool is_kept(const ggml_cgraph * cgraph, const ggml_tensor * t, int first, int last) {
    const char * begin = (const char *) t->data, * end = begin + ggml_nbytes(t);
    for (int k = first + 1; k < last; ++k) {
        const ggml_tensor * node = cgraph->nodes[k];
        const char * data = (const char *) node->data;
        if (data < end && !is_view(node) && node->op != GGML_OP_NONE && data + ggml_nbytes(node) > begin) {
            return false;
        }
    }
    return true;
}

// Nothing computed from the chain's turn to node `last` writes over its beginning: allocation was told, this makes sure.
// end: what reads the chain
static bool stays_in_place(const ggml_cgraph * cgraph, const ggml_cuda_attention_chain & c, const ggml_tensor * end, int last) {
    const ggml_tensor * first = first_of(c) ? first_of(c) : end;
    const int begin = first == cgraph->nodes[last] ? last : index_of(cgraph, first, last);
    if (begin < 0) {
        return false;
    }
    return is_kept(cgraph, c.x, begin - 1, last);
}

static const ggml_tensor * memory_of(const ggml_tensor * t) { return t->view_src ? t->view_src : t; }

static bool reads(const ggml_tensor * node, const ggml_tensor * set_rows) {
    for (int s = 0; s < GGML_MAX_SRC; ++s) {
        if (node->src[s] && memory_of(node->src[s]) == memory_of(set_rows)) {
            return true;
        }
    }
    return false;
}

// Upstream stores what comes right from RoPE in the kernel that does the RoPE: if the chain has it not, both are upstream's.
static bool ends_in_rope(const ggml_cgraph * cgraph, const ggml_cuda_attention_rows & rows) {
    const ggml_tensor * end = first_of(rows.chain) ? nullptr : sole_source(cgraph, rows.set_rows->src[0]);
    return end && end->op == GGML_OP_ROPE;
}

// The SET_ROWS ahead of attention a, the last ones first; no node between them reads what they store.
static void find_rows(const ggml_cgraph * cgraph, int a, attention_layer & layer) {
    for (int k = a - 1; k >= 0 && k > a - MAX_DISTANCE && layer.n_rows < MAX_ROWS; --k) {
        ggml_tensor * node = cgraph->nodes[k];
        if (node->op == GGML_OP_FLASH_ATTN_EXT) {
            return;
        }
        if (node->op == GGML_OP_SET_ROWS) {
            for (int j = k + 1; j < a && layer.n_rows > 0; ++j) {
                if (!is_view(cgraph->nodes[j]) && reads(cgraph->nodes[j], node)) {
                    return;
                }
            }
            const ggml_cuda_attention_rows rows = { chain_to(cgraph, node->src[0]), node };
            if (ggml_cuda_attention_rows_supported(rows) && !ends_in_rope(cgraph, rows)) { layer.rows[layer.n_rows++] = rows; }
        }
    }
}

static void find_queries(const ggml_cgraph * cgraph, attention_layer & layer) {
    const ggml_tensor * Q = layer.attention->src[0];
    const int64_t d = Q->ne[0];
    const ggml_cuda_attention_chain c = chain_to(cgraph, Q);
    const ggml_tensor * end = c.rotation ? c.rotation : c.rope;
    if (!end || (d != 64 && d != 128 && d != 256) || !ggml_is_contiguous(c.x) || !ggml_is_contiguous(end) ||
        !ggml_cuda_attention_chain_is_aligned(c) || (c.rope && c.rope->ne[0] != d) || (c.rotation && d % rotation_size(c.rotation) != 0)) {
        return;
    }
    layer.q     = c;
    layer.q_dst = end;
}

// the rotation right after attention a that undoes V's, if the attention can do it
static const ggml_tensor * find_output(const ggml_cgraph * cgraph, int a) {
    const ggml_tensor * attention = cgraph->nodes[a];
    int j = a + 1;
    while (j < cgraph->n_nodes && is_view(cgraph->nodes[j])) { ++j; }
    const ggml_tensor * node = j < cgraph->n_nodes ? cgraph->nodes[j] : nullptr;
    return is_rotation(node) && rotation_size(node) == 64 && sole_source(cgraph, node->src[1]) == attention &&
        ggml_cuda_fattn_decode_supported(ggml_cuda_get_device(), attention) ? node : nullptr;
}

// What belongs to attention a by the graph alone, as allocation has to know. f16 K and V are upstream's.
static attention_layer layer_in_graph(const ggml_cgraph * cgraph, int a) {
    attention_layer layer;
    layer.attention = cgraph->nodes[a];
    if (!ggml_is_quantized(layer.attention->src[1]->type) && !ggml_is_quantized(layer.attention->src[2]->type)) {
        return layer;
    }
    find_rows(cgraph, a, layer);
    if (GGML_CUDA_ATTENTION_WHOLE_CHAIN && layer.n_rows > 0) { find_queries(cgraph, layer); }
    layer.output = find_output(cgraph, a);
    return layer;
}

// one token, whose K and V the attention could store itself
static bool is_decode(const attention_layer & layer) {
    const ggml_tensor * Q = layer.attention->src[0];
    return layer.n_rows == 2 && Q->ne[1] == 1 && Q->ne[3] == 1;
}

// what stores the attention's K (1) or V (2); layer.n_rows is 2
static const ggml_cuda_attention_rows & rows_of(const attention_layer & layer, int src) {
    return layer.rows[layer.rows[0].set_rows->data == layer.attention->src[src]->data ? 0 : 1];
}

// what must stay where it is until the attention is done
static const ggml_tensor * last_of(const attention_layer & layer) { return layer.output ? layer.output : layer.attention; }

// Inputs that the kernels read late: nothing they write may be there. Not all are in the graph's memory.
static std::vector<const ggml_tensor *> late_inputs(const attention_layer & layer) {
    std::vector<const ggml_tensor *> inputs = { layer.attention->src[3], layer.attention->src[4] };
    const auto add = [&](const ggml_cuda_attention_chain & c) {
        if (c.rope) { inputs.insert(inputs.end(), { c.rope->src[1], c.rope->src[2] }); }
        if (c.sub)  { inputs.push_back(c.sub->src[1]); }
        if (c.mul)  { inputs.push_back(c.mul->src[c.mul->src[0] == c.norm ? 1 : 0]); }
    };
    add(layer.q);
    for (int i = 0; i < layer.n_rows; ++i) {
        add(layer.rows[i].chain);
        inputs.push_back(layer.rows[i].set_rows->src[1]);
    }
    inputs.erase(std::remove_if(inputs.begin(), inputs.end(), [](const ggml_tensor * t) { return t == nullptr; }), inputs.end());
    return inputs;
}

static bool overlaps_inputs(const attention_layer & layer, const ggml_tensor * written) {
    const auto inputs = late_inputs(layer);
    return std::any_of(inputs.begin(), inputs.end(), [&](const ggml_tensor * t) { return overlaps(written, t); });
}

// whether a node between the first SET_ROWS and the attention reads what they store
static bool is_read_before(const ggml_cgraph * cgraph, const attention_layer & layer, int a) {
    for (int i = 0; i < layer.n_rows; ++i) {
        const ggml_tensor * set_rows = layer.rows[i].set_rows;
        for (int k = index_of(cgraph, set_rows, a) + 1; k < a; ++k) {
            if (!is_view(cgraph->nodes[k]) && reads(cgraph->nodes[k], set_rows)) {
                return true;
            }
        }
    }
    return false;
}

// Makes the attention do all, if it can: nothing up to it may write over what it begins with, nor may its own output.
static bool make_whole(const ggml_cgraph * cgraph, int a, attention_layer & layer) {
    if (!is_decode(layer) || !ggml_cuda_fattn_short_supported(ggml_cuda_get_device(), layer.attention) ||
        is_read_before(cgraph, layer, a) || overlaps_inputs(layer, last_of(layer))) {
        return false;
    }
    const auto stays = [&](const ggml_cuda_attention_chain & c, const ggml_tensor * end) {
        return stays_in_place(cgraph, c, end, a) && !overlaps(last_of(layer), c.x);
    };
    if (layer.q.x ? !stays(layer.q, layer.attention) : overlaps(last_of(layer), layer.attention->src[0])) {
        return false;
    }
    for (int i = 0; i < layer.n_rows; ++i) {
        if (!stays(layer.rows[i].chain, layer.rows[i].set_rows)) {
            return false;
        }
    }
    layer.whole = ggml_cuda_fattn_decode_takes(layer.attention, rows_of(layer, 1), rows_of(layer, 2));
    return layer.whole;
}

// Whether all that attention a reads, but for Q and a token's rows of K and V, was there before the graph, and still is. launch: of the rows
static bool waits_for_token_alone(const ggml_cgraph * cgraph, int launch, int a, const attention_layer & layer) {
    const ggml_tensor * mask = layer.attention->src[3];
    const int device = ggml_cuda_get_device();
    if (!is_decode(layer) || !ggml_cuda_fattn_decode_supported(device, layer.attention) || ggml_cuda_fattn_short_supported(device, layer.attention)) {
        return false;
    }
    for (int k = 0; k < layer.n_rows; ++k) {
        if (!is_kept(cgraph, layer.rows[k].set_rows->src[1], launch, a)) {
            return false;
        }
    }
    if (mask && !(ggml_cuda_attention_is_input(mask) && is_kept(cgraph, mask, launch, a))) {
        return false;
    }
    return ggml_cuda_fattn_decode_takes(layer.attention, rows_of(layer, 1), rows_of(layer, 2));
}

// ... and by where the tensors are
static attention_layer layer_in_memory(const ggml_cgraph * cgraph, int a) {
    attention_layer layer = layer_in_graph(cgraph, a);
    attention_layer whole = layer;
    if (make_whole(cgraph, a, whole)) {
        return whole;
    }
    const int launch = layer.n_rows > 0 ? index_of(cgraph, layer.rows[0].set_rows, a) : -1;
    for (int i = 0; i < layer.n_rows; ++i) {
        if (!stays_in_place(cgraph, layer.rows[i].chain, layer.rows[i].set_rows, launch)) { layer.n_rows = 0; }
    }
    bool queries = layer.n_rows > 0 && layer.q.x && stays_in_place(cgraph, layer.q, layer.attention, launch) && !overlaps(layer.q_dst, layer.q.x) &&
        !overlaps_inputs(layer, layer.q_dst);
    for (int i = 0; i < layer.n_rows; ++i) {
        queries = queries && !overlaps(layer.q_dst, layer.rows[i].chain.x);
    }
    if (!queries) { layer.q = {}; }
    layer.alone = waits_for_token_alone(cgraph, launch, a, layer);
    // blocks that are done write while others still read queries
    if (layer.output && (overlaps(layer.output, layer.attention->src[0]) || overlaps_inputs(layer, layer.output))) { layer.output = nullptr; }
    return layer;
}

// ---- what upstream calls -------------------------------------------------------------------------------------------------

void ggml_cuda_attention_fusion_add_deps(int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params) {
    ggml_cuda_set_device(device); // the one that is asked what it supports
    for (int a = 0; a < cgraph->n_nodes && !disabled(); ++a) {
        if (cgraph->nodes[a]->op != GGML_OP_FLASH_ATTN_EXT) {
            continue;
        }
        const attention_layer layer = layer_in_graph(cgraph, a);
        const auto keep = [&](const ggml_tensor * t, const ggml_tensor * until) {
            params->add_alloc_dep(params->user_data, const_cast<ggml_tensor *>(t), const_cast<ggml_tensor *>(until));
        };
        const ggml_tensor * until = is_decode(layer) ? last_of(layer) : layer.n_rows > 0 ? layer.rows[0].set_rows : nullptr;
        for (int i = 0; i < layer.n_rows; ++i) { keep(layer.rows[i].chain.x, until); }
        if (layer.q.x)                         { keep(layer.q.x,             until); }
        for (const ggml_tensor * t : late_inputs(layer)) {
            if (until) { keep(t, until); }
        }
        // the output is written while the attention's inputs are still read
        for (int s = 0; s < GGML_MAX_SRC && layer.output; ++s) {
            if (layer.attention->src[s]) { keep(layer.attention->src[s], layer.output); }
        }
    }
}

static void compute_rows(ggml_backend_cuda_context & ctx, const attention_layer & layer, float unit) {
    ggml_cuda_attention_queries queries;
    if (layer.q.x) {
        queries.chain     = layer.q;
        queries.dst       = (char *) layer.q_dst->data;
        queries.head_size = layer.attention->src[0]->ne[0];
        queries.unit      = unit;
    }
    ggml_cuda_attention_prepare(ctx, layer.rows, layer.n_rows, queries);
}

static bool compute_attention(ggml_backend_cuda_context & ctx, const attention_layer & layer, float unit) {
    ggml_cuda_fattn_decode_fusion fusion;
    fusion.packed_q = unit != 0.0f ? (const char *) layer.q_dst->data : nullptr;
    fusion.dst      = const_cast<ggml_tensor *>(layer.output);
    if (layer.whole || layer.alone) {
        fusion.k = &rows_of(layer, 1);
        fusion.v = &rows_of(layer, 2);
        fusion.q = layer.whole && layer.q.x ? &layer.q : nullptr;
    } else if (!fusion.packed_q && !fusion.dst) {
        return false;
    }
    ggml_cuda_fattn_decode(ctx, const_cast<ggml_tensor *>(layer.attention), fusion);
    return true;
}

// what belongs together, for whom layer.rows[0] or the attention does it
static std::vector<const ggml_tensor *> parts_of(const attention_layer & layer) {
    std::vector<const ggml_tensor *> parts = { layer.attention, layer.output };
    const auto add_chain = [&](const ggml_cuda_attention_chain & c) { parts.insert(parts.end(), { c.norm, c.mul, c.rope, c.sub, c.rotation }); };
    add_chain(layer.q);
    for (int k = 0; k < layer.n_rows; ++k) {
        parts.push_back(layer.rows[k].set_rows);
        add_chain(layer.rows[k].chain);
    }
    parts.erase(std::remove(parts.begin(), parts.end(), nullptr), parts.end());
    return parts;
}

ggml_cuda_attention_fusion::ggml_cuda_attention_fusion(const ggml_cgraph * cgraph) : cgraph(cgraph), unseen(disabled() ? cgraph->n_nodes : 0) {}

ggml_cuda_attention_fusion::~ggml_cuda_attention_fusion() = default;

void ggml_cuda_attention_fusion::look_ahead(int from) {
    int a = from;
    while (a < cgraph->n_nodes && cgraph->nodes[a]->op != GGML_OP_FLASH_ATTN_EXT) { ++a; }
    unseen = a + 1;
    if (a >= cgraph->n_nodes) {
        return;
    }
    attention_layer layer = layer_in_memory(cgraph, a);
    const auto parts = parts_of(layer);
    const auto is_done = [&](const ggml_tensor * t) { return t != layer.output && index_of(cgraph, t, a + 1) < from; };
    if (std::any_of(parts.begin(), parts.end(), is_done)) {
        return; // the graph has them in an order of its own: all is upstream's
    }
    for (const ggml_tensor * t : parts) { part_of.emplace(t, (int) layers.size()); }
    layers.push_back(layer);
}

bool ggml_cuda_attention_fusion::compute(ggml_backend_cuda_context & ctx, int i) {
    if (i >= unseen) { look_ahead(i); }
    const ggml_tensor * node = cgraph->nodes[i];
    const auto found = part_of.find(node);
    if (found == part_of.end()) {
        return false;
    }
    const attention_layer & layer = layers[found->second];
    const float unit = layer.q.x ? ggml_cuda_fattn_decode_packed_unit(ctx.device, layer.attention) : 0.0f;
    if (node == layer.attention) {
        return compute_attention(ctx, layer, unit);
    }
    if (layer.n_rows > 0 && node == layer.rows[0].set_rows && !layer.whole) { compute_rows(ctx, layer, unit); }
    return true;
}
