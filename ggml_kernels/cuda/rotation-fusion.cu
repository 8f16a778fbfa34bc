#include "rotation-fusion.cuh"

#include "fattn-decode.cuh"
#include "fwht.cuh"
#include "rotate-set-rows.cuh"

#include "ggml-impl.h"

// how far ahead of a rotation its consumer may be: the graph puts no more than a layer's other projections between them
constexpr int MAX_DISTANCE = 64;

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

static bool is_rotation(const ggml_tensor * t) {
    return t && ggml_cuda_op_mul_mat_use_fwht(t) && t->src[1]->type == GGML_TYPE_F32;
}

static int rotation_size(const ggml_tensor * rotation) { return (int) rotation->src[0]->ne[0]; }

// the rotation of Q that this attention can do itself, or null
static const ggml_tensor * rotation_of_q(const ggml_cgraph * cgraph, const ggml_tensor * attention) {
    const ggml_tensor * r = sole_source(cgraph, attention->src[0]);
    const int64_t d = attention->src[0]->ne[0];
    return is_rotation(r) && rotation_size(r) <= d && d % rotation_size(r) == 0 && ggml_cuda_fattn_decode_supported(ggml_cuda_get_device(), attention) ? r : nullptr;
}

// the node after attention i that undoes the rotation of V, and that the attention can do itself, or -1
static int rotation_of_output(const ggml_cgraph * cgraph, int i) {
    const ggml_tensor * attention = cgraph->nodes[i];
    for (int j = i + 1; j < cgraph->n_nodes && j < i + MAX_DISTANCE; ++j) {
        const ggml_tensor * node = cgraph->nodes[j];
        if (is_view(node)) {
            continue;
        }
        return is_rotation(node) && rotation_size(node) == 64 && sole_source(cgraph, node->src[1]) == attention &&
            ggml_cuda_fattn_decode_supported(ggml_cuda_get_device(), attention) ? j : -1;
    }
    return -1;
}

// the rotation whose result this SET_ROWS alone stores, and that it can do itself, or null
static const ggml_tensor * rotation_of_rows(const ggml_cgraph * cgraph, const ggml_tensor * set_rows) {
    const ggml_tensor * r = sole_source(cgraph, set_rows->src[0]);
    return is_rotation(r) && ggml_cuda_rotate_set_rows_supported(set_rows, rotation_size(r)) ? r : nullptr;
}

// nothing computed between the nodes, first and last excluded, writes over t: allocation has been told, this makes sure
static bool stays_in_place(const ggml_cgraph * cgraph, const ggml_tensor * t, int first, int last) {
    const char * begin = (const char *) t->data;
    const char * end   = begin + ggml_nbytes(t);
    for (int k = first + 1; k < last; ++k) {
        const ggml_tensor * node = cgraph->nodes[k];
        const char * b = (const char *) node->data;
        if (!is_view(node) && node->op != GGML_OP_NONE && b < end && begin < b + ggml_nbytes(node)) {
            return false;
        }
    }
    return true;
}

// the later node that does the rotation at node i, or -1
static int consumer(const ggml_cgraph * cgraph, int i) {
    const ggml_tensor * rotation = cgraph->nodes[i];
    for (int j = i + 1; j < cgraph->n_nodes && j < i + MAX_DISTANCE; ++j) {
        const ggml_tensor * node = cgraph->nodes[j];
        if ((node->op == GGML_OP_SET_ROWS       && rotation_of_rows(cgraph, node) == rotation) ||
            (node->op == GGML_OP_FLASH_ATTN_EXT && rotation_of_q(cgraph, node)    == rotation)) {
            return j;
        }
    }
    return -1;
}

static int index_of(const ggml_cgraph * cgraph, const ggml_tensor * t, int before) {
    for (int k = before - 1; k >= 0 && k > before - MAX_DISTANCE; --k) {
        if (cgraph->nodes[k] == t) {
            return k;
        }
    }
    return -1;
}

// whether the rotation was left for node i to do: the same question that node's own turn asked
static bool was_left(const ggml_cgraph * cgraph, const ggml_tensor * rotation, int i) {
    const int k = rotation ? index_of(cgraph, rotation, i) : -1;
    return k >= 0 && stays_in_place(cgraph, rotation->src[1], k, i);
}

static bool disabled() {
    // two streams (GGML_CUDA_GRAPH_OPT) may run what lies between a rotation and its consumer
    static const bool value = [] {
        const char * fusion = getenv("GGML_CUDA_DISABLE_FUSION");
        const char * graph  = getenv("GGML_CUDA_GRAPH_OPT");
        return (fusion && atoi(fusion)) || (graph && atoi(graph));
    }();
    return value;
}

void ggml_cuda_rotation_fusion_add_deps(ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params) {
    if (disabled()) {
        return;
    }
    for (int i = 0; i < cgraph->n_nodes; ++i) {
        ggml_tensor * node = cgraph->nodes[i];
        if (is_rotation(node)) {
            const int j = consumer(cgraph, i);
            if (j >= 0) {
                params->add_alloc_dep(params->user_data, node->src[1], cgraph->nodes[j]);
            }
        } else if (node->op == GGML_OP_FLASH_ATTN_EXT) {
            const int j = rotation_of_output(cgraph, i);
            if (j < 0) {
                continue;
            }
            // its output is written while the attention's inputs are still read
            for (int s = 0; s < GGML_MAX_SRC; ++s) {
                if (node->src[s]) { params->add_alloc_dep(params->user_data, node->src[s], cgraph->nodes[j]); }
            }
            if (const ggml_tensor * q = rotation_of_q(cgraph, node)) {
                params->add_alloc_dep(params->user_data, q->src[1], cgraph->nodes[j]);
            }
        }
    }
}

static bool overlaps(const ggml_tensor * a, const ggml_tensor * b) {
    const char * x = (const char *) a->data, * y = (const char *) b->data;
    return x < y + ggml_nbytes(b) && y < x + ggml_nbytes(a);
}

// the rotation that SET_ROWS i does itself, or null
static const ggml_tensor * left_for_rows(const ggml_cgraph * cgraph, int i) {
    const ggml_tensor * node = cgraph->nodes[i];
    if (node->op != GGML_OP_SET_ROWS) {
        return nullptr;
    }
    const ggml_tensor * r = rotation_of_rows(cgraph, node);
    return was_left(cgraph, r, i) ? r : nullptr;
}

// the next node (step 1) or the one before (step -1) that computes something, or -1
static int neighbour(const ggml_cgraph * cgraph, int i, int step) {
    for (i += step; i >= 0 && i < cgraph->n_nodes; i += step) {
        if (!is_view(cgraph->nodes[i])) {
            return i;
        }
    }
    return -1;
}

// how many SET_ROWS before node i it comes after without a break; two by two they are one launch, at the turn of the first
static int rows_before(const ggml_cgraph * cgraph, int i) {
    int before = 0;
    for (int k = neighbour(cgraph, i, -1); k >= 0 && left_for_rows(cgraph, k); k = neighbour(cgraph, k, -1)) {
        ++before;
    }
    return before;
}

// The SET_ROWS before attention i in whose launch its queries are packed, or -1. They go where the rotated ones would have
// been, which the graph keeps for this attention and nobody else writes.
static int packer_of(const ggml_cgraph * cgraph, int i) {
    const ggml_tensor * q = rotation_of_q(cgraph, cgraph->nodes[i]);
    if (!was_left(cgraph, q, i) || ggml_cuda_fattn_decode_packed_unit(ggml_cuda_get_device(), cgraph->nodes[i]) == 0.0f) {
        return -1;
    }
    const int first = index_of(cgraph, q, i);
    for (int k = i - 1; k > first; --k) {
        if (left_for_rows(cgraph, k) && rows_before(cgraph, k) % 2 == 0) {
            return k;
        }
    }
    return -1;
}

// The rotation of the output that attention i does, or -1. It must not be written over queries, in whichever form they are
// read: blocks that are done write while others still read.
static int output_by_attention(const ggml_cgraph * cgraph, int i) {
    const ggml_tensor * attention = cgraph->nodes[i];
    const ggml_tensor * q = rotation_of_q(cgraph, attention);
    const int j = rotation_of_output(cgraph, i);
    const bool apart = j >= 0 && !overlaps(cgraph->nodes[j], attention->src[0]) &&
        !(was_left(cgraph, q, i) && overlaps(cgraph->nodes[j], q->src[1]));
    return apart ? j : -1;
}

static bool compute_attention(ggml_backend_cuda_context & ctx, ggml_cgraph * cgraph, int i) {
    ggml_tensor * node = cgraph->nodes[i];
    ggml_cuda_fattn_decode_fusion fusion;
    const ggml_tensor * q = rotation_of_q(cgraph, node);
    if (packer_of(cgraph, i) >= 0) {
        fusion.packed_q = (const char *) q->data;
    } else if (was_left(cgraph, q, i)) {
        fusion.q     = (const char *) q->src[1]->data;
        fusion.rot_q = rotation_size(q);
    }
    const int j = output_by_attention(cgraph, i);
    if (j >= 0) {
        fusion.dst = cgraph->nodes[j];
    }
    if (fusion.rot_q == 0 && fusion.packed_q == nullptr && fusion.dst == nullptr) {
        return false;
    }
    ggml_cuda_fattn_decode(ctx, node, fusion);
    return true;
}

// whether attention i - of which node j is the rotation of the output - has written it
static bool attention_did_output(const ggml_cgraph * cgraph, int j) {
    const ggml_tensor * attention = sole_source(cgraph, cgraph->nodes[j]->src[1]);
    if (!attention || attention->op != GGML_OP_FLASH_ATTN_EXT) {
        return false;
    }
    const int i = index_of(cgraph, attention, j);
    return i >= 0 && output_by_attention(cgraph, i) == j;
}

static ggml_cuda_packed_queries queries_for(const ggml_cgraph * cgraph, int i) {
    ggml_cuda_packed_queries queries;
    for (int j = i + 1; j < cgraph->n_nodes && j < i + MAX_DISTANCE; ++j) {
        const ggml_tensor * attention = cgraph->nodes[j];
        if (attention->op != GGML_OP_FLASH_ATTN_EXT) {
            continue;
        }
        if (packer_of(cgraph, j) == i) {
            const ggml_tensor * q = rotation_of_q(cgraph, attention);
            queries.src       = (const float *) q->src[1]->data;
            queries.dst       = (char *) q->data;
            queries.head_size = (int) attention->src[0]->ne[0];
            queries.n_rows    = (int) ggml_nrows(attention->src[0]);
            queries.n_rot     = rotation_size(q);
            queries.unit      = ggml_cuda_fattn_decode_packed_unit(ggml_cuda_get_device(), attention);
        }
        break;
    }
    return queries;
}

static void compute_rows(ggml_backend_cuda_context & ctx, ggml_cgraph * cgraph, int i) {
    if (rows_before(cgraph, i) % 2 != 0) {
        return;
    }
    ggml_cuda_rotated_rows ops[2];
    int n_ops = 0;
    for (int k = i; k >= 0 && n_ops < 2; k = neighbour(cgraph, k, 1)) {
        const ggml_tensor * r = left_for_rows(cgraph, k);
        if (r == nullptr) {
            break;
        }
        ops[n_ops++] = { r->src[1], cgraph->nodes[k], rotation_size(r) };
    }
    ggml_cuda_rotate_set_rows(ctx, ops, n_ops, queries_for(cgraph, i));
}

bool ggml_cuda_rotation_fusion(ggml_backend_cuda_context & ctx, ggml_cgraph * cgraph, int i) {
    ggml_tensor * node = cgraph->nodes[i];
    if (disabled()) {
        return false;
    }
    if (is_rotation(node)) {
        const int j = consumer(cgraph, i);
        return (j >= 0 && stays_in_place(cgraph, node->src[1], i, j)) || attention_did_output(cgraph, i);
    }
    if (left_for_rows(cgraph, i)) {
        compute_rows(ctx, cgraph, i);
        return true;
    }
    return node->op == GGML_OP_FLASH_ATTN_EXT && compute_attention(ctx, cgraph, i);
}
