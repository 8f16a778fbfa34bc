#pragma once

// Launches the kernels for one pair of K and V types; included by the files that fattn-decode.cmake generates.

#include "fattn-decode-plan.cuh"

#define GGML_COMMON_DECL_CUDA
#include "ggml-common.h"
#define TURBO_TABLE(type, name) static __device__ const type name
#include "turbo-blocks.h"
#include "turbo-tables.h"

#include "fattn-decode-kernel.cuh"

template <int D, typename LK, typename LV, int NT, int HEADS>
static void fattn_decode_launch(ggml_backend_cuda_context & ctx, const fattn_decode_op & op, fattn_decode_plan plan) {
    const auto kernel = fattn_decode<D, LK, LV, NT, HEADS>;
    fattn_decode_params & p = plan.params;
    const int device  = ggml_cuda_get_device();
    const int threads = p.n_heads*p.n_parts*32;

    static bool raised[GGML_CUDA_MAX_DEVICES] = {};
    if (!raised[device]) {
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ggml_cuda_info().devices[device].smpbo));
        raised[device] = true;
    }
    int per_sm = 1;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, plan.smem));

    const int tiles   = (p.n_kv + plan.tile - 1)/plan.tile;
    const int columns = (p.n_q*p.gqa + NT*8 - 1)/(NT*8);
    const int others  = p.n_groups*columns*op.n_seq;
    p.n_splits = std::max(1, std::min(tiles, std::max(per_sm, 1)*ggml_cuda_info().devices[device].nsm/others));

    const int     parts = p.n_splits*p.n_parts;
    const int64_t rows  = (int64_t) op.n_seq*p.n_head*p.n_q;
    ggml_cuda_pool_alloc<float>  part(ctx.pool(), rows*parts*D);
    ggml_cuda_pool_alloc<float2> meta(ctx.pool(), rows*parts);
    p.part = part.ptr;
    p.meta = meta.ptr;

    const ggml_cuda_kernel_launch_params decode(dim3(p.n_splits, p.n_groups*columns, op.n_seq), dim3(threads), (size_t) plan.smem, ctx.stream());
    ggml_cuda_kernel_launch(kernel, decode, p);
    const ggml_cuda_kernel_launch_params combine(dim3(rows, D/64), dim3(parts > 64 ? 1024 : 256), parts*sizeof(float), ctx.stream());
    ggml_cuda_kernel_launch(fattn_decode_combine<D>, combine, (const float *) p.part, (const float2 *) p.meta, op.dst, op.sinks, parts, p.n_head, p.n_q, op.rotate_dst);
}

template <int D, typename LK, typename LV>
static void fattn_decode_columns(ggml_backend_cuda_context & ctx, const fattn_decode_op & op, const fattn_decode_plan & plan) {
    if (plan.params.n_q*plan.params.gqa > 8) {
        fattn_decode_launch<D, LK, LV, 2, 0>(ctx, op, plan);
        return;
    }
    // the common shape, with everything known at compile time
    if constexpr (D == 128) {
        if (plan.params.n_heads == FATTN_DECODE_WARPS && !plan.params.whole_k && !plan.params.whole_v && plan.params.n_stages == FATTN_DECODE_MAX_STAGES) {
            fattn_decode_launch<D, LK, LV, 1, FATTN_DECODE_WARPS>(ctx, op, plan);
            return;
        }
    }
    fattn_decode_launch<D, LK, LV, 1, 0>(ctx, op, plan);
}

template <typename LK, typename LV>
static void fattn_decode_pair(ggml_backend_cuda_context & ctx, const fattn_decode_op & op, const fattn_decode_plan & plan) {
    switch (op.head_size) {
        case  64: fattn_decode_columns< 64, LK, LV>(ctx, op, plan); break;
        case 128: fattn_decode_columns<128, LK, LV>(ctx, op, plan); break;
        case 256: fattn_decode_columns<256, LK, LV>(ctx, op, plan); break;
        default:  GGML_ABORT("fattn-decode: no kernel for head size %d", op.head_size);
    }
}

#define FATTN_DECODE_CASE(K, V)                                                                                                   \
    void ggml_cuda_fattn_decode_##K##_##V(ggml_backend_cuda_context & ctx, const fattn_decode_op & op, const fattn_decode_plan & plan) { \
        fattn_decode_pair<load_##K, load_##V>(ctx, op, plan);                                                                   \
    }
