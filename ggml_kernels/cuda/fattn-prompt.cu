#include "fattn-prompt.cuh"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

#include "fattn-prompt-kernel.cuh"

constexpr int MIN_ROWS = 2*FATTN_PROMPT_ROWS; // queries times heads that share K and V; upstream's kernels have smaller tiles
constexpr int SYSTEM_SMEM = 1024;             // of each block

// heads that share K and V, of a block
static int columns_of(const ggml_tensor * Q, const ggml_tensor * K) {
    const int64_t gqa = Q->ne[2]/K->ne[2];
    return gqa > 4 ? 8 : gqa > 2 ? 4 : gqa > 1 ? 2 : 1;
}

// One block alone would wait for each of its copies; GPUs for graphics have less than half of the shared memory of others.
static bool fits_twice(int device, int smem) {
    int available = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
    return 2*(smem + SYSTEM_SMEM) <= available;
}

// launch_fattn's search for the last position that a block of tokens sees reads whole blocks of the mask.
static bool reads_past_the_mask(const ggml_tensor * Q, const ggml_tensor * K, int tokens) {
    const bool searches = K->ne[1] % FATTN_KQ_STRIDE == 0 && (Q->ne[1] >= 1024 || Q->ne[3] > 1);
    return searches && Q->ne[1] % tokens != 0;
}

static bool is_aligned(const ggml_tensor * t) {
    return (uintptr_t) t->data % 16 == 0 && t->nb[1] % 16 == 0 && t->nb[2] % 16 == 0 && t->nb[3] % 16 == 0;
}

bool ggml_cuda_fattn_prompt_supported(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    const int cc = ggml_cuda_info().devices[device].cc;
    float params[3]; // scale, ALiBi's largest bias, softcap
    memcpy(params, dst->op_params, sizeof(params));
    const int columns = columns_of(Q, K);
    const auto fits = [](const ggml_tensor * t) { return t->type == GGML_TYPE_F16 ? is_aligned(t) : ggml_is_quantized(t->type); };
    return GGML_CUDA_CC_IS_NVIDIA(cc) && ggml_cuda_highest_compiled_arch(cc) >= GGML_CUDA_CC_AMPERE &&
        (ggml_is_quantized(K->type) || ggml_is_quantized(V->type)) && fits(K) && fits(V) &&
        (Q->ne[0] == 64 || Q->ne[0] == 128) && V->ne[0] == Q->ne[0] && is_aligned(Q) && K->ne[1] % FATTN_PROMPT_TILE == 0 && K->ne[3] == Q->ne[3] &&
        Q->ne[1]*(Q->ne[2]/K->ne[2]) >= MIN_ROWS && params[0] > 0.0f && params[0] <= 1.0f && params[1] == 0.0f && params[2] == 0.0f && ggml_get_op_params_i32(dst, 4) == 0 &&
        mask && is_aligned(mask) && mask->ne[2] == 1 && !reads_past_the_mask(Q, K, FATTN_PROMPT_ROWS/columns) &&
        fits_twice(device, fattn_prompt_smem(Q->ne[0], columns));
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
    switch (columns_of(dst->src[0], dst->src[1])) {
        case 8:  launch<D, 8>(ctx, dst); break;
        case 4:  launch<D, 4>(ctx, dst); break;
        case 2:  launch<D, 2>(ctx, dst); break;
        default: launch<D, 1>(ctx, dst); break;
    }
}

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    if (dst->src[0]->ne[0] == 64) { launch<64>(ctx, dst); }
    else                          { launch<128>(ctx, dst); }
}

#else

bool ggml_cuda_fattn_prompt_supported(int, const ggml_tensor *) { return false; }

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context &, ggml_tensor *) { GGML_ABORT("no kernel"); }

#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
