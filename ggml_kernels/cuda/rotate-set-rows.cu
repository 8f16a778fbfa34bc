#include "rotate-set-rows.cuh"

#include "cpy-utils.cuh"
#include "turbo-quants.cuh"
#include "turbo-quants-encode.cuh"

// A warp stores 64 neighbouring values of a row, lane and 32 + lane in each thread; four of them are a CTA.
constexpr int WARPS = TURBO_ENCODE_WARPS, LANES = TURBO_LANES, RUN = QK_TURBO;

// ---- where the values are ------------------------------------------------------------------------------------------------

// strides of src and of the row indices in elements, of dst in bytes
struct set_rows_params {
    int      n_rot; // 1: not rotated
    int      n_runs;
    int64_t  s01, s02, s03;
    int64_t  s10, s11, s12;
    int64_t  nb1, nb2, nb3;
    uint3    runs, ne01, ne02, ne11, ne12; // for fast division; runs: of a row
};

static set_rows_params make_params(const ggml_tensor * src0, const ggml_tensor * src1, const ggml_tensor * dst, int n_rot) {
    const size_t idx = ggml_type_size(src1->type);
    set_rows_params p;
    p.n_rot  = n_rot;
    p.n_runs = (int) (ggml_nelements(src0)/RUN);
    p.s01 = src0->nb[1]/sizeof(float);
    p.s02 = src0->nb[2]/sizeof(float);
    p.s03 = src0->nb[3]/sizeof(float);
    p.s10 = src1->nb[0]/idx;
    p.s11 = src1->nb[1]/idx;
    p.s12 = src1->nb[2]/idx;
    p.nb1 = dst->nb[1];
    p.nb2 = dst->nb[2];
    p.nb3 = dst->nb[3];
    p.runs = init_fastdiv_values(src0->ne[0]/RUN);
    p.ne01 = init_fastdiv_values(src0->ne[1]);
    p.ne02 = init_fastdiv_values(src0->ne[2]);
    p.ne11 = init_fastdiv_values(src1->ne[1]);
    p.ne12 = init_fastdiv_values(src1->ne[2]);
    return p;
}

struct run_place {
    int64_t src, idx, dst; // elements, elements, bytes
    int     run;           // in its row
};

// All warps of a CTA have a run, for all must reach its barriers. Where there are too few, some runs are stored twice; the
// runs of a Hadamard block stay together.
static __device__ __forceinline__ run_place locate(const set_rows_params & p) {
    const int warp = threadIdx.x/LANES;
    const uint32_t i = p.n_runs >= WARPS ? min((int) blockIdx.x*WARPS, p.n_runs - WARPS) + warp : warp % p.n_runs;
    const uint2 i_run = fast_div_modulo(i,       p.runs);
    const uint2 i_01  = fast_div_modulo(i_run.x, p.ne01);
    const uint2 i_02  = fast_div_modulo(i_01.x,  p.ne02);
    const int64_t i01 = i_01.y, i02 = i_02.y, i03 = i_02.x;
    run_place r;
    r.run = i_run.y;
    r.src = i01*p.s01 + i02*p.s02 + i03*p.s03 + (int64_t) r.run*RUN + threadIdx.x % LANES;
    r.idx = i01*p.s10 + fastmodulo((uint32_t) i02, p.ne11)*p.s11 + fastmodulo((uint32_t) i03, p.ne12)*p.s12;
    r.dst = i02*p.nb2 + i03*p.nb3;
    return r;
}

// ---- the rotation --------------------------------------------------------------------------------------------------------

// n_rot/64 neighbouring warps hold a Hadamard block. scratch: between them.
static __device__ __forceinline__ void rotate(float (&x)[2], int n_rot, float (* scratch)[RUN]) {
    const int warp = threadIdx.x/LANES, lane = threadIdx.x % LANES;
#pragma unroll
    for (int bit = 1; bit < LANES; bit *= 2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float other = __shfl_xor_sync(0xffffffff, x[i], bit, LANES);
            x[i] = lane & bit ? other - x[i] : x[i] + other;
        }
    }
    const float a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
    for (int bit = 1; bit < n_rot/RUN; bit *= 2) {
        scratch[warp][lane]         = x[0];
        scratch[warp][lane + LANES] = x[1];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float other = scratch[warp ^ bit][lane + i*LANES];
            x[i] = warp & bit ? other - x[i] : x[i] + other;
        }
        __syncthreads();
    }
    const float norm = rsqrtf((float) n_rot);
    x[0] *= norm;
    x[1] *= norm;
}

// ---- encoders ------------------------------------------------------------------------------------------------------------

template <typename block_t> struct encode_turbo {
    typedef block_t block;
    static constexpr int BLOCK = QK_TURBO;
    turbo_encode_shared<block_t> s;
    __device__ __forceinline__ void prepare() { turbo_encode_prepare(s); }
    __device__ __forceinline__ void operator()(const float (&x)[2], block_t * y, float *) { turbo_encode(s, x[0], x[1], y); }
};

// upstream's, which a thread does for a block of 32
template <typename block_t, void (* quantize)(const float *, block_t *)> struct encode_block_32 {
    typedef block_t block;
    static constexpr int BLOCK = 32;
    __device__ __forceinline__ void prepare() {}
    __device__ __forceinline__ void operator()(const float (&x)[2], block_t * y, float * values) {
        const int lane = threadIdx.x % LANES;
        values[lane]         = x[0];
        values[lane + LANES] = x[1];
        ggml_cuda_syncwarp();
        if (lane < RUN/BLOCK) { quantize(values + lane*BLOCK, y + lane); }
    }
};

template <typename E, typename idx_t>
static __global__ void __launch_bounds__(WARPS*LANES) k_set_rows(const float * src, const idx_t * idx, char * dst, const set_rows_params p) {
    __shared__ E encode;
    __shared__ float scratch[WARPS][RUN];
    encode.prepare();
    const run_place r = locate(p);
    ggml_cuda_pdl_sync();
    const int64_t row = idx[r.idx];
    float x[2] = { src[r.src], src[r.src + LANES] };
    ggml_cuda_pdl_lc();
    if (p.n_rot > 1) { rotate(x, p.n_rot, scratch); }
    encode(x, (typename E::block *) (dst + row*p.nb1 + r.dst) + r.run*(RUN/E::BLOCK), scratch[threadIdx.x/LANES]);
}

// ---- host ----------------------------------------------------------------------------------------------------------------

template <typename E>
static void launch(ggml_backend_cuda_context & ctx, const float * src, const ggml_tensor * idx, ggml_tensor * dst, const set_rows_params & p) {
    if (p.n_runs == 0) {
        return;
    }
    const ggml_cuda_kernel_launch_params params(dim3((p.n_runs + WARPS - 1)/WARPS), dim3(WARPS*LANES), (size_t) 0, ctx.stream());
    if (idx->type == GGML_TYPE_I64) {
        ggml_cuda_kernel_launch(k_set_rows<E, int64_t>, params, src, (const int64_t *) idx->data, (char *) dst->data, p);
    } else {
        ggml_cuda_kernel_launch(k_set_rows<E, int32_t>, params, src, (const int32_t *) idx->data, (char *) dst->data, p);
    }
}

static void store(ggml_backend_cuda_context & ctx, const float * src, int n_rot, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0], * idx = dst->src[1];
    GGML_ASSERT(src0->type == GGML_TYPE_F32 && src0->nb[0] == sizeof(float) && src0->ne[0] % RUN == 0 && ggml_nelements(src0)/RUN <= INT_MAX - WARPS);
    const set_rows_params p = make_params(src0, idx, dst, n_rot);
    switch (dst->type) {
        case GGML_TYPE_TURBO3: launch<encode_turbo<block_turbo3>>(ctx, src, idx, dst, p); break;
        case GGML_TYPE_TURBO4: launch<encode_turbo<block_turbo4>>(ctx, src, idx, dst, p); break;
        case GGML_TYPE_Q8_0:   launch<encode_block_32<block_q8_0, quantize_f32_q8_0_block>>(ctx, src, idx, dst, p); break;
        case GGML_TYPE_Q5_0:   launch<encode_block_32<block_q5_0, quantize_f32_q5_0_block>>(ctx, src, idx, dst, p); break;
        case GGML_TYPE_Q4_0:   launch<encode_block_32<block_q4_0, quantize_f32_q4_0_block>>(ctx, src, idx, dst, p); break;
        default: GGML_ABORT("rotate-set-rows: no encoder for %s", ggml_type_name(dst->type));
    }
}

bool ggml_cuda_rotate_set_rows_supported(const ggml_tensor * set_rows, int n_rot) {
    const ggml_tensor * src0 = set_rows->src[0];
    const bool type = ggml_cuda_is_turbo(set_rows->type) || set_rows->type == GGML_TYPE_Q8_0 || set_rows->type == GGML_TYPE_Q5_0 || set_rows->type == GGML_TYPE_Q4_0;
    return type && (n_rot == 64 || n_rot == 128 || n_rot == 256) && src0->ne[0] % n_rot == 0 && ggml_is_contiguous(src0);
}

void ggml_cuda_rotate_set_rows(ggml_backend_cuda_context & ctx, const ggml_tensor * src, int n_rot, ggml_tensor * set_rows) {
    GGML_ASSERT(ggml_is_contiguous(src));
    store(ctx, (const float *) src->data, n_rot, set_rows);
}

void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    store(ctx, (const float *) dst->src[0]->data, 1, dst);
}
