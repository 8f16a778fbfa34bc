#include "fattn-decode.cuh"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && __has_include("fattn-decode-pairs.h")

#include "fattn-decode-plan.cuh"

#include <climits>
#include <map>
#include <mutex>

// Up to here fewer launches are worth more than how fast the cache is read.
constexpr int MAX_POSITIONS = 16*1024;

// whether copies of 16 bytes bring whole rows of a head, and nothing from past the tensor's end; the kernel has nb[1] as an int
static bool can_copy(const ggml_tensor * t) {
    const int row = ggml_row_size(t->type, t->ne[0]);
    return (uintptr_t) t->data % 16 == 0 && t->nb[1] % 16 == 0 && t->nb[1] <= INT_MAX && t->nb[3] % 16 == 0 && t->nb[2] % (16 - fattn_short_shift(row)) == 0 &&
        (row % 16 == 0 || (t->nb[2] == (size_t) row && t->nb[1] >= t->ne[2]*t->nb[2]));
}

// the layout; false if the device has not the shared memory for it
static bool lay_out(int device, const ggml_tensor * dst, fattn_short_plan & plan) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2];
    fattn_decode_params & a = plan.params.attention;
    const int d = K->ne[0], heads = K->ne[2]*Q->ne[3], room = ggml_cuda_info().devices[device].smpbo;
    const int row_k = ggml_row_size(K->type, d), row_v = ggml_row_size(V->type, d);
    const int most  = std::max(1, std::min(FATTN_SHORT_MAX_SPLITS, ggml_cuda_info().devices[device].nsm/heads));
    a.n_splits = std::max(1, std::min<int>(most, K->ne[1]/256)); // a block with less is not worth its parts
    a.n_groups = K->ne[2];
    plan.head_size = d;
    plan.n_seq     = Q->ne[3];
    plan.smem      = fattn_short_share(plan.params, d, row_k, row_v, Q->ne[2]/K->ne[2], K->ne[1], room);
    return plan.smem <= room;
}

bool ggml_cuda_fattn_short_supported(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    if (Q->ne[1] != 1 || Q->ne[2]/K->ne[2] > 8 || K->ne[1] > MAX_POSITIONS || !ggml_cuda_fattn_decode_supported(device, dst)) {
        return false;
    }
    fattn_short_plan plan = {};
    return can_copy(K) && can_copy(V) && (!mask || ((uintptr_t) mask->data % 4 == 0 && mask->nb[3] % 4 == 0)) && lay_out(device, dst, plan);
}

// One for each stream, for the blocks of one launch at a time. They leave their tickets at zero.
static unsigned * tickets_of(cudaStream_t stream, int n) {
    static std::mutex mutex;
    static std::map<std::pair<int, cudaStream_t>, std::pair<unsigned *, int>> all;
    std::lock_guard<std::mutex> lock(mutex);
    auto & mine = all[{ ggml_cuda_get_device(), stream }];
    if (mine.second < n) { // not through a stream that may be capturing; what was there may still be in use
        cudaStream_t other;
        CUDA_CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
        CUDA_CHECK(cudaMalloc((void **) &mine.first, n*sizeof(unsigned)));
        CUDA_CHECK(cudaMemsetAsync(mine.first, 0, n*sizeof(unsigned), other));
        CUDA_CHECK(cudaStreamSynchronize(other));
        CUDA_CHECK(cudaStreamDestroy(other));
        mine.second = n;
    }
    return mine.first;
}

static fattn_short_input input_of(const ggml_cuda_attention_chain & chain, int head_size) {
    return { ggml_cuda_attention_make_source(chain, head_size), ggml_cuda_attention_rotation_size(chain) };
}

void ggml_cuda_fattn_short(ggml_backend_cuda_context & ctx, ggml_tensor * dst, const fattn_decode_params & attention, const ggml_cuda_fattn_decode_fusion & fusion) {
    const ggml_tensor * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    fattn_short_plan plan = {};
    plan.params.attention = attention;
    GGML_ASSERT(lay_out(ggml_cuda_get_device(), dst, plan));
    if (mask) {
        plan.params.attention.mask  = (const char *) mask->data;
        plan.params.attention.nbm3  = mask->nb[3];
    }
    if (fusion.q) { plan.params.input[0] = input_of(*fusion.q, K->ne[0]); }
    if (fusion.k) {
        plan.params.input[1] = input_of(fusion.k->chain, K->ne[0]);
        plan.params.input[2] = input_of(fusion.v->chain, V->ne[0]);
        plan.params.idx[0]   = fattn_decode_index_of(*fusion.k);
        plan.params.idx[1]   = fattn_decode_index_of(*fusion.v);
    }
    plan.params.tickets = tickets_of(ctx.stream(), plan.n_seq*K->ne[2]);
    ggml_cuda_fattn_decode_kernels(K->type, V->type).one_launch(ctx, plan);
}

#else

bool ggml_cuda_fattn_short_supported(int, const ggml_tensor *) { return false; }

#endif
