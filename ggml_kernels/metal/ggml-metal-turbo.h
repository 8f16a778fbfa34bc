#pragma once

// turbo3 and turbo4 on Metal: what upstream's host code asks. Kernels: kernels/turbo.metal, fa_turbo.metal and
// fa_vec_turbo.metal, and lines in quantize.metal and fa_aux.metal.

#include "ggml.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline bool ggml_metal_is_turbo(enum ggml_type type) {
    return type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// turbo3t is a type of the CPU alone: there is no kernel for it here
static inline bool ggml_metal_touches_turbo3t(const struct ggml_tensor * op) {
    bool touches = op->type == GGML_TYPE_TURBO3T;
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        touches = touches || (op->src[i] != NULL && op->src[i]->type == GGML_TYPE_TURBO3T);
    }
    return touches;
}

// ---- FLASH_ATTN_EXT ---------------------------------------------------------------------------------------------------

static inline bool ggml_metal_fa_is_own_type(enum ggml_type type) {
    return ggml_metal_is_turbo(type) || type == GGML_TYPE_F16 || type == GGML_TYPE_Q8_0;
}

// Is this a pair of fa_turbo.metal? Upstream has kernels of two equal types.
static inline bool ggml_metal_fa_is_own_pair(const struct ggml_tensor * op) {
    const enum ggml_type k = op->src[1]->type;
    const enum ggml_type v = op->src[2]->type;
    return ggml_metal_fa_is_own_type(k) && ggml_metal_fa_is_own_type(v) && (k != v || ggml_metal_is_turbo(k));
}

static inline bool ggml_metal_fa_supports_own_pair(const struct ggml_tensor * op) {
    const int64_t d = op->src[1]->ne[0];
    return ggml_metal_fa_is_own_pair(op) && d == op->src[2]->ne[0] &&
        (d == 64 || d == 128 || d == 192 || d == 256 || d == 512);
}

// The part of a pipeline's name that says the types of K and V, or what they were converted to.
static inline void ggml_metal_fa_type_name(const struct ggml_tensor * op, bool use_kv_f16, char * name, size_t size) {
    const char * k = use_kv_f16 ? "f16" : ggml_type_name(op->src[1]->type);
    if (use_kv_f16 || !ggml_metal_fa_is_own_pair(op) || op->src[1]->type == op->src[2]->type) {
        snprintf(name, size, "%s", k);
    } else {
        snprintf(name, size, "%s_%s", k, ggml_type_name(op->src[2]->type));
    }
}

// ---- supports_op ------------------------------------------------------------------------------------------------------

// Does supports_op have to ask ggml_metal_turbo_supports about this? Some of its own cases answer for all types.
static inline bool ggml_metal_turbo_decides(const struct ggml_tensor * op) {
    if (ggml_metal_is_turbo(op->type) || ggml_metal_touches_turbo3t(op) || (op->op == GGML_OP_FLASH_ATTN_EXT && ggml_metal_fa_is_own_pair(op))) {
        return true;
    }
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        if (op->src[i] != NULL && ggml_metal_is_turbo(op->src[i]->type)) {
            return true;
        }
    }
    return false;
}

// They are cache types: no arithmetic. CPY only reads them, for what fills a cache is SET_ROWS.
static inline bool ggml_metal_turbo_supports(const struct ggml_tensor * op, bool has_simdgroup_reduction, bool has_simdgroup_mm) {
    switch (op->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            break;
    }
    if (ggml_metal_touches_turbo3t(op)) {
        return false;
    }
    switch (op->op) {
        case GGML_OP_GET_ROWS:
            return op->type == GGML_TYPE_F32;
        case GGML_OP_SET_ROWS:
            return has_simdgroup_reduction && op->src[0]->type == GGML_TYPE_F32 && op->src[0]->nb[0] == sizeof(float);
        case GGML_OP_CPY:
            return ggml_metal_is_turbo(op->src[0]->type) && (op->type == GGML_TYPE_F32 || op->type == GGML_TYPE_F16);
        case GGML_OP_FLASH_ATTN_EXT:
            return has_simdgroup_mm && ggml_metal_fa_supports_own_pair(op);
        default:
            return false;
    }
}

#ifdef __cplusplus
}
#endif
