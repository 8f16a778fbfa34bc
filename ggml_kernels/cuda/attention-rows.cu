#include "attention-rows.cuh"

#include "attention-encode.cuh"
#include "attention-source.cuh"
#include "fattn-decode-query.cuh"
#include "turbo-quants.cuh"

constexpr int WARP = TURBO_LANES, MIN_ROW = QK_TURBO;

constexpr int PER_BLOCK      = 4; // warps that share a block of 64 values, where the row of a token is all there is
constexpr int PROMPT_WARPS   = 4; // of a CTA, a row each
constexpr int PROMPT_VALUES  = 65536; // from so many on
constexpr int PROMPT_QUERIES = 4; // of a token, that a warp does one after another: they share angles and weights

// ---- where the values are ------------------------------------------------------------------------------------------------

// Rows are of D values, parts of a tensor's rows or heads.
struct row_source {
    const float    * src;   // or
    attention_source chain; // if its x is not null: the same rows, without gaps and not done yet
    int     n_rows, n_rot;  // 1: not rotated
    int     per_warp;       // one after another
    int64_t s01, s02, s03;  // of src, in elements
};

struct row_target {
    const void * idx;
    char       * dst;
    ggml_type    type;
    bool         idx_64; // row indices are int64
    int64_t s10, s11, s12; // in elements
    int64_t nb1, nb2, nb3;
    uint3   parts, ne01, ne02, ne11, ne12; // for fast division; parts: of a tensor's row
};

struct query_target {
    char * dst;
    float  unit; // 0: stored as they are
};

struct prepare_params {
    row_source   source[3]; // blockIdx.y; queries come last
    row_target   rows[2];
    query_target queries;
    int n_ops;              // without the queries
};

struct row_place {
    int64_t  src, idx, dst; // elements, elements, bytes
    uint32_t part;          // of a tensor's row
};

static __device__ __forceinline__ row_place locate(const row_source & s, const row_target & t, uint32_t row, int d) {
    const uint2 i_part = fast_div_modulo(row,      t.parts);
    const uint2 i_01   = fast_div_modulo(i_part.x, t.ne01);
    const uint2 i_02   = fast_div_modulo(i_01.x,   t.ne02);
    const int64_t i01 = i_01.y, i02 = i_02.y, i03 = i_02.x;
    row_place r;
    r.part = i_part.y;
    r.src  = i01*s.s01 + i02*s.s02 + i03*s.s03 + (int64_t) r.part*d;
    r.idx  = i01*t.s10 + fastmodulo((uint32_t) i02, t.ne11)*t.s11 + fastmodulo((uint32_t) i03, t.ne12)*t.s12;
    r.dst  = i02*t.nb2 + i03*t.nb3;
    return r;
}

// ---- the kernel ----------------------------------------------------------------------------------------------------------

static constexpr __host__ __device__ int rows_warps(int team) { return team == 1 ? PROMPT_WARPS : team; } // of a CTA

template <int D, int TEAM> struct rows_shared {
    static constexpr int WARPS = rows_warps(TEAM);
    union encoders {
        encode_turbo<block_turbo3, WARPS> turbo3;
        encode_turbo<block_turbo4, WARPS> turbo4;
        float values[WARPS/TEAM][D];
        __device__ encoders() {}
    } of;
};

template <int D, int TEAM>
static __device__ __forceinline__ void store_rows(rows_shared<D, TEAM> & shared, const row_target & t, const float (&x)[D/WARP], int64_t row, const row_place & place) {
    typedef turbo_all_threads barrier;
    char  * y      = t.dst + row*t.nb1 + place.dst;
    float * values = shared.of.values[threadIdx.x/(TEAM*WARP)];
    encode_block_32<block_q8_0, quantize_f32_q8_0_block> q8_0;
    encode_block_32<block_q5_0, quantize_f32_q5_0_block> q5_0;
    encode_block_32<block_q4_0, quantize_f32_q4_0_block> q4_0;
    encode_half f16;
    const auto store = [&](auto & encode) {
        typedef std::remove_reference_t<decltype(encode)> E;
        encode.template store<D, TEAM, barrier>(x, (typename E::block *) y + place.part*(D/E::BLOCK), values);
    };
    switch (t.type) {
        case GGML_TYPE_TURBO3: store(shared.of.turbo3); break;
        case GGML_TYPE_TURBO4: store(shared.of.turbo4); break;
        case GGML_TYPE_Q8_0:   store(q8_0);             break;
        case GGML_TYPE_Q5_0:   store(q5_0);             break;
        case GGML_TYPE_Q4_0:   store(q4_0);             break;
        default:               store(f16);              break;
    }
}

template <int D>
static __device__ __forceinline__ void store_query(const query_target & t, const float (&x)[D/WARP], int row, int lane) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    if (t.unit != 0.0f) {
        pack_query_int8<D>(t.dst + (int64_t) row*packed_query_bytes(D), x, peak_of_row<D>(x), t.unit, lane);
        return;
    }
#endif
    store_row<D>((float *) t.dst + (int64_t) row*D, x, lane);
}

// A team of warps has a row of K or V, all of it in each of them; a warp has a query. TEAM 1: for prompts
template <int D, int TEAM>
static __global__ void __launch_bounds__(rows_warps(TEAM)*WARP, TEAM > 1 ? 1 : D == 256 ? 4 : 6) k_attention_rows(const prepare_params params) {
    __shared__ rows_shared<D, TEAM> shared;
    constexpr int WARPS = rows_warps(TEAM);
    const row_source & s = params.source[blockIdx.y];
    const bool is_query = (int) blockIdx.y == params.n_ops;
    const int  lane = threadIdx.x % WARP, team = threadIdx.x/((is_query ? 1 : TEAM)*WARP), teams = is_query ? WARPS : WARPS/TEAM;
    if ((int) blockIdx.x*teams*s.per_warp >= s.n_rows) {
        return;
    }
    // all teams of a CTA have a row, for all must reach its barriers: some are stored twice
    const int first = min(((int) blockIdx.x*teams + team)*s.per_warp, s.n_rows - s.per_warp);
    const row_target & target = params.rows[is_query ? 0 : blockIdx.y];
    row_place place = {};
    if (!is_query) {
        place = locate(s, target, first, D);
        if (target.type == GGML_TYPE_TURBO3) { shared.of.turbo3.prepare(threadIdx.x, blockDim.x); } // needs no input
        if (target.type == GGML_TYPE_TURBO4) { shared.of.turbo4.prepare(threadIdx.x, blockDim.x); }
    }
    attention_values<D> values;
    uint32_t head = 0;
    if (s.chain.x) {
        const int parts = s.chain.head_size/D;
        head = first/parts;
        values.prepare(s.chain, head, (first - head*parts)*D, lane);
    }
    ggml_cuda_pdl_lc(); // an attention that comes next begins with what is in the cache
    ggml_cuda_pdl_sync();
    int64_t row = 0;
    if (!is_query) { row = target.idx_64 ? ((const int64_t *) target.idx)[place.idx] : ((const int32_t *) target.idx)[place.idx]; }
    const auto load = [&](int r, float (&x)[D/WARP]) {
        if (s.chain.x) {
            values.fetch(s.chain, head + r);
            values.finish(s.chain, r == 0, lane, x);
        } else {
#pragma unroll
            for (int i = 0; i < D/WARP; ++i) { x[i] = s.src[place.src + row_index<D>(lane, i)]; }
        }
        if (s.n_rot > 1) { hadamard<D>(x, lane, s.n_rot); }
    };
    float x[D/WARP];
    load(0, x);
    if (!is_query) {
        store_rows<D, TEAM>(shared, target, x, row, place);
        return;
    }
    store_query<D>(params.queries, x, first, lane);
#pragma unroll 1
    for (int r = 1; TEAM == 1 && r < s.per_warp; ++r) {
        load(r, x);
        store_query<D>(params.queries, x, first + r, lane);
    }
}

// ---- host: what is supported ---------------------------------------------------------------------------------------------

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
        (mode == GGML_ROPE_TYPE_NORMAL || mode == GGML_ROPE_TYPE_NEOX) && offset == 0 && n_dims % 8 == 0 && rope->ne[0] % MIN_ROW == 0 && rope->ne[3] == 1 &&
        ggml_cuda_attention_is_input(rope->src[1]) && (!rope->src[2] || ggml_cuda_attention_is_input(rope->src[2]));
}

// a vector for each head, from all tokens
bool ggml_cuda_attention_center_supported(const ggml_tensor * sub) {
    const ggml_tensor * x = sub->src[0], * center = sub->src[1];
    return sub->op == GGML_OP_SUB && sub->type == GGML_TYPE_F32 && x->type == GGML_TYPE_F32 && ggml_is_contiguous(x) && x->ne[0] % MIN_ROW == 0 && x->ne[3] == 1 &&
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

// of heads that must be told from each other; 0: any values will do
static int head_size_of(const ggml_cuda_attention_chain & chain) {
    const ggml_tensor * last = chain.sub ? chain.sub : chain.rope ? chain.rope : chain.norm;
    return last ? last->ne[0] : 0;
}

int ggml_cuda_attention_rotation_size(const ggml_cuda_attention_chain & chain) {
    return chain.rotation ? chain.rotation->src[0]->ne[0] : 1;
}

// kernels read 16 bytes at once
bool ggml_cuda_attention_chain_is_aligned(const ggml_cuda_attention_chain & chain) {
    const auto is_aligned = [](const ggml_tensor * t) { return !t || (uintptr_t) t->data % 16 == 0; };
    return is_aligned(chain.x) && is_aligned(chain.sub ? chain.sub->src[1] : nullptr) &&
        is_aligned(chain.norm ? chain.mul->src[chain.mul->src[0] == chain.norm ? 1 : 0] : nullptr);
}

bool ggml_cuda_attention_rows_supported(const ggml_cuda_attention_rows & rows) {
    const ggml_tensor * src0 = rows.set_rows->src[0];
    const int n_rot = ggml_cuda_attention_rotation_size(rows.chain), head_size = head_size_of(rows.chain);
    switch (rows.set_rows->type) {
        case GGML_TYPE_TURBO3: case GGML_TYPE_TURBO4: case GGML_TYPE_Q8_0: case GGML_TYPE_Q5_0: case GGML_TYPE_Q4_0: case GGML_TYPE_F16: break;
        default: return false;
    }
    return src0->type == GGML_TYPE_F32 && ggml_is_contiguous(src0) && ggml_is_contiguous(rows.chain.x) && ggml_cuda_attention_chain_is_aligned(rows.chain) &&
        src0->ne[0] % std::max({ MIN_ROW, n_rot, head_size }) == 0 && head_size % std::max(MIN_ROW, n_rot) == 0 &&
        rows.set_rows->nb[0] == ggml_type_size(rows.set_rows->type);
}

// ---- host: launching -----------------------------------------------------------------------------------------------------

// one blockIdx.y of a launch
struct rows_task {
    row_source   source;
    row_target   target;
    query_target queries;
    int64_t n_values, ne00;
    int  head_size; // 0: any values will do
    bool is_query;

    int n_rot()   const { return std::max(MIN_ROW, source.n_rot); }
    // values of a row: all of a head if it can be
    int d()       const { return head_size == 128 || head_size == 256 ? head_size : n_rot(); }
    // whether it can be done with others in rows of d values
    bool fits(int d) const { return is_query ? d == head_size : ne00 % d == 0 && d % n_rot() == 0 && head_size % d == 0; }
};

static rows_task make_task(const ggml_cuda_attention_chain & chain, int64_t n_values) {
    rows_task task = {}; // without a chain the kernel still looks at what the chain would have
    task.n_values         = n_values;
    task.head_size        = head_size_of(chain);
    task.source.n_rot     = ggml_cuda_attention_rotation_size(chain);
    task.source.per_warp  = 1;
    if (chain.x) { task.source.chain = ggml_cuda_attention_make_source(chain, task.head_size); }
    return task;
}

static rows_task make_task(const ggml_cuda_attention_chain & chain, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0], * src1 = dst->src[1];
    GGML_ASSERT(src0->type == GGML_TYPE_F32 && src0->nb[0] == sizeof(float) && src0->ne[0] % MIN_ROW == 0 && ggml_nelements(src0)/MIN_ROW <= INT_MAX);
    rows_task task = make_task(chain, ggml_nelements(src0));
    task.ne00 = src0->ne[0];
    row_source & s = task.source;
    s.src = (const float *) src0->data;
    s.s01 = src0->nb[1]/sizeof(float);
    s.s02 = src0->nb[2]/sizeof(float);
    s.s03 = src0->nb[3]/sizeof(float);
    row_target & t = task.target;
    const size_t idx = ggml_type_size(src1->type);
    t.idx    = src1->data;
    t.dst    = (char *) dst->data;
    t.type   = dst->type;
    t.idx_64 = src1->type == GGML_TYPE_I64;
    t.s10 = src1->nb[0]/idx;
    t.s11 = src1->nb[1]/idx;
    t.s12 = src1->nb[2]/idx;
    t.nb1 = dst->nb[1];
    t.nb2 = dst->nb[2];
    t.nb3 = dst->nb[3];
    t.ne01 = init_fastdiv_values(src0->ne[1]);
    t.ne02 = init_fastdiv_values(src0->ne[2]);
    t.ne11 = init_fastdiv_values(src1->ne[1]);
    t.ne12 = init_fastdiv_values(src1->ne[2]);
    return task;
}

static rows_task make_task(const ggml_cuda_attention_queries & queries, bool many) {
    const ggml_cuda_attention_chain & chain = queries.chain;
    rows_task task = make_task(chain, ggml_nelements(chain.x));
    task.is_query               = true;
    task.head_size              = queries.head_size;
    task.source.chain.head_size = queries.head_size;
    task.queries = { queries.dst, queries.unit };
    const int64_t heads = chain.rope ? chain.rope->ne[1] : task.n_values/task.head_size; // without RoPE tokens are alike
    if (many && heads % PROMPT_QUERIES == 0) { task.source.per_warp = PROMPT_QUERIES; }
    return task;
}

template <int D, int TEAM>
static void launch(ggml_backend_cuda_context & ctx, const rows_task * tasks, int n) {
    constexpr int WARPS = rows_warps(TEAM);
    prepare_params params = {};
    int64_t n_ctas = 0;
    for (int i = 0; i < n; ++i) {
        row_source & s = params.source[i];
        s        = tasks[i].source;
        s.n_rows = (int) (tasks[i].n_values/D);
        if (tasks[i].head_size == 0) { s.chain.head_size = D; }
        if (tasks[i].is_query) {
            params.queries = tasks[i].queries;
        } else {
            params.rows[params.n_ops]       = tasks[i].target;
            params.rows[params.n_ops].parts = init_fastdiv_values(tasks[i].ne00/D);
            ++params.n_ops;
        }
        const int at_once = (tasks[i].is_query ? WARPS : WARPS/TEAM)*s.per_warp;
        n_ctas = std::max<int64_t>(n_ctas, (s.n_rows + at_once - 1)/at_once);
    }
    if (n_ctas > 0) {
        const ggml_cuda_kernel_launch_params config(dim3((unsigned) n_ctas, n), dim3(WARPS*WARP), (size_t) 0, ctx.stream());
        ggml_cuda_kernel_launch(k_attention_rows<D, TEAM>, config, params);
    }
}

template <int D>
static void launch(ggml_backend_cuda_context & ctx, const rows_task * tasks, int n, bool many) {
    if (many) { launch<D, 1>(ctx, tasks, n); }
    else      { launch<D, turbo_team(D, PER_BLOCK)>(ctx, tasks, n); }
}

static void launch(ggml_backend_cuda_context & ctx, const rows_task * tasks, int n, int d, bool many) {
    switch (d) {
        case  64: launch< 64>(ctx, tasks, n, many); break;
        case 128: launch<128>(ctx, tasks, n, many); break;
        default:  launch<256>(ctx, tasks, n, many); break;
    }
}

void ggml_cuda_attention_prepare(ggml_backend_cuda_context & ctx, const ggml_cuda_attention_rows * rows, int n_rows, const ggml_cuda_attention_queries & queries) {
    rows_task tasks[3];
    int n = 0, d = 0;
    bool many = false, together = true;
    for (int i = 0; i < n_rows; ++i) {
        tasks[n++] = make_task(rows[i].chain, rows[i].set_rows);
        many = many || tasks[i].n_values >= PROMPT_VALUES;
    }
    if (queries.chain.x) { tasks[n++] = make_task(queries, many); }
    for (int i = 0; i < n; ++i) { d = std::max(d, tasks[i].is_query ? tasks[i].head_size : tasks[i].d()); }
    for (int i = 0; i < n; ++i) { together = together && tasks[i].fits(d); }
    if (together) {
        launch(ctx, tasks, n, d, many);
        return;
    }
    for (int i = 0; i < n; ++i) { launch(ctx, tasks + i, 1, tasks[i].is_query ? tasks[i].head_size : tasks[i].d(), many); }
}

void ggml_cuda_set_rows_turbo(ggml_backend_cuda_context & ctx, ggml_tensor * set_rows) {
    const ggml_cuda_attention_rows rows = { {}, set_rows };
    ggml_cuda_attention_prepare(ctx, &rows, 1, {});
}
