#pragma once

// Launches the kernels for one pair of K and V types; included by the files that fattn-decode.cmake generates.

#include "fattn-decode-plan.cuh"

#define GGML_COMMON_DECL_CUDA
#include "ggml-common.h"

#include "fattn-decode-kernel.cuh"
#include "fattn-short-kernel.cuh"

// lets a kernel have all the shared memory there is
template <auto * kernel> static void raise_shared_memory() {
    static bool raised[GGML_CUDA_MAX_DEVICES] = {};
    const int device = ggml_cuda_get_device();
    if (!raised[device]) {
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ggml_cuda_info().devices[device].smpbo));
        raised[device] = true;
    }
}

template <int D, typename LK, typename LV, int NT, int HEADS>
static void fattn_decode_launch(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) {
    const auto kernel = fattn_decode<D, LK, LV, NT, HEADS>;
    fattn_decode_params p = plan.params;
    const int n_sm    = ggml_cuda_info().devices[ggml_cuda_get_device()].nsm;
    const int threads = p.n_heads/plan.per_warp*p.n_parts*32;

    raise_shared_memory<fattn_decode<D, LK, LV, NT, HEADS>>();
    int per_sm = 1;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, plan.smem));

    const int tiles   = (p.n_kv + plan.tile - 1)/plan.tile;
    const int columns = (p.n_q*p.gqa + NT*8 - 1)/(NT*8);
    const int others  = p.n_groups*columns*plan.n_seq;
    const int most    = std::max(1, std::max(per_sm, 1)*n_sm/others);
    // one tile a block is too little work for what a block costs, before and in the combining kernel
    const int wanted = std::max((tiles + 1)/2, std::min(tiles, n_sm/others));
    p.n_splits = std::max(1, std::min(wanted, most));
    GGML_ASSERT((uint64_t) tiles*(p.n_splits + 1) <= UINT32_MAX);

    const int     parts = p.n_splits*(block_shape<D, LK, LV, HEADS>::ONE_PART ? 1 : p.n_parts);
    const int64_t rows  = (int64_t) plan.n_seq*p.n_head*p.n_q;
    ggml_cuda_pool_alloc<float>  part(ctx.pool(), rows*parts*D);
    ggml_cuda_pool_alloc<float2> meta(ctx.pool(), rows*parts);
    p.part = part.ptr;
    p.meta = meta.ptr;

    const ggml_cuda_kernel_launch_params attend(dim3(p.n_splits, p.n_groups*columns, plan.n_seq), dim3(threads), plan.smem, ctx.stream());
    ggml_cuda_kernel_launch(kernel, attend, p, plan.token);
    const ggml_cuda_kernel_launch_params combine(dim3(rows, D/64), dim3(parts > 64 ? 1024 : 256), parts*sizeof(float), ctx.stream());
    ggml_cuda_kernel_launch(fattn_decode_combine<D>, combine, (const float *) p.part, (const float2 *) p.meta, p.dst, p.sinks, parts, p.n_head, p.n_q, p.rotate_dst);
}

template <int D, typename LK, typename LV>
static void fattn_decode_columns(ggml_backend_cuda_context & ctx, const fattn_decode_plan & plan) {
    const fattn_decode_params & p = plan.params;
    if (p.n_q*p.gqa > 8) {
        fattn_decode_launch<D, LK, LV, 2, 0>(ctx, plan);
        return;
    }
    if constexpr (fattn_decode_knows(D, 8)) {
        if (plan.known && p.n_heads == 8) {
            fattn_decode_launch<D, LK, LV, 1, 8>(ctx, plan);
            return;
        }
    }
    if constexpr (fattn_decode_knows(D, 4)) {
        if (plan.known && p.n_heads == 4) {
            fattn_decode_launch<D, LK, LV, 1, 4>(ctx, plan);
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
