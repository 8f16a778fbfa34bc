#include "rotate-set-rows.cuh"

#include "cpy-utils.cuh"
#include "fattn-decode-query.cuh"
#include "turbo-quants.cuh"
#include "turbo-quants-encode.cuh"

// A team of WARPS warps, 1 or 4, stores 64 neighbouring values of a row, which its first warp has: lane and 32 + lane in each
// thread. The row of one token is so few of them that more warps for each cost nothing and save time.
constexpr int LANES = TURBO_LANES, RUN = QK_TURBO, MAX_TEAMS = TURBO_TEAMS;

// ---- where the values are ------------------------------------------------------------------------------------------------

// strides of src and of the row indices in elements, of dst in bytes
struct set_rows_params {
    const float * src;
    const void  * idx;
    char        * dst;
    ggml_type type;
    bool     idx_64; // row indices are int64
    int      n_rot;  // 1: not rotated
    int      n_runs;
    int64_t  s01, s02, s03;
    int64_t  s10, s11, s12;
    int64_t  nb1, nb2, nb3;
    uint3    runs, ne01, ne02, ne11, ne12; // for fast division; runs: of a row
};

struct set_rows_ops {
    set_rows_params op[2]; // blockIdx.y
    int n_ops;
    ggml_cuda_packed_queries queries; // the last blockIdx.y
};

static set_rows_params make_params(const float * src, int n_rot, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0], * src1 = dst->src[1];
    GGML_ASSERT(src0->type == GGML_TYPE_F32 && src0->nb[0] == sizeof(float) && src0->ne[0] % RUN == 0 && ggml_nelements(src0)/RUN <= INT_MAX - MAX_TEAMS);
    const size_t idx = ggml_type_size(src1->type);
    set_rows_params p;
    p.src    = src;
    p.idx    = src1->data;
    p.dst    = (char *) dst->data;
    p.type   = dst->type;
    p.idx_64 = src1->type == GGML_TYPE_I64;
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

// All teams of a CTA have a run, for all must reach its barriers. Where there are too few, some runs are stored twice; the
// runs of a Hadamard block stay together.
template <int WARPS>
static __device__ __forceinline__ run_place locate(const set_rows_params & p) {
    const int team = threadIdx.x/(WARPS*LANES), n_teams = blockDim.x/(WARPS*LANES);
    const uint32_t i = p.n_runs >= n_teams ? min((int) blockIdx.x*n_teams, p.n_runs - n_teams) + team : team % p.n_runs;
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

// n_rot/64 neighbouring teams hold a Hadamard block. scratch: between them. All threads come here, the first warps have x.
template <int WARPS>
static __device__ __forceinline__ void rotate(float (&x)[2], int n_rot, float (* scratch)[RUN], bool first) {
    const int team = threadIdx.x/(WARPS*LANES), lane = threadIdx.x % LANES;
    if (first) {
#pragma unroll
        for (int bit = 1; bit < LANES; bit *= 2) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float other = __shfl_xor_sync(0xffffffff, x[i], bit, LANES);
                x[i] = lane & bit ? other - x[i] : x[i] + other;
            }
        }
        const float norm = rsqrtf((float) n_rot);
        const float a = x[0]*norm, b = x[1]*norm;
        x[0] = a + b;
        x[1] = a - b;
    }
    for (int bit = 1; bit < n_rot/RUN; bit *= 2) {
        if (first) {
            scratch[team][lane]         = x[0];
            scratch[team][lane + LANES] = x[1];
        }
        __syncthreads();
        if (first) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float other = scratch[team ^ bit][lane + i*LANES];
                x[i] = team & bit ? other - x[i] : x[i] + other;
            }
        }
        __syncthreads();
    }
}

// ---- encoders ------------------------------------------------------------------------------------------------------------

template <typename block_t> struct encode_turbo {
    typedef block_t block;
    static constexpr int BLOCK = QK_TURBO;
    turbo_encode_shared<block_t> s;
    __device__ __forceinline__ void prepare() { turbo_encode_prepare(s); }
    template <int WARPS> __device__ __forceinline__ void store(const float (&x)[2], block_t * y, float *) { turbo_encode<WARPS>(s, x[0], x[1], y); }
};

// upstream's, which a thread does for a block of 32
template <typename block_t, void (* quantize)(const float *, block_t *)> struct encode_block_32 {
    typedef block_t block;
    static constexpr int BLOCK = 32;
    __device__ __forceinline__ void prepare() {}
    template <int WARPS> __device__ __forceinline__ void store(const float (&x)[2], block_t * y, float * values) {
        const int lane = threadIdx.x % LANES;
        if (threadIdx.x % (WARPS*LANES) < LANES) {
            values[lane]         = x[0];
            values[lane + LANES] = x[1];
            ggml_cuda_syncwarp();
            if (lane < RUN/BLOCK) { quantize(values + lane*BLOCK, y + lane); }
        }
    }
};

template <int WARPS, typename E>
static __device__ __forceinline__ void set_rows_of_type(const set_rows_params & p, E & encode, float (* scratch)[RUN]) {
    encode.prepare(); // needs no input
    const run_place r = locate<WARPS>(p);
    const bool first = threadIdx.x % (WARPS*LANES) < LANES;
    ggml_cuda_pdl_sync();
    const int64_t row = p.idx_64 ? ((const int64_t *) p.idx)[r.idx] : ((const int32_t *) p.idx)[r.idx];
    float x[2] = { 0.0f, 0.0f };
    if (first) {
        x[0] = p.src[r.src];
        x[1] = p.src[r.src + LANES];
    }
    ggml_cuda_pdl_lc();
    if (p.n_rot > 1) { rotate<WARPS>(x, p.n_rot, scratch, first); }
    encode.template store<WARPS>(x, (typename E::block *) (p.dst + row*p.nb1 + r.dst) + r.run*(RUN/E::BLOCK), scratch[threadIdx.x/(WARPS*LANES)]);
}

template <int D>
static __device__ __forceinline__ void pack_query(const ggml_cuda_packed_queries & q, int row) {
    const int lane = threadIdx.x % 32;
    float x[D/32];
    load_row<D>(x, q.src + (int64_t) row*D, lane);
    hadamard<D>(x, lane, q.n_rot);
    pack_query_int8<D>(q.dst + (int64_t) row*packed_query_bytes(D), x, peak_of_row<D>(x), q.unit, lane);
}

static __device__ __forceinline__ void pack_queries(const ggml_cuda_packed_queries & q) {
    ggml_cuda_pdl_sync();
    ggml_cuda_pdl_lc();
    const int warp = threadIdx.x/32, n_warps = blockDim.x/32;
    for (int row = blockIdx.x*n_warps + warp; row < q.n_rows; row += gridDim.x*n_warps) {
        switch (q.head_size) {
            case  64: pack_query< 64>(q, row); break;
            case 128: pack_query<128>(q, row); break;
            default:  pack_query<256>(q, row); break;
        }
    }
}

template <int WARPS>
static __global__ void __launch_bounds__(MAX_TEAMS*WARPS*LANES) k_set_rows(const set_rows_ops ops) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    if ((int) blockIdx.y == ops.n_ops) {
        pack_queries(ops.queries);
        return;
    }
#endif
    __shared__ union shared {
        encode_turbo<block_turbo3> turbo3;
        encode_turbo<block_turbo4> turbo4;
        __device__ shared() {}
    } s;
    __shared__ float scratch[MAX_TEAMS][RUN];
    const set_rows_params & p = ops.op[blockIdx.y];
    if ((int) (blockIdx.x*(blockDim.x/(WARPS*LANES))) >= p.n_runs) {
        return;
    }
    encode_block_32<block_q8_0, quantize_f32_q8_0_block> q8_0;
    encode_block_32<block_q5_0, quantize_f32_q5_0_block> q5_0;
    encode_block_32<block_q4_0, quantize_f32_q4_0_block> q4_0;
    switch (p.type) {
        case GGML_TYPE_TURBO3: set_rows_of_type<WARPS>(p, s.turbo3, scratch); break;
        case GGML_TYPE_TURBO4: set_rows_of_type<WARPS>(p, s.turbo4, scratch); break;
        case GGML_TYPE_Q8_0:   set_rows_of_type<WARPS>(p, q8_0,     scratch); break;
        case GGML_TYPE_Q5_0:   set_rows_of_type<WARPS>(p, q5_0,     scratch); break;
        default:               set_rows_of_type<WARPS>(p, q4_0,     scratch); break;
    }
}

// ---- host ----------------------------------------------------------------------------------------------------------------

static void launch(ggml_backend_cuda_context & ctx, const set_rows_ops & ops) {
    int n_runs = 0, teams = 1;
    for (int i = 0; i < ops.n_ops; ++i) {
        n_runs = std::max(n_runs, ops.op[i].n_runs);
        teams  = std::max(teams,  ops.op[i].n_rot/RUN);
    }
    if (n_runs == 0) {
        return;
    }
    const bool many = n_runs >= 1024;
    teams = many ? MAX_TEAMS : teams; // fewer copies of the tables
    const ggml_cuda_kernel_launch_params params(dim3((n_runs + teams - 1)/teams, ops.n_ops + (ops.queries.src != nullptr)), dim3(teams*(many ? 1 : TURBO_MAX_TEAM)*LANES), (size_t) 0, ctx.stream());
    ggml_cuda_kernel_launch(many ? k_set_rows<1> : k_set_rows<TURBO_MAX_TEAM>, params, ops);
}

bool ggml_cuda_rotate_set_rows_supported(const ggml_tensor * set_rows, int n_rot) {
    const ggml_tensor * src0 = set_rows->src[0];
    const bool type = ggml_cuda_is_turbo(set_rows->type) || set_rows->type == GGML_TYPE_Q8_0 || set_rows->type == GGML_TYPE_Q5_0 || set_rows->type == GGML_TYPE_Q4_0;
    return type && (n_rot == 64 || n_rot == 128 || n_rot == 256) && src0->ne[0] % n_rot == 0 && ggml_is_contiguous(src0);
}

void ggml_cuda_rotate_set_rows(ggml_backend_cuda_context & ctx, const ggml_cuda_rotated_rows * ops, int n_ops, const ggml_cuda_packed_queries & queries) {
    set_rows_ops params;
    params.n_ops   = n_ops;
    params.queries = queries;
    for (int i = 0; i < n_ops; ++i) {
        GGML_ASSERT(ggml_is_contiguous(ops[i].src));
        params.op[i] = make_params((const float *) ops[i].src->data, ops[i].n_rot, ops[i].set_rows);
    }
    launch(ctx, params);
}

void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows) {
    set_rows_ops params;
    params.n_ops = 1;
    params.op[0] = make_params((const float *) set_rows->src[0]->data, 1, set_rows);
    launch(ctx, params);
}
