#include "fattn-prompt.cuh"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

#include "fattn-common.cuh"

// With fewer queries or positions the second launch costs more than what it hides.
constexpr int64_t MIN_QUERIES   = 256;
constexpr int64_t MIN_POSITIONS = 16*1024;

constexpr int PLACE_THREADS = 256;
constexpr int ROTATION      = 64; // of V

struct head_range {
    int64_t first, count; // heads of K and V
};

// How many heads of K and V are converted before the first product: what is converted ahead is not hidden, and few heads
// are multiplied too soon to hide the others. GGML_CUDA_FA_PROMPT_HEADS says another number, 0 none, to compare.
static int64_t heads_ahead(int64_t n_heads) {
    static const int asked = [] {
        const char * value = getenv("GGML_CUDA_FA_PROMPT_HEADS");
        return value ? atoi(value) : -1;
    }();
    return asked < 0 ? (n_heads + 7)/8 : asked < n_heads ? asked : 0;
}

bool ggml_cuda_fattn_prompt_supported(int device, const ggml_tensor * dst) {
    const ggml_tensor * Q = dst->src[0], * K = dst->src[1], * V = dst->src[2], * mask = dst->src[3];
    const int cc = ggml_cuda_info().devices[device].cc;
    if (!GGML_CUDA_CC_IS_NVIDIA(cc) || !turing_mma_available(cc)) {
        return false;
    }
    const auto is_known = [](const ggml_tensor * t) { return t->type == GGML_TYPE_F16 || ggml_is_quantized(t->type); };
    const bool is_one = V->view_src && (V->view_src == K || (V->view_src == K->view_src && V->view_offs == K->view_offs));
    if (!is_known(K) || !is_known(V) || (K->type == GGML_TYPE_F16 && V->type == GGML_TYPE_F16) || is_one) {
        return false;
    }
    // Heads of 256, or one query head for each of K's, leave no registers for a conversion beside the products.
    if (K->ne[0] != V->ne[0] || (K->ne[0] != 64 && K->ne[0] != 128) || Q->ne[2] == K->ne[2]) {
        return false;
    }
    float max_bias; // its slopes go by the number of a head
    memcpy(&max_bias, (const float *) dst->op_params + 1, sizeof(float));
    return Q->ne[1] >= MIN_QUERIES && K->ne[1] >= MIN_POSITIONS && K->ne[2] > 1 && heads_ahead(K->ne[2]) > 0 &&
        Q->ne[3] == 1 && K->ne[3] == 1 && V->ne[3] == 1 && max_bias == 0.0f && (!mask || mask->ne[2] == 1);
}

// ---- the op on some of its heads ------------------------------------------------------------------------------------------

static void take_heads(ggml_tensor & t, int dim, int64_t first, int64_t count) {
    t.data     = (char *) t.data + first*t.nb[dim];
    t.ne[dim]  = count;
    t.view_src = nullptr;
}

// K or V as it is, or in half precision at `halves`, which has all heads, one after the other
static void take_cache(ggml_tensor & t, half * halves, head_range heads) {
    if (t.type != GGML_TYPE_F16) {
        t.type  = GGML_TYPE_F16;
        t.data  = halves;
        t.nb[0] = sizeof(half);
        for (int d = 1; d < GGML_MAX_DIMS; ++d) { t.nb[d] = t.nb[d - 1]*t.ne[d - 1]; }
    }
    take_heads(t, 2, heads.first, heads.count);
}

static void convert(const ggml_tensor * t, half * halves, head_range heads, cudaStream_t stream) {
    if (t->type == GGML_TYPE_F16) {
        return;
    }
    const int64_t size = ggml_type_size(t->type);
    ggml_cuda_cache_to_fp16_nc(t)((const char *) t->data + heads.first*t->nb[2], halves + heads.first*t->ne[0]*t->ne[1],
        t->ne[0], t->ne[1], heads.count, 1, t->nb[1]/size, t->nb[2]/size, t->nb[3]/size, stream);
}

// out: [queries][query heads of these][head size]
static void attend(ggml_backend_cuda_context & ctx, const ggml_tensor * dst, half * k16, half * v16, head_range heads, float * out) {
    const int64_t gqa = dst->src[0]->ne[2]/dst->src[1]->ne[2];
    ggml_tensor q = *dst->src[0], k = *dst->src[1], v = *dst->src[2], part = *dst;
    take_heads(q, 2, heads.first*gqa, heads.count*gqa);
    take_cache(k, k16, heads);
    take_cache(v, v16, heads);
    part.src[0] = &q;
    part.src[1] = &k;
    part.src[2] = &v;
    ggml_tensor sinks;
    if (dst->src[4]) {
        sinks = *dst->src[4];
        take_heads(sinks, 0, heads.first*gqa, heads.count*gqa);
        part.src[4] = &sinks;
    }
    part.data  = out;
    part.ne[1] = heads.count*gqa;
    for (int d = 2; d < GGML_MAX_DIMS; ++d) { part.nb[d] = part.nb[d - 1]*part.ne[d - 1]; }
    ggml_cuda_flash_attn_ext_mma_f16(ctx, &part);
}

// ---- its output to its place ----------------------------------------------------------------------------------------------

// 64 values of 16 neighbouring threads, 4 in each, times a normalized Hadamard matrix
static __device__ __forceinline__ float4 rotate(float4 x) {
    const float2 sum = make_float2(x.x + x.y, x.z + x.w), difference = make_float2(x.x - x.y, x.z - x.w);
    float y[4] = { sum.x + sum.y, difference.x + difference.y, sum.x - sum.y, difference.x - difference.y };
#pragma unroll
    for (int lane = 1; lane < ROTATION/4; lane *= 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float other = __shfl_xor_sync(0xffffffff, y[i], lane);
            y[i] = threadIdx.x & lane ? other - y[i] : y[i] + other;
        }
    }
    return make_float4(0.125f*y[0], 0.125f*y[1], 0.125f*y[2], 0.125f*y[3]);
}

// Of each query, `run` of x's go to the `stride` of y, from `offset` on.
template <bool rotated>
static __global__ void __launch_bounds__(PLACE_THREADS) k_fattn_prompt_place(const float4 * __restrict__ x, float4 * __restrict__ y,
        const int n, const int run, const int stride, const int offset) {
    const int i = blockIdx.x*PLACE_THREADS + threadIdx.x;
    float4 value = x[i < n ? i : n - 1]; // all of a warp rotate
    if (rotated) { value = rotate(value); }
    if (i < n) { y[(int64_t) (i/run)*stride + offset + i%run] = value; }
}

static void place(const ggml_tensor * dst, ggml_tensor * rotated, const float * out, head_range heads, cudaStream_t stream) {
    const int64_t gqa = dst->src[0]->ne[2]/dst->src[1]->ne[2], size = dst->ne[0]/4;
    const int run = heads.count*gqa*size, stride = dst->ne[1]*size, offset = heads.first*gqa*size;
    const int n   = run*dst->ne[2];
    const auto kernel = rotated ? k_fattn_prompt_place<true> : k_fattn_prompt_place<false>;
    kernel<<<(n + PLACE_THREADS - 1)/PLACE_THREADS, PLACE_THREADS, 0, stream>>>((const float4 *) out, (float4 *) (rotated ? rotated : dst)->data, n, run, stride, offset);
    CUDA_CHECK(cudaGetLastError());
}

// ---- both parts -----------------------------------------------------------------------------------------------------------

// what comes on stream `after` waits for what is on `before`
static void follow(cudaStream_t after, cudaStream_t before) {
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventRecord(event, before));
    CUDA_CHECK(cudaStreamWaitEvent(after, event, 0));
    CUDA_CHECK(cudaEventDestroy(event)); // once it has happened
}

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context & ctx, ggml_tensor * dst, ggml_tensor * rotated) {
    const ggml_tensor * K = dst->src[1], * V = dst->src[2];
    const head_range ahead = { 0, heads_ahead(K->ne[2]) }, rest = { ahead.count, K->ne[2] - ahead.count };
    const cudaStream_t stream = ctx.stream(), beside = ctx.stream(ctx.device, GGML_CUDA_MAX_STREAMS - 1);
    const auto extra = ggml_cuda_flash_attn_ext_get_f16_extra_data(dst, true, true);
    half * k16 = (half *) extra.K, * v16 = (half *) extra.V;
    ggml_cuda_pool_alloc<float> out(ctx.pool(), ggml_nelements(dst));
    float * out_rest = out.ptr + ggml_nelements(dst)/K->ne[2]*ahead.count;

    convert(K, k16, ahead, stream);
    convert(V, v16, ahead, stream);
    follow(beside, stream);
    attend(ctx, dst, k16, v16, ahead, out.ptr);
    convert(K, k16, rest, beside); // after the products: blocks of what comes first are placed first
    convert(V, v16, rest, beside);
    follow(stream, beside);
    follow(beside, stream);
    place(dst, rotated, out.ptr, ahead, beside);
    attend(ctx, dst, k16, v16, rest, out_rest);
    place(dst, rotated, out_rest, rest, stream);
    follow(stream, beside);
}

#else

bool ggml_cuda_fattn_prompt_supported(int, const ggml_tensor *) { return false; }

void ggml_cuda_fattn_prompt(ggml_backend_cuda_context &, ggml_tensor *, ggml_tensor *) { GGML_ABORT("fattn-prompt: not part of this build"); }

#endif
