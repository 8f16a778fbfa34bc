#pragma once

// turbo3 and turbo4 on Metal: what upstream's host code asks. Kernels: kernels/turbo.metal, and lines in quantize.metal.

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline bool ggml_metal_is_turbo(enum ggml_type type) {
    return type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// Does supports_op have to ask ggml_metal_turbo_supports about this? Some of its own cases answer for all types.
static inline bool ggml_metal_turbo_decides(const struct ggml_tensor * op) {
    if (ggml_metal_is_turbo(op->type)) {
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
static inline bool ggml_metal_turbo_supports(const struct ggml_tensor * op, bool has_simdgroup_reduction) {
    switch (op->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        case GGML_OP_GET_ROWS:
            return op->type == GGML_TYPE_F32;
        case GGML_OP_SET_ROWS:
            return has_simdgroup_reduction && op->src[0]->type == GGML_TYPE_F32 && op->src[0]->nb[0] == sizeof(float);
        case GGML_OP_CPY:
            return ggml_metal_is_turbo(op->src[0]->type) && (op->type == GGML_TYPE_F32 || op->type == GGML_TYPE_F16);
        default:
            return false;
    }
}

#ifdef __cplusplus
}
#endif
