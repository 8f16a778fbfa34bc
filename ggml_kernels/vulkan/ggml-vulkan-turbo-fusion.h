#pragma once

// The products with Hadamard matrices beside turbo3 and turbo4, each done by its neighbour's shader: that of the values
// which SET_ROWS stores, by copy_to_turbo.comp, and that of attention's output, by turbo_decode_combine.comp.

#include "ggml-vulkan-common.h"
#include "ggml-vulkan-turbo.h"
#include "ggml-vulkan-turbo-decode.h"

static inline bool ggml_vk_turbo_is_rotation(const ggml_tensor * t) {
    return t->op == GGML_OP_MUL_MAT && ggml_get_op_params_i32(t, 1) == GGML_HINT_SRC0_IS_HADAMARD &&
           t->type == GGML_TYPE_F32 && t->src[1]->type == GGML_TYPE_F32 &&
           ggml_is_contiguous(t) && ggml_is_contiguous(t->src[1]);
}

static inline bool ggml_vk_turbo_is_reshape(const ggml_tensor * t) {
    return (t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW) && t->view_offs == 0 &&
           ggml_is_contiguous(t) && ggml_nelements(t) == ggml_nelements(t->src[0]);
}

// Whether SET_ROWS can take `rotation`'s input and rotate it itself. Its rows must be whole rows of the rotation.
static inline bool ggml_vk_turbo_rotates_rows(const ggml_tensor * rotation, const ggml_tensor * set_rows) {
    const int64_t n = rotation->src[0]->ne[0];
    return ggml_vk_is_turbo(set_rows->type) && (n == 64 || n == 128 || n == 256) && rotation->src[1]->ne[0] == n &&
           set_rows->src[0]->ne[0] % n == 0 && !ggml_is_empty(set_rows->src[0]) && !ggml_is_empty(set_rows->src[1]);
}

// Whether attention can rotate its output itself. It reads sinks while it writes, and all else before.
static inline bool ggml_vk_turbo_rotates_output(const ggml_backend_vk_context * ctx, const ggml_tensor * attention, const ggml_tensor * rotation) {
    const ggml_tensor * sinks = attention->src[4];
    return rotation->src[0]->ne[0] == 64 && rotation->src[1]->ne[0] == 64 && get_misalign_bytes(ctx, rotation) == 0 &&
           (!sinks || !ggml_vk_tensors_overlap(sinks, rotation, false)) &&
           ggml_vk_turbo_decode_takes(ctx->device, attention->src[0], attention->src[1], attention->src[2], attention->src[3]);
}

// How many nodes after `first` there are to the one of this op that alone uses what `first` computes, as its source
// `src`, with nothing but its other shapes in between; 0 if there is none.
static inline int ggml_vk_turbo_next_user(const ggml_cgraph * cgraph, int first, ggml_op op, int src) {
    std::vector<int>     nodes = { first };
    std::vector<ggml_op> ops   = { cgraph->nodes[first]->op };
    for (int i = first + 1; i < std::min(first + 16, cgraph->n_nodes); ++i) {
        const ggml_tensor * tail = cgraph->nodes[nodes.back()];
        const ggml_tensor * node = cgraph->nodes[i];
        const bool user = node->op == op && node->src[src] == tail;
        if (!user && !(ggml_vk_turbo_is_reshape(node) && node->src[0] == tail)) {
            return 0;
        }
        nodes.push_back(i);
        ops.push_back(node->op);
        if (user) {
            return ggml_can_fuse_subgraph_ext(cgraph, nodes.data(), (int) nodes.size(), ops.data(), &i, 1) ? i - first : 0;
        }
    }
    return 0;
}

// How many nodes after this one are done together with it by ggml_vk_turbo_compute_fused.
static inline int ggml_vk_turbo_fused_nodes(const ggml_backend_vk_context * ctx, const ggml_cgraph * cgraph, int i) {
    static const bool apart = getenv("GGML_VK_TURBO_APART") != nullptr; // to be measured
    const ggml_tensor * node = cgraph->nodes[i];
    if (ctx->device->disable_fusion || apart) {
        return 0;
    }
    if (ggml_vk_turbo_is_rotation(node)) {
        const int n = ggml_vk_turbo_next_user(cgraph, i, GGML_OP_SET_ROWS, 0);
        return n != 0 && ggml_vk_turbo_rotates_rows(node, cgraph->nodes[i + n]) ? n : 0;
    }
    if (node->op == GGML_OP_FLASH_ATTN_EXT) {
        const int n = ggml_vk_turbo_next_user(cgraph, i, GGML_OP_MUL_MAT, 1);
        const ggml_tensor * last = cgraph->nodes[i + n];
        return n != 0 && ggml_vk_turbo_is_rotation(last) && ggml_vk_turbo_rotates_output(ctx, node, last) ? n : 0;
    }
    return 0;
}

static inline void ggml_vk_turbo_set_rows(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * rotation, ggml_tensor * dst) {
    const ggml_tensor * shape  = dst->src[0];
    const ggml_tensor * values = rotation->src[1]; // the same values in the same order
    const ggml_tensor * rows   = dst->src[1];
    const int n = (int) rotation->src[0]->ne[0];

    auto ne = [](const ggml_tensor * t, int i) { return (uint32_t) t->ne[i]; };
    auto nb = [](const ggml_tensor * t, int i) { return (uint32_t) (t->nb[i]/ggml_type_size(t->type)); };
    vk_op_binary_push_constants pc = {
        (uint32_t) ggml_nelements(shape),
        ne(shape, 0), ne(shape, 1), ne(shape, 2), ne(shape, 3), nb(shape, 0), nb(shape, 1), nb(shape, 2), nb(shape, 3),
        ne(rows,  0), ne(rows,  1), ne(rows,  2), ne(rows,  3), nb(rows,  0), nb(rows,  1), nb(rows,  2), nb(rows,  3),
        ne(dst,   0), ne(dst,   1), ne(dst,   2), ne(dst,   3), nb(dst,   0), nb(dst,   1), nb(dst,   2), nb(dst,   3),
        0,
        1.0f/std::sqrt((float) n), 0.0f, n,
    };
    init_pushconst_tensor_offsets(ctx, pc, values, rows, nullptr, nullptr, dst);

    vk_pipeline pipeline = (rows->type == GGML_TYPE_I64 ? ctx->device->pipeline_set_rows_i64 : ctx->device->pipeline_set_rows_i32)[0][dst->type];
    ggml_pipeline_request_descriptor_sets(ctx, pipeline, 1);
    ggml_vk_dispatch_pipeline(ctx, subctx, pipeline,
                              { ggml_vk_tensor_subbuffer(ctx, values, true), ggml_vk_tensor_subbuffer(ctx, rows, true), ggml_vk_tensor_subbuffer(ctx, dst, true) },
                              pc, { ggml_vk_turbo_encode_workgroups(pc.ne), 1, 1 });
}

// Does nodes that ggml_vk_turbo_fused_nodes counted; false if these are others.
static inline bool ggml_vk_turbo_compute_fused(ggml_backend_vk_context * ctx, vk_context & subctx, ggml_cgraph * cgraph, int i) {
    ggml_tensor * node = cgraph->nodes[i];
    ggml_tensor * last = cgraph->nodes[i + ctx->num_additional_fused_ops];
    if (node->op == GGML_OP_MUL_MAT && last->op == GGML_OP_SET_ROWS) {
        ggml_vk_turbo_set_rows(ctx, subctx, node, last);
        return true;
    }
    if (node->op == GGML_OP_FLASH_ATTN_EXT && last->op == GGML_OP_MUL_MAT) {
        const bool done = ggml_vk_turbo_decode(ctx, subctx, node->src[0], node->src[1], node->src[2], node->src[3], node->src[4], node, last);
        GGML_ASSERT(done);
        return true;
    }
    return false;
}

// Moves a rotation down to the SET_ROWS that stores what it makes, so that the two are done together.
static inline void ggml_vk_turbo_reorder(std::vector<ggml_tensor *> & order) {
    auto base = [](const ggml_tensor * t) { return t->view_src ? t->view_src : t; };
    for (auto at = order.begin(); at != order.end(); ++at) {
        if ((*at)->op != GGML_OP_SET_ROWS || !ggml_vk_is_turbo((*at)->type)) {
            continue;
        }
        std::vector<ggml_tensor *> chain = { (*at)->src[0] };
        while (ggml_vk_turbo_is_reshape(chain.back())) {
            chain.push_back(chain.back()->src[0]);
        }
        const ggml_tensor * rotation = chain.back();
        const auto from = std::find(order.begin(), at, rotation);
        if (from == at || !ggml_vk_turbo_is_rotation(rotation) || !ggml_vk_turbo_rotates_rows(rotation, *at)) {
            continue;
        }
        auto moves = [&](const ggml_tensor * t) { return std::find(chain.begin(), chain.end(), t) != chain.end(); };
        const bool free = std::all_of(from, at, [&](const ggml_tensor * t) {
            const bool uses  = std::any_of(t->src, t->src + GGML_MAX_SRC, moves);
            const bool above = !ggml_op_is_empty(t->op) && base(t) == base(rotation->src[1]); // writes what is to be read
            return moves(t) || (!uses && !above);
        });
        if (free) {
            std::stable_partition(from, at, [&](const ggml_tensor * t) { return !moves(t); });
        }
    }
}
