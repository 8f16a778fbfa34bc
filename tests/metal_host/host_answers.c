#include "host_answers.h"

#include "ggml-metal-turbo.h"

#include <string.h>

static const struct {
    const char *   name;
    enum ggml_type type;
} types[] = {
    { "f16",    GGML_TYPE_F16    },
    { "q8_0",   GGML_TYPE_Q8_0   },
    { "q4_0",   GGML_TYPE_Q4_0   },
    { "turbo4", GGML_TYPE_TURBO4 },
    { "turbo3", GGML_TYPE_TURBO3 },
    { "turbo3t", GGML_TYPE_TURBO3T },
};

// ggml's own would bring all of ggml with it
const char * ggml_type_name(enum ggml_type type) {
    for (size_t i = 0; i < sizeof(types)/sizeof(types[0]); ++i) {
        if (types[i].type == type) {
            return types[i].name;
        }
    }
    return "?";
}

static enum ggml_type type_of(const char * name) {
    for (size_t i = 0; i < sizeof(types)/sizeof(types[0]); ++i) {
        if (strcmp(types[i].name, name) == 0) {
            return types[i].type;
        }
    }
    return GGML_TYPE_COUNT;
}

struct attention {
    struct ggml_tensor op, q, k, v;
};

static void make_attention(struct attention * a, const char * type_k, const char * type_v, int head_k, int head_v) {
    memset(a, 0, sizeof(*a));
    a->op.op     = GGML_OP_FLASH_ATTN_EXT;
    a->k.type    = type_of(type_k);
    a->k.ne[0]   = head_k;
    a->v.type    = type_of(type_v);
    a->v.ne[0]   = head_v;
    a->op.src[0] = &a->q;
    a->op.src[1] = &a->k;
    a->op.src[2] = &a->v;
}

void host_fa_type_name(const char * type_k, const char * type_v, char * name, size_t size) {
    struct attention a;
    make_attention(&a, type_k, type_v, 128, 128);
    ggml_metal_fa_type_name(&a.op, false, name, size);
}

bool host_fa_supported(const char * type_k, const char * type_v, int head_k, int head_v) {
    struct attention a;
    make_attention(&a, type_k, type_v, head_k, head_v);
    return ggml_metal_turbo_decides(&a.op) && ggml_metal_turbo_supports(&a.op, true, true);
}

bool host_refuses(const char * type) {
    static const enum ggml_op ops[] = { GGML_OP_SET_ROWS, GGML_OP_GET_ROWS, GGML_OP_CPY, GGML_OP_CONT, GGML_OP_MUL_MAT, GGML_OP_FLASH_ATTN_EXT };
    bool refuses = true;
    for (size_t i = 0; i < sizeof(ops)/sizeof(ops[0]); ++i) {
        for (int place = -1; place < 3; ++place) {
            struct ggml_tensor src[3], op;
            memset(src, 0, sizeof(src));
            memset(&op, 0, sizeof(op));
            op.op = ops[i];
            for (int s = 0; s < 3; ++s) {
                src[s].nb[0] = sizeof(float);
                src[s].ne[0] = 128;
                op.src[s]    = &src[s];
            }
            *(place < 0 ? &op.type : &src[place].type) = type_of(type);
            refuses = refuses && ggml_metal_turbo_decides(&op) && !ggml_metal_turbo_supports(&op, true, true);
        }
    }
    return refuses;
}
