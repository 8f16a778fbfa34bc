#include "fattn-prompt.cuh"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

#include "fattn-prompt-kernel.cuh"

constexpr int MIN_ROWS = 2*FATTN_PROMPT_ROWS; // queries times heads that share K and V; upstream's kernels have smaller tiles

static bool is_aligned(const ggml_tensor * t) {
    return (uintptr_t) t->data % 16 == 0 && t->nb[1] % 16 == 0 && t->nb[2] % 16 == 0 && t->nb[3] % 16 == 0;
}

bool ggml_cuda_fattn_prompt_supported(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    const int cc = ggml_cuda_info().devices[device].cc;
    float params[3]; // scale, ALiBi's largest bias, softcap
    memcpy(params, dst->op_params, sizeof(params));
    const auto fits = [](const ggml_tensor * t) { return t->type == GGML_TYPE_F16 ? is_aligned(t) : ggml_is_quantized(t->type); };
    return GGML_CUDA_CC_IS_NVIDIA(cc) && ggml_cuda_highest_compiled_arch(cc) >= GGML_CUDA_CC_AMPERE &&
        (ggml_is_quantized(K->type) || ggml_is_quantized(V->type)) && fits(K) && fits(V) &&
        (Q->ne[0] == 64 || Q->ne[0] == 128) && V->ne[0] == Q->ne[0] && is_aligned(Q) && K->ne[1] % FATTN_PROMPT_TILE == 0 && K->ne[3] == Q->ne[3] &&
        Q->ne[1]*(Q->ne[2]/K->ne[2]) >= MIN_ROWS && params[0] > 0.0f && params[1] == 0.0f && params[2] == 0.0f && ggml_get_op_params_i32(dst, 4) == 0 &&
        mask && is_aligned(mask) && mask->ne[2] == 1;
}

template <int D, int COLUMNS>
static void launch(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    constexpr int SMEM = fattn_prompt_smem(D, COLUMNS);
    constexpr fattn_kernel_t kernel = k_fattn_prompt<D, COLUMNS>;
    CUDA_SET_SHARED_MEMORY_LIMIT(kernel, SMEM);
    launch_fattn<D, FATTN_PROMPT_ROWS/COLUMNS, COLUMNS>(ctx, dst, kernel, FATTN_PROMPT_WARPS, SMEM, FATTN_PROMPT_TILE, true, true, /*stream_k =*/ false, /*use_sparse =*/ false);
}

template <int D>
static void launch(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const int gqa = dst->src[0]->ne[2]/dst->src[1]->ne[2];
    if      (gqa > 4) { launch<D, 8>(ctx, dst); }
    else if (gqa > 2) { launch<D, 4>(ctx, dst); }
    else if (gqa > 1) { launch<D, 2>(ctx, dst); }
    else              { launch<D, 1>(ctx, dst); }
}

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    if (dst->src[0]->ne[0] == 64) { launch<64>(ctx, dst); }
    else                          { launch<128>(ctx, dst); }
}

#else

bool ggml_cuda_fattn_prompt_supported(int, const ggml_tensor *) { return false; }

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context &, ggml_tensor *) { GGML_ABORT("no kernel"); }

#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
