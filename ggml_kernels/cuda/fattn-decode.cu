#include "fattn-decode.cuh"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && __has_include("fattn-decode-pairs.h")

#include "fattn-decode-plan.cuh"
#include "turbo-quants.cuh"

#define GGML_COMMON_DECL_CUDA
#include "ggml-common.h"
#include "turbo-blocks.h"

#define FATTN_DECODE_PAIR(K, V, TYPE_K, TYPE_V) \
    void ggml_cuda_fattn_decode_##K##_##V(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan); \
    void ggml_cuda_fattn_short_##K##_##V(ggml_backend_cuda_context & ctx, const fattn_short_plan & plan);
#include "fattn-decode-pairs.h" // generated: the pairs that were compiled
#undef FATTN_DECODE_PAIR

fattn_decode_kernels ggml_cuda_fattn_decode_kernels(ggml_type type_k, ggml_type type_v) {
#define FATTN_DECODE_PAIR(K, V, TYPE_K, TYPE_V) \
    if (type_k == GGML_TYPE_##TYPE_K && type_v == GGML_TYPE_##TYPE_V) { return { ggml_cuda_fattn_decode_##K##_##V, ggml_cuda_fattn_short_##K##_##V }; }
#include "fattn-decode-pairs.h"
#undef FATTN_DECODE_PAIR
    return {};
}

// More tiles of columns read the cache again, out of L2 at best: beyond this, converting it to f16 once is cheaper.
constexpr int MAX_COLUMN_TILES = 4;

// A block fetches packed queries of whole groups: no more than its columns.
constexpr int MAX_PACKED = 16;

static int column_tiles(int columns) { return columns <= 8 ? 1 : 2; } // of a warp

// K or V, in blocks of n_heads heads: can rows be copied one by one, with padding, or a tile as a whole?
struct operand_layout {
    bool rows, whole;

    operand_layout(const ggml_tensor * t, int n_heads) {
        const size_t row = ggml_row_size(t->type, t->ne[0]);
        const bool heads_adjoin = n_heads == 1 || t->nb[2] == row;
        const bool starts_align = (uintptr_t) t->data % 16 == 0 && (t->ne[2] == n_heads || n_heads*t->nb[2] % 16 == 0) && (t->ne[3] == 1 || t->nb[3] % 16 == 0);
        rows  = heads_adjoin && starts_align && t->nb[1] % 16 == 0 && n_heads*row % 16 == 0;
        whole = heads_adjoin && starts_align && t->nb[1] == n_heads*row;
    }
};

// whether warps of per_warp heads each can share a block's tiles, heads times parts of them; fills in the plan
static bool lay_out(fattn_decode_plan & plan, const ggml_tensor * K, const ggml_tensor * V, int columns, int heads, int parts, int per_warp, int n_stages) {
    fattn_decode_params & p = plan.params;
    const operand_layout k(K, heads), v(V, heads);
    if (K->ne[2] % heads != 0 || !(k.rows || k.whole) || !(v.rows || v.whole)) {
        return false;
    }
    const int row_k = ggml_row_size(K->type, K->ne[0]), row_v = ggml_row_size(V->type, V->ne[0]);
    const int pad_k = fattn_decode_padding(heads*row_k), pad_v = fattn_decode_padding(heads*row_v);
    p.n_heads  = heads;
    p.n_parts  = parts;
    p.n_groups = K->ne[2]/heads;
    p.n_stages = n_stages;
    p.whole_k  = k.whole && pad_k == 0; // rows that need padding are multiples of 16 bytes, so they can be copied one by one
    p.whole_v  = v.whole && pad_v == 0;
    p.stride_k = heads*row_k + pad_k;
    p.stride_v = heads*row_v + pad_v;
    plan.per_warp = per_warp;
    plan.tile  = parts*fattn_decode_steps(per_warp*row_k, per_warp*row_v)*16;
    const int n_tiles = column_tiles(columns);
    const int stage   = plan.tile*(p.stride_k + p.stride_v) + fattn_decode_mask_bytes(n_tiles, plan.tile);
    const int queries = heads*parts*n_tiles*8*packed_query_bytes(K->ne[0]); // where the last stage will be
    // 16 more: a word of the last row may be read with what follows it
    plan.smem  = FATTN_DECODE_HEADER + (n_stages - 1)*stage + std::max(stage, queries) + 16;
    return true;
}

static bool fits(fattn_decode_plan & plan, const ggml_tensor * K, const ggml_tensor * V, int columns, int warps, int n_stages, int limit) {
    for (int heads = std::min<int>(K->ne[2], warps); heads >= 1; --heads) {
        if (lay_out(plan, K, V, columns, heads, warps/heads, 1, n_stages)) {
            return plan.smem <= limit;
        }
    }
    return false;
}

// as an instance has it that knows its heads at compile time, and with them all strides
static bool fits_known(fattn_decode_plan & plan, const ggml_tensor * K, const ggml_tensor * V, int columns, int limit) {
    const int d = K->ne[0];
    for (const int heads : { FATTN_DECODE_WARPS, FATTN_DECODE_WARPS/2 }) {
        if (columns > 8 || !fattn_decode_knows(d, heads)) {
            continue;
        }
        const int per_warp = fattn_decode_heads_per_warp(d, ggml_blck_size(K->type), ggml_blck_size(V->type), ggml_row_size(K->type, d), ggml_row_size(V->type, d));
        plan.known = lay_out(plan, K, V, columns, heads, FATTN_DECODE_WARPS*per_warp/heads, per_warp, FATTN_DECODE_MAX_STAGES) && plan.smem <= limit;
        if (plan.known) {
            return true;
        }
    }
    return false;
}

// false if no layout fits the device's shared memory or the tensors' strides
static bool make_plan(int device, const ggml_tensor * dst, fattn_decode_plan & plan) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2];
    const int columns = Q->ne[1]*(Q->ne[2]/K->ne[2]);
    const int most    = ggml_cuda_info().devices[device].smpbo;
    const int half    = (most + 1024)/2 - 1024; // leaves room for a second block on the multiprocessor; each takes 1 KiB more
    const auto fits_into = [&](int warps, int limit) {
        return (warps == FATTN_DECODE_WARPS && fits_known(plan, K, V, columns, limit)) ||
            fits(plan, K, V, columns, warps, 3, limit) || fits(plan, K, V, columns, warps, 2, limit);
    };
    const auto fits_with = [&](int warps) { return (K->ne[0] <= 128 && columns <= 8 && fits_into(warps, half)) || fits_into(warps, most); };
    // A short context fills few multiprocessors: blocks of half the warps are done sooner. Not heads of 128, whose instance with all
    // strides known wants all warps (as those for heads of 64 do); nobody measured which is better for what the short kernel does not take.
    if (K->ne[0] != 128 && K->ne[1]*K->ne[2]*Q->ne[3] <= 16*1024 && fits_with(FATTN_DECODE_WARPS/2)) {
        return true;
    }
    for (int warps = FATTN_DECODE_WARPS; warps >= 1; warps /= 2) {
        if (fits_with(warps)) {
            return true;
        }
    }
    return false;
}

bool ggml_cuda_fattn_decode_supported(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    const int cc = ggml_cuda_info().devices[device].cc;
    if (!GGML_CUDA_CC_IS_NVIDIA(cc) || ggml_cuda_highest_compiled_arch(cc) < GGML_CUDA_CC_AMPERE) {
        return false;
    }
    if (ggml_cuda_fattn_decode_kernels(K->type, V->type).general == nullptr || (K->ne[0] != 64 && K->ne[0] != 128 && K->ne[0] != 256) || K->ne[0] != V->ne[0]) {
        return false;
    }
    if (Q->ne[1] > 16 || Q->ne[1]*(Q->ne[2]/K->ne[2]) > MAX_COLUMN_TILES*16 || K->ne[3] != Q->ne[3] || V->ne[3] != Q->ne[3] || (mask && mask->ne[2] != 1)) {
        return false;
    }
    fattn_decode_plan plan = {};
    return make_plan(device, dst, plan);
}

float ggml_cuda_fattn_decode_packed_unit(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1];
    if (Q->ne[1] != 1 || Q->ne[2]/K->ne[2] > MAX_PACKED || K->type == GGML_TYPE_F16 || !ggml_cuda_fattn_decode_supported(device, dst) || ggml_cuda_fattn_short_supported(device, dst)) {
        return 0.0f;
    }
    return ggml_cuda_is_turbo(K->type) ? TURBO_ENTRY_SCALE : 1.0f;
}

// whether `rows` stores the one token there is in t, which is the cache from its first position on
static bool stores_token(const ggml_cuda_attention_rows & rows, const ggml_tensor * t) {
    const ggml_tensor * set_rows = rows.set_rows, * idx = set_rows->src[1], * turned = rows.chain.sub ? rows.chain.sub : rows.chain.rope;
    if ((turned && turned->ne[0] != t->ne[0]) || t->ne[0] % ggml_cuda_attention_rotation_size(rows.chain) != 0) {
        return false;
    }
    return set_rows->data == t->data && set_rows->type == t->type && set_rows->nb[1] == t->nb[1] && t->nb[2] == ggml_row_size(t->type, t->ne[0]) &&
        set_rows->src[0]->ne[0] == t->ne[0]*t->ne[2] && ggml_nrows(set_rows->src[0]) == 1 && t->ne[3] == 1 && ggml_cuda_attention_is_input(idx);
}

bool ggml_cuda_fattn_decode_takes(const ggml_tensor * dst, const ggml_cuda_attention_rows & k, const ggml_cuda_attention_rows & v) {
    return stores_token(k, dst->src[1]) && stores_token(v, dst->src[2]);
}

static void set_params(fattn_decode_params & p, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2];
    memcpy(&p.scale,    (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&p.max_bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&p.softcap,  (const float *) dst->op_params + 2, sizeof(float));
    p.n_q    = Q->ne[1];
    p.n_kv   = K->ne[1];
    p.n_head = Q->ne[2];
    p.gqa    = Q->ne[2]/K->ne[2];
    p.n_head_log2 = 1 << (int) floorf(log2f((float) p.n_head));
    p.m0 = powf(2.0f, -p.max_bias/p.n_head_log2);
    p.m1 = powf(2.0f, -p.max_bias/2.0f/p.n_head_log2);
    p.q  = (const char *) Q->data;
    p.k  = (const char *) K->data;
    p.v  = (const char *) V->data;
    p.nbq1 = Q->nb[1]; p.nbq2 = Q->nb[2]; p.nbq3 = Q->nb[3];
    p.nbk1 = K->nb[1]; p.nbk2 = K->nb[2]; p.nbk3 = K->nb[3];
    p.nbv1 = V->nb[1]; p.nbv2 = V->nb[2]; p.nbv3 = V->nb[3];
}

// The mask as bulk copies of it need it: aligned, and as long as the tiles. llama.cpp's masks are, and stay where they are.
static void set_mask(ggml_backend_cuda_context & ctx, fattn_decode_plan & plan, const ggml_tensor * mask, ggml_cuda_pool_alloc<half> & copy) {
    fattn_decode_params & p = plan.params;
    if (mask == nullptr) {
        return;
    }
    p.mask  = (const char *) mask->data;
    p.nbm1  = mask->nb[1];
    p.nbm3  = mask->nb[3];
    if ((uintptr_t) mask->data % 16 == 0 && mask->nb[1] % 16 == 0 && mask->nb[3] % 16 == 0 && mask->ne[0] % plan.tile == 0) {
        return;
    }
    const int64_t width = GGML_PAD(mask->ne[0], std::max(plan.tile, 8));
    copy.alloc(width*p.n_q*mask->ne[3]);
    p.mask = (const char *) copy.ptr;
    p.nbm1 = width*sizeof(half);
    p.nbm3 = width*sizeof(half)*p.n_q;
    for (int64_t i = 0; i < mask->ne[3]; ++i) {
        CUDA_CHECK(cudaMemcpy2DAsync(copy.ptr + i*width*p.n_q, p.nbm1, (const char *) mask->data + i*mask->nb[3], mask->nb[1],
            mask->ne[0]*sizeof(half), p.n_q, cudaMemcpyDeviceToDevice, ctx.stream()));
    }
}

void ggml_cuda_fattn_decode(ggml_backend_cuda_context & ctx, ggml_tensor * dst, const ggml_cuda_fattn_decode_fusion & fusion) {
    const ggml_tensor * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3], * sinks = dst->src[4];
    fattn_decode_plan plan = {};
    set_params(plan.params, dst);
    plan.params.seq_m      = mask ? mask->ne[3] : 1;
    plan.params.dst        = (float *) (fusion.dst ? fusion.dst : dst)->data;
    plan.params.sinks      = sinks ? (const float *) sinks->data : nullptr;
    plan.params.rotate_dst = fusion.dst != nullptr;
    if (ggml_cuda_fattn_short_supported(ggml_cuda_get_device(), dst)) {
        ggml_cuda_fattn_short(ctx, dst, plan.params, fusion);
        return;
    }
    if (fusion.k) { plan.token = { { fattn_decode_index_of(*fusion.k), fattn_decode_index_of(*fusion.v) } }; }
    GGML_ASSERT(make_plan(ggml_cuda_get_device(), dst, plan));
    ggml_cuda_pool_alloc<half> mask_copy(ctx.pool());
    set_mask(ctx, plan, mask, mask_copy);
    plan.params.packed_q = fusion.packed_q;
    plan.head_size       = K->ne[0];
    plan.n_seq           = dst->src[0]->ne[3];
    ggml_cuda_fattn_decode_kernels(K->type, V->type).general(ctx, plan);
}

#else

bool ggml_cuda_fattn_decode_supported(int, const ggml_tensor *) { return false; }

float ggml_cuda_fattn_decode_packed_unit(int, const ggml_tensor *) { return 0.0f; }

bool ggml_cuda_fattn_decode_takes(const ggml_tensor *, const ggml_cuda_attention_rows &, const ggml_cuda_attention_rows &) { return false; }

void ggml_cuda_fattn_decode(ggml_backend_cuda_context &, ggml_tensor *, const ggml_cuda_fattn_decode_fusion &) {
    GGML_ABORT("fattn-decode: not part of this build");
}

#endif
