#include "attention-rows.cuh"

#include "attention-encode.cuh"
#include "attention-source.cuh"
#include "fattn-decode-query.cuh"
#include "turbo-quants.cuh"

constexpr int LANES = ENCODE_LANES, RUN = ENCODE_RUN, MAX_TEAMS = TURBO_TEAMS;

// ---- where the values are ------------------------------------------------------------------------------------------------

// strides of src and of the row indices in elements, of dst in bytes
struct set_rows_params {
    const float * src;      // or
    attention_source chain; // if it is not null: the same rows, without gaps and not done yet
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

struct query_params {
    attention_source chain;
    char * dst;
    int    n_rows, n_rot;
    float  unit; // 0: stored as they are
};

struct prepare_params {
    set_rows_params op[2]; // blockIdx.y
    int n_ops;
    query_params queries;  // the last blockIdx.y
};

static set_rows_params make_params(const float * src, int n_rot, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0], * src1 = dst->src[1];
    GGML_ASSERT(src0->type == GGML_TYPE_F32 && src0->nb[0] == sizeof(float) && src0->ne[0] % RUN == 0 && ggml_nelements(src0)/RUN <= INT_MAX - MAX_TEAMS);
    const size_t idx = ggml_type_size(src1->type);
    set_rows_params p = {}; // without a chain the kernel still looks at what the chain would have
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
    int64_t  src, idx, dst; // elements, elements, bytes
    uint32_t index;         // over all rows
    int      run;           // in its row
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
    r.index = i;
    r.run   = i_run.y;
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

// ---- the kernel ----------------------------------------------------------------------------------------------------------

template <int WARPS, typename E>
static __device__ __forceinline__ void set_rows_of_type(const set_rows_params & p, E & encode, float (* scratch)[RUN]) {
    encode.prepare(threadIdx.x, blockDim.x); // needs no input
    const run_place r = locate<WARPS>(p);
    const bool first = threadIdx.x % (WARPS*LANES) < LANES;
    const int  lane  = threadIdx.x % LANES;
    attention_values<2> values;
    uint32_t head = 0;
    if (first && p.chain.x) {
        const int runs = p.chain.head_size/RUN;
        head = r.index/runs;
        values.at[0] = (r.index - head*runs)*RUN + lane;
        values.at[1] = values.at[0] + LANES;
        values.prepare(p.chain, head);
    }
    ggml_cuda_pdl_lc(); // an attention that comes next begins with what is in the cache
    ggml_cuda_pdl_sync();
    const int64_t row = p.idx_64 ? ((const int64_t *) p.idx)[r.idx] : ((const int32_t *) p.idx)[r.idx];
    float x[2] = { 0.0f, 0.0f };
    if (first && p.chain.x) {
        values.load(p.chain, head, lane, x);
    } else if (first) {
        x[0] = p.src[r.src];
        x[1] = p.src[r.src + LANES];
    }
    if (p.n_rot > 1) { rotate<WARPS>(x, p.n_rot, scratch, first); }
    encode.template store<WARPS, turbo_all_threads>(x, (typename E::block *) (p.dst + row*p.nb1 + r.dst) + r.run*(RUN/E::BLOCK), scratch[threadIdx.x/(WARPS*LANES)]);
}

template <int D>
static __device__ __forceinline__ void prepare_query(const query_params & q, int row, bool first) {
    const int lane = threadIdx.x % 32;
    attention_values<D/32> values;
#pragma unroll
    for (int i = 0; i < D/32; ++i) { values.at[i] = row_index<D>(lane, i); }
    values.prepare(q.chain, row);
    if (first) {
        ggml_cuda_pdl_lc();
        ggml_cuda_pdl_sync();
    }
    float x[D/32];
    values.load(q.chain, row, lane, x);
    if (q.n_rot > 1) { hadamard<D>(x, lane, q.n_rot); }
    if (q.unit != 0.0f) {
        pack_query_int8<D>(q.dst + (int64_t) row*packed_query_bytes(D), x, peak_of_row<D>(x), q.unit, lane);
    } else {
        store_row<D>((float *) q.dst + (int64_t) row*D, x, lane);
    }
}

static __device__ __forceinline__ void prepare_queries(const query_params & q) {
    const int warp = threadIdx.x/32, n_warps = blockDim.x/32, start = blockIdx.x*n_warps + warp;
    for (int row = start; row < q.n_rows; row += gridDim.x*n_warps) {
        switch (q.chain.head_size) {
            case  64: prepare_query< 64>(q, row, row == start); break;
            case 128: prepare_query<128>(q, row, row == start); break;
            default:  prepare_query<256>(q, row, row == start); break;
        }
    }
}

// a prompt wants many warps to hide latency, a token has few
template <int WARPS>
static __global__ void __launch_bounds__(MAX_TEAMS*WARPS*LANES, WARPS == 1 ? 6 : 1) k_set_rows(const prepare_params params) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    if ((int) blockIdx.y == params.n_ops) {
        prepare_queries(params.queries);
        return;
    }
#endif
    __shared__ union shared {
        encode_turbo<block_turbo3> turbo3;
        encode_turbo<block_turbo4> turbo4;
        __device__ shared() {}
    } s;
    __shared__ float scratch[MAX_TEAMS][RUN];
    const set_rows_params & p = params.op[blockIdx.y];
    if ((int) (blockIdx.x*(blockDim.x/(WARPS*LANES))) >= p.n_runs) {
        return;
    }
    encode_block_32<block_q8_0, quantize_f32_q8_0_block> q8_0;
    encode_block_32<block_q5_0, quantize_f32_q5_0_block> q5_0;
    encode_block_32<block_q4_0, quantize_f32_q4_0_block> q4_0;
    encode_half f16;
    switch (p.type) {
        case GGML_TYPE_TURBO3: set_rows_of_type<WARPS>(p, s.turbo3, scratch); break;
        case GGML_TYPE_TURBO4: set_rows_of_type<WARPS>(p, s.turbo4, scratch); break;
        case GGML_TYPE_Q8_0:   set_rows_of_type<WARPS>(p, q8_0,     scratch); break;
        case GGML_TYPE_Q5_0:   set_rows_of_type<WARPS>(p, q5_0,     scratch); break;
        case GGML_TYPE_Q4_0:   set_rows_of_type<WARPS>(p, q4_0,     scratch); break;
        default:               set_rows_of_type<WARPS>(p, f16,      scratch); break;
    }
}

// ---- host ----------------------------------------------------------------------------------------------------------------

static void launch(ggml_backend_cuda_context & ctx, const prepare_params & params) {
    int n_runs = 0, teams = 1;
    for (int i = 0; i < params.n_ops; ++i) {
        n_runs = std::max(n_runs, params.op[i].n_runs);
        teams  = std::max(teams,  params.op[i].n_rot/RUN);
    }
    if (n_runs == 0) {
        return;
    }
    const bool many = n_runs >= 1024;
    teams = many ? MAX_TEAMS : teams; // fewer copies of the tables
    const ggml_cuda_kernel_launch_params config(dim3((n_runs + teams - 1)/teams, params.n_ops + (params.queries.n_rows > 0)), dim3(teams*(many ? 1 : TURBO_MAX_TEAM)*LANES), (size_t) 0, ctx.stream());
    ggml_cuda_kernel_launch(many ? k_set_rows<1> : k_set_rows<TURBO_MAX_TEAM>, config, params);
}

bool ggml_cuda_attention_is_input(const ggml_tensor * t) {
    const bool is_view = t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
    return (t->op == GGML_OP_NONE || is_view) && (t->view_src ? t->view_src : t)->op == GGML_OP_NONE; // not computed in place either
}

bool ggml_cuda_attention_rotation_supported(int n_rot) { return n_rot == 64 || n_rot == 128 || n_rot == 256; }

bool ggml_cuda_attention_norm_supported(const ggml_tensor * norm, const ggml_tensor * mul) {
    const ggml_tensor * weight = mul->src[mul->src[0] == norm ? 1 : 0];
    return norm->op == GGML_OP_RMS_NORM && mul->op == GGML_OP_MUL && ggml_are_same_shape(norm, mul) && norm->src[0]->type == GGML_TYPE_F32 && weight->type == GGML_TYPE_F32 &&
        ggml_is_contiguous(norm->src[0]) && ggml_nelements(weight) == norm->ne[0] && ggml_is_contiguous(weight) && ggml_cuda_attention_is_input(weight);
}

bool ggml_cuda_attention_rope_supported(const ggml_tensor * rope) {
    const int32_t * params = rope->op_params;
    const int n_dims = params[1], mode = params[2], offset = params[15];
    return rope->op == GGML_OP_ROPE && rope->type == GGML_TYPE_F32 && rope->src[0]->type == GGML_TYPE_F32 && ggml_is_contiguous(rope->src[0]) &&
        (mode == GGML_ROPE_TYPE_NORMAL || mode == GGML_ROPE_TYPE_NEOX) && offset == 0 && n_dims % 2 == 0 && rope->ne[0] % RUN == 0 && rope->ne[3] == 1 &&
        ggml_cuda_attention_is_input(rope->src[1]) && (!rope->src[2] || ggml_cuda_attention_is_input(rope->src[2]));
}

// a vector for each head, from all tokens
bool ggml_cuda_attention_center_supported(const ggml_tensor * sub) {
    const ggml_tensor * x = sub->src[0], * center = sub->src[1];
    return sub->op == GGML_OP_SUB && sub->type == GGML_TYPE_F32 && x->type == GGML_TYPE_F32 && ggml_is_contiguous(x) && x->ne[0] % RUN == 0 && x->ne[3] == 1 &&
        center->type == GGML_TYPE_F32 && ggml_is_contiguous(center) && ggml_cuda_attention_is_input(center) &&
        center->ne[0] == x->ne[0] && center->ne[1] == x->ne[1] && center->ne[2] == 1 && center->ne[3] == 1;
}

attention_source ggml_cuda_attention_make_source(const ggml_cuda_attention_chain & chain, int head_size) {
    attention_source s = {};
    s.x         = (const float *) chain.x->data;
    s.head_size = head_size;
    s.heads     = init_fastdiv_values(1);
    if (chain.norm) {
        s.weight = (const float *) chain.mul->src[chain.mul->src[0] == chain.norm ? 1 : 0]->data;
        memcpy(&s.eps, chain.norm->op_params, sizeof(float));
    }
    if (chain.rope) {
        const int32_t * params = chain.rope->op_params;
        float value[6]; // freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow
        memcpy(value, params + 5, sizeof(value));
        float corr[2];
        ggml_rope_yarn_corr_dims(params[1], params[4], value[0], value[4], value[5], corr);
        s.pos          = (const int32_t *) chain.rope->src[1]->data;
        s.freq_factors = chain.rope->src[2] ? (const float *) chain.rope->src[2]->data : nullptr;
        s.n_dims       = params[1];
        s.neox         = params[2] == GGML_ROPE_TYPE_NEOX;
        s.theta_scale  = powf(value[0], -2.0f/s.n_dims);
        s.freq_scale   = value[1];
        s.ext_factor   = value[2];
        s.magnitude    = value[3]*(value[2] != 0.0f ? 1.0f + 0.1f*logf(1.0f/value[1]) : 1.0f);
        s.corr_low     = corr[0];
        s.corr_high    = corr[1];
        s.heads        = init_fastdiv_values(chain.rope->ne[1]);
    }
    if (chain.sub) {
        s.center = (const float *) chain.sub->src[1]->data;
        s.heads  = init_fastdiv_values(chain.sub->ne[1]);
    }
    return s;
}

static int head_size_of(const ggml_cuda_attention_chain & chain) {
    const ggml_tensor * last = chain.sub ? chain.sub : chain.rope ? chain.rope : chain.norm;
    return last ? last->ne[0] : RUN;
}

int ggml_cuda_attention_rotation_size(const ggml_cuda_attention_chain & chain) {
    return chain.rotation ? chain.rotation->src[0]->ne[0] : 1;
}

bool ggml_cuda_attention_rows_supported(const ggml_cuda_attention_rows & rows) {
    const ggml_tensor * src0 = rows.set_rows->src[0];
    const int n_rot = ggml_cuda_attention_rotation_size(rows.chain), unit = std::max({ RUN, n_rot, head_size_of(rows.chain) });
    switch (rows.set_rows->type) {
        case GGML_TYPE_TURBO3: case GGML_TYPE_TURBO4: case GGML_TYPE_Q8_0: case GGML_TYPE_Q5_0: case GGML_TYPE_Q4_0: case GGML_TYPE_F16: break;
        default: return false;
    }
    return src0->type == GGML_TYPE_F32 && ggml_is_contiguous(src0) && ggml_is_contiguous(rows.chain.x) && src0->ne[0] % unit == 0 &&
        rows.set_rows->nb[0] == ggml_type_size(rows.set_rows->type);
}

void ggml_cuda_attention_prepare(ggml_backend_cuda_context & ctx, const ggml_cuda_attention_rows * rows, int n_rows, const ggml_cuda_attention_queries & queries) {
    prepare_params params = {};
    params.n_ops = n_rows;
    for (int i = 0; i < n_rows; ++i) {
        params.op[i] = make_params(nullptr, ggml_cuda_attention_rotation_size(rows[i].chain), rows[i].set_rows);
        params.op[i].chain = ggml_cuda_attention_make_source(rows[i].chain, head_size_of(rows[i].chain));
    }
    if (queries.chain.x) {
        params.queries.chain  = ggml_cuda_attention_make_source(queries.chain, queries.head_size);
        params.queries.dst    = queries.dst;
        params.queries.n_rows = (int) (ggml_nelements(queries.chain.x)/queries.head_size);
        params.queries.n_rot  = ggml_cuda_attention_rotation_size(queries.chain);
        params.queries.unit   = queries.unit;
    }
    launch(ctx, params);
}

void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows) {
    prepare_params params = {};
    params.n_ops = 1;
    params.op[0] = make_params((const float *) set_rows->src[0]->data, 1, set_rows);
    launch(ctx, params);
}
