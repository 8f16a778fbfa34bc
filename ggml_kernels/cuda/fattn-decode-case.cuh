#pragma once

// Launches the kernels for one pair of K and V types; included by the files that fattn-decode.cmake generates.

#include "fattn-decode-plan.cuh"

#define GGML_COMMON_DECL_CUDA
#include "ggml-common.h"

#include "fattn-decode-kernel.cuh"
#include "fattn-short-kernel.cuh"

typedef void (* fattn_decode_kernel_t)(const fattn_decode_params p);

// lets a kernel have all the shared memory there is
template <auto * kernel> static void raise_shared_memory() {
    static bool raised[GGML_CUDA_MAX_DEVICES] = {};
    const int device = ggml_cuda_get_device();
    if (!raised[device]) {
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ggml_cuda_info().devices[device].smpbo));
        raised[device] = true;
    }
}

// ggml_cuda_kernel_launch, which knows of no clusters
static void launch_in_clusters(fattn_decode_kernel_t kernel, dim3 grid, dim3 block, int smem, cudaStream_t stream, const fattn_decode_params & p) {
    static const char * env = getenv("GGML_CUDA_PDL");
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim  = grid;
    config.blockDim = block;
    config.stream   = stream;
    config.attrs    = attributes;
    config.dynamicSmemBytes = smem;
    if ((env == nullptr || atoi(env) != 0) && ggml_cuda_kernel_can_use_pdl((const void *) kernel)) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (p.cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs].val.clusterDim.x = p.cluster;
        attributes[config.numAttrs].val.clusterDim.y = 1;
        attributes[config.numAttrs++].val.clusterDim.z = 1;
    }
    CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, p));
}

// blocks of a cluster: those of a short context, so that no second kernel is needed; otherwise 1
static int cluster_size(const fattn_decode_plan & plan, int n_splits, int tiles) {
    const fattn_decode_params & p = plan.params;
    const int device = ggml_cuda_get_device();
    static int supported[GGML_CUDA_MAX_DEVICES] = {};
    if (supported[device] == 0) {
        int yes = 0;
        CUDA_CHECK(cudaDeviceGetAttribute(&yes, cudaDevAttrClusterLaunch, device));
        supported[device] = yes && ggml_cuda_highest_compiled_arch(ggml_cuda_info().devices[device].cc) >= GGML_CUDA_CC_HOPPER ? 1 : -1;
    }
    if (supported[device] < 0) {
        return 1;
    }
    // measured on an H200: in clusters of 4, the blocks of a deep context take half as long again
    int size = tiles <= FATTN_DECODE_MAX_CLUSTER*(plan.brief ? 2 : 1) ? FATTN_DECODE_MAX_CLUSTER : 1;
    while (size > 1 && (size/2 >= tiles || size > n_splits || size*p.n_parts > 32 || (p.n_parts & (p.n_parts - 1)) != 0)) {
        size /= 2;
    }
    return size;
}

template <int D, typename LK, typename LV, int NT, int HEADS>
static void fattn_decode_launch(ggml_backend_cuda_context & ctx, fattn_decode_plan plan) {
    const auto kernel = fattn_decode<D, LK, LV, NT, HEADS>;
    fattn_decode_params & p = plan.params;
    const int device  = ggml_cuda_get_device();
    const int threads = p.n_heads*p.n_parts*32;

    raise_shared_memory<fattn_decode<D, LK, LV, NT, HEADS>>();
    int per_sm = 1;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, plan.smem));

    const int tiles   = (p.n_kv + plan.tile - 1)/plan.tile;
    const int columns = (p.n_q*p.gqa + NT*8 - 1)/(NT*8);
    const int others  = p.n_groups*columns*plan.n_seq;
    const int most    = std::max(1, std::max(per_sm, 1)*ggml_cuda_info().devices[device].nsm/others);
    const int mailbox_rows = p.n_heads*std::min(NT*8, p.n_q*p.gqa);
    p.cluster = cluster_size(plan, most, tiles);
    if (plan.smem + fattn_decode_mailbox(mailbox_rows, p.cluster, p.n_parts, D) > (int) ggml_cuda_info().devices[device].smpbo) { p.cluster = 1; }
    p.cluster_log2 = (int) log2f((float) p.cluster);
    if (p.cluster > 1) {
        p.mailbox  = (plan.smem - FATTN_DECODE_HEADER + 15) & ~15;
        plan.smem  = FATTN_DECODE_HEADER + p.mailbox + fattn_decode_mailbox(mailbox_rows, p.cluster, p.n_parts, D);
    }
    // one tile a block is too little work for what a block costs, before and in the combining kernel
    const int wanted = std::max((tiles + 1)/2, std::min(tiles, ggml_cuda_info().devices[device].nsm/others));
    p.n_splits  = p.cluster > 1 ? p.cluster : std::max(1, std::min(wanted, most));
    p.few_tiles = (tiles + p.n_splits - 1)/p.n_splits < p.n_stages;
    GGML_ASSERT((uint64_t) tiles*(p.n_splits + 1) <= UINT32_MAX);

    const int     parts = p.cluster > 1 ? p.n_splits/p.cluster : p.n_splits*p.n_parts;
    const bool    more  = p.cluster == 1 || parts > 1;
    const int64_t rows  = (int64_t) plan.n_seq*p.n_head*p.n_q;
    ggml_cuda_pool_alloc<float>  part(ctx.pool());
    ggml_cuda_pool_alloc<float2> meta(ctx.pool());
    if (more) {
        p.part = part.alloc(rows*parts*D);
        p.meta = meta.alloc(rows*parts);
    }

    launch_in_clusters(kernel, dim3(p.n_splits, p.n_groups*columns, plan.n_seq), dim3(threads), plan.smem, ctx.stream(), p);
    if (more) {
        const ggml_cuda_kernel_launch_params combine(dim3(rows, D/64), dim3(parts > 64 ? 1024 : 256), parts*sizeof(float), ctx.stream());
        ggml_cuda_kernel_launch(fattn_decode_combine<D>, combine, (const float *) p.part, (const float2 *) p.meta, p.dst, p.sinks, parts, p.n_head, p.n_q, p.rotate_dst);
    }
}

template <int D, typename LK, typename LV>
static void fattn_decode_columns(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) {
    const fattn_decode_params & p = plan.params;
    if (p.n_q*p.gqa > 8) {
        fattn_decode_launch<D, LK, LV, 2, 0>(ctx, plan);
        return;
    }
    // the common shape, with everything known at compile time: short and deep contexts
    if constexpr (D == 128) {
        if (plan.brief) { fattn_decode_launch<D, LK, LV, 1, FATTN_DECODE_BRIEF_HEADS>(ctx, plan); return; }
        if (p.n_heads == FATTN_DECODE_WARPS && !p.whole_k && !p.whole_v && p.n_stages == FATTN_DECODE_MAX_STAGES) {
            fattn_decode_launch<D, LK, LV, 1, FATTN_DECODE_WARPS>(ctx, plan);
            return;
        }
    }
    fattn_decode_launch<D, LK, LV, 1, 0>(ctx, plan);
}

template <typename LK, typename LV>
static void fattn_decode_pair(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) {
    switch (plan.head_size) {
        case  64: fattn_decode_columns< 64, LK, LV>(ctx, plan); break;
        case 128: fattn_decode_columns<128, LK, LV>(ctx, plan); break;
        case 256: fattn_decode_columns<256, LK, LV>(ctx, plan); break;
        default:  GGML_ABORT("fattn-decode: no kernel for head size %d", plan.head_size);
    }
}

// ---- a short context ----------------------------------------------------------------------------------------------------

template <int D, typename LK, typename LV>
static void fattn_short_launch(ggml_backend_cuda_context & ctx, fattn_short_plan plan) {
    static_assert(sizeof(short_encoders<LK, LV>) <= FATTN_SHORT_MAX_ENCODERS, "the plan counts on less");
    fattn_decode_params & a = plan.params.attention;
    raise_shared_memory<fattn_short<D, LK, LV>>();
    const int64_t rows = (int64_t) plan.n_seq*a.n_head*a.n_splits;
    ggml_cuda_pool_alloc<float>  part(ctx.pool());
    ggml_cuda_pool_alloc<float2> meta(ctx.pool());
    if (a.n_splits > 1) {
        a.part = part.alloc(rows*D);
        a.meta = meta.alloc(rows);
    }
    const ggml_cuda_kernel_launch_params config(dim3(a.n_splits, a.n_groups, plan.n_seq), dim3(fattn_short_warps(D)*32), (size_t) plan.smem, ctx.stream());
    ggml_cuda_kernel_launch(fattn_short<D, LK, LV>, config, plan.params);
}

template <typename LK, typename LV>
static void fattn_short_pair(ggml_backend_cuda_context & ctx, const fattn_short_plan & plan) {
    switch (plan.head_size) {
        case  64: fattn_short_launch< 64, LK, LV>(ctx, plan); break;
        case 128: fattn_short_launch<128, LK, LV>(ctx, plan); break;
        case 256: fattn_short_launch<256, LK, LV>(ctx, plan); break;
        default:  GGML_ABORT("fattn-short: no kernel for head size %d", plan.head_size);
    }
}

#define FATTN_DECODE_CASE(K, V)                                                                           \
    void ggml_cuda_fattn_decode_##K##_##V(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) { \
        fattn_decode_pair<load_##K, load_##V>(ctx, plan);                                                \
    }                                                                                                    \
    void ggml_cuda_fattn_short_##K##_##V(ggml_backend_cuda_context & ctx, const fattn_short_plan & plan) {   \
        fattn_short_pair<load_##K, load_##V>(ctx, plan);                                                 \
    }
