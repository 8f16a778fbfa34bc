#include "fattn-quant.h"

#include "fattn-quant-simd.h"
#include "fattn-quant-unpack.h"

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <vector>

// positions of a K/V tile, query rows of a prefill tile, and the most queries that take the decode path
static constexpr int TILE_KV     = 64;
static constexpr int TILE_ROWS   = 128;
static constexpr int MAX_DECODE  = 8;

// ---------------------------------------------------------------------------------------------------------------------
// cache types

// q, d, m of `rows` cache rows of `n` values; q is [rows][n], d and m are [rows][n/block]
typedef void (*unpack_tile_t)(const char * data, size_t stride, int rows, int n, int8_t * q, float * d, float * m);

// y[rows][n] in f32
typedef void (*to_f32_tile_t)(const char * data, size_t stride, int rows, int n, float * y);

struct cache_type {
    to_f32_tile_t to_f32;
    unpack_tile_t unpack;  // null for float types
    int           block;   // values per scale
    bool          has_min;
};

template <typename U>
static void unpack_tile(const char * data, size_t stride, int rows, int n, int8_t * q, float * d, float * m) {
    const int nb = n / U::BLOCK;
    for (int t = 0; t < rows; ++t) {
        const typename U::block_t * b = (const typename U::block_t *) (data + t*stride);
        for (int i = 0; i < nb; ++i) {
            U::unpack(b[i], q + (size_t) t*n + i*U::BLOCK, d[t*nb + i], m[t*nb + i]);
        }
    }
}

template <typename U>
static void unpack_tile_f32(const char * data, size_t stride, int rows, int n, float * y) {
    const int nb = n / U::BLOCK;
    for (int t = 0; t < rows; ++t) {
        const typename U::block_t * b = (const typename U::block_t *) (data + t*stride);
        for (int i = 0; i < nb; ++i) {
            alignas(64) int8_t q[U::BLOCK];
            float d;
            float m = 0.0f;
            U::unpack(b[i], q, d, m);
            float * out = y + (size_t) t*n + i*U::BLOCK;
            const f32v dv = f32v_set1(d);
            const f32v mv = f32v_set1(m);
            for (int j = 0; j < U::BLOCK; j += FATTN_F32_N) {
                const f32v v = f32v_from_i8(q + j);
                f32v_store(out + j, U::HAS_MIN ? f32v_fma(v, dv, mv) : f32v_mul(v, dv));
            }
        }
    }
}

static void f16_tile_f32(const char * data, size_t stride, int rows, int n, float * y) {
    for (int t = 0; t < rows; ++t) {
        ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) (data + t*stride), y + (size_t) t*n, n);
    }
}

static void bf16_tile_f32(const char * data, size_t stride, int rows, int n, float * y) {
    for (int t = 0; t < rows; ++t) {
        ggml_cpu_bf16_to_fp32((const ggml_bf16_t *) (data + t*stride), y + (size_t) t*n, n);
    }
}

static void f32_tile_f32(const char * data, size_t stride, int rows, int n, float * y) {
    for (int t = 0; t < rows; ++t) {
        memcpy(y + (size_t) t*n, data + t*stride, n*sizeof(float));
    }
}

template <typename U>
static constexpr cache_type quantized() {
    return { unpack_tile_f32<U>, unpack_tile<U>, U::BLOCK, U::HAS_MIN };
}

static const cache_type * find_cache_type(ggml_type type) {
    static const cache_type f32 = { f32_tile_f32, nullptr, 1, false };
    static const cache_type f16 = { f16_tile_f32, nullptr, 1, false };
    static const cache_type bf16 = { bf16_tile_f32, nullptr, 1, false };
    static const cache_type q8_0 = quantized<unpack_q8_0>();
    static const cache_type q5_1 = quantized<unpack_q5_1>();
    static const cache_type q5_0 = quantized<unpack_q5_0>();
    static const cache_type q4_1 = quantized<unpack_q4_1>();
    static const cache_type q4_0 = quantized<unpack_q4_0>();
    static const cache_type iq4_nl = quantized<unpack_iq4_nl>();
    static const cache_type turbo4 = quantized<unpack_turbo4>();
    static const cache_type turbo3 = quantized<unpack_turbo3>();
    static const cache_type turbo3t = quantized<unpack_turbo3t>();
    switch (type) {
        case GGML_TYPE_F32:    return &f32;
        case GGML_TYPE_F16:    return &f16;
        case GGML_TYPE_BF16:   return &bf16;
        case GGML_TYPE_Q8_0:   return &q8_0;
        case GGML_TYPE_Q5_1:   return &q5_1;
        case GGML_TYPE_Q5_0:   return &q5_0;
        case GGML_TYPE_Q4_1:   return &q4_1;
        case GGML_TYPE_Q4_0:   return &q4_0;
        case GGML_TYPE_IQ4_NL: return &iq4_nl;
        case GGML_TYPE_TURBO4: return &turbo4;
        case GGML_TYPE_TURBO3: return &turbo3;
        case GGML_TYPE_TURBO3T: return &turbo3t;
        default:               return nullptr;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// the node, and how it is cut up

struct attn {
    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * mask;
    const ggml_tensor * sinks;
    ggml_tensor *       dst;

    const cache_type * type_k;
    const cache_type * type_v;

    int DK, DV;
    int n_q;        // queries per sequence
    int n_kv;
    int n_head;
    int n_head_kv;
    int n_seq;
    int gqa;        // query heads per KV head

    float    scale;
    float    softcap;
    float    max_bias;
    uint32_t n_head_log2;
    float    m0, m1;

    bool decode() const { return n_q <= MAX_DECODE; }

    const float * query(int iq, int head, int seq) const {
        return (const float *) ((const char *) q->data + iq*q->nb[1] + head*q->nb[2] + seq*q->nb[3]);
    }

    const char * cache_row(const ggml_tensor * t, int ic, int head_kv, int seq) const {
        return (const char *) t->data + ic*t->nb[1] + head_kv*t->nb[2] + (seq/(q->ne[3]/t->ne[3]))*t->nb[3];
    }

    const ggml_fp16_t * mask_row(int iq, int head, int seq) const {
        return (const ggml_fp16_t *) ((const char *) mask->data +
            iq*mask->nb[1] + (head%mask->ne[2])*mask->nb[2] + (seq%mask->ne[3])*mask->nb[3]);
    }

    float slope(int head) const {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        return (uint32_t) head < n_head_log2 ? powf(m0, head + 1) : powf(m1, 2*(head - n_head_log2) + 1);
    }

    float * out(int iq, int head, int seq) const {
        return (float *) ((char *) dst->data + head*dst->nb[1] + iq*dst->nb[2] + seq*dst->nb[3]);
    }
};

static attn read_node(const ggml_tensor * dst) {
    attn a;
    a.q     = dst->src[0];
    a.k     = dst->src[1];
    a.v     = dst->src[2];
    a.mask  = dst->src[3];
    a.sinks = dst->src[4];
    a.dst   = const_cast<ggml_tensor *>(dst);

    a.type_k = find_cache_type(a.k->type);
    a.type_v = find_cache_type(a.v->type);

    a.DK        = (int) a.k->ne[0];
    a.DV        = (int) a.v->ne[0];
    a.n_q       = (int) a.q->ne[1];
    a.n_kv      = (int) a.k->ne[1];
    a.n_head    = (int) a.q->ne[2];
    a.n_head_kv = (int) a.k->ne[2];
    a.n_seq     = (int) a.q->ne[3];
    a.gqa       = a.n_head / a.n_head_kv;

    memcpy(&a.scale,    (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&a.max_bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&a.softcap,  (const float *) dst->op_params + 2, sizeof(float));
    if (a.softcap != 0.0f) {
        a.scale /= a.softcap;
    }
    a.n_head_log2 = 1u << (uint32_t) floor(log2((double) a.n_head));
    a.m0 = powf(2.0f, -(a.max_bias       ) / a.n_head_log2);
    a.m1 = powf(2.0f, -(a.max_bias / 2.0f) / a.n_head_log2);
    return a;
}

bool ggml_fattn_quant_supported(const ggml_tensor * dst) {
    const ggml_tensor * q = dst->src[0];
    const ggml_tensor * k = dst->src[1];
    const ggml_tensor * v = dst->src[2];
    const ggml_tensor * mask = dst->src[3];
    if (k->type == v->type && (k->type == GGML_TYPE_F16 || k->type == GGML_TYPE_F32)) {
        return false; // upstream's own fast paths
    }
    return q->type == GGML_TYPE_F32 && find_cache_type(k->type) && find_cache_type(v->type) &&
        k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] &&
        q->nb[0] == sizeof(float) && k->nb[0] == ggml_type_size(k->type) && v->nb[0] == ggml_type_size(v->type) &&
        (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(ggml_fp16_t)));
}

// Buffers of one thread, carved from the work buffer. `rows` is the number of query rows that a tile serves.
struct scratch {
    float *   queries; // [rows][DK], f32 queries (decode: only the rows of one KV head)
    int16_t * queries_i16;
    float *   query_scale;  // [rows]
    float *   query_sums;   // [rows][DK/block]: sum of the queries under one min
    float *   scores;  // [rows][TILE_KV]
    float *   values;  // [TILE_KV][max(DK, DV)], V in f32, and K before it is transposed
    float *   keys;    // [DK][TILE_KV], K transposed
    int8_t *  codes;   // [TILE_KV][DK]
    float *   scale;   // [TILE_KV][DK/block]
    float *   min;
    float *   mask;    // [queries][TILE_KV]
    float *   acc;     // [rows][DV]
    float *   max;     // [rows]
    float *   sum;     // [rows]
};

struct arena {
    char * base;
    size_t used;

    template <typename T>
    T * take(size_t n) {
        T * p = (T *) (base + used);
        used += GGML_PAD(n*sizeof(T), 64);
        return base ? p : nullptr;
    }
};

// queries per prefill tile: enough rows to pay for unpacking a tile, few enough that all threads have work
static int queries_per_tile(const attn & a, int n_threads) {
    const int by_rows = std::max(1, TILE_ROWS/a.gqa);
    const int64_t heads   = (int64_t) a.n_head_kv*a.n_seq;
    const int     by_work = (int) std::max<int64_t>(1, a.n_q*heads/(4*n_threads));
    const int n = std::min({ by_rows, by_work, a.n_q });
    return n >= 4 ? n & ~3 : n;
}

// decode: KV ranges per sequence, so that all threads have work also with one sequence
static int splits_per_seq(const attn & a, int n_threads) {
    return a.n_seq % n_threads == 0 ? 1 : n_threads;
}

static scratch carve(const attn & a, int n_threads, arena & mem) {
    const bool decode  = a.decode();
    const int  queries = decode ? a.n_q : queries_per_tile(a, n_threads);
    const int  rows    = decode ? a.n_head*a.n_q : a.gqa*queries; // decode keeps all heads at once: K/V rows are read in order
    const int  nb      = a.DK/a.type_k->block;
    scratch s;
    s.queries     = mem.take<float>((size_t) rows*a.DK);
    s.queries_i16 = mem.take<int16_t>(decode ? (size_t) rows*a.DK : 0);
    s.query_scale = mem.take<float>(rows);
    s.query_sums  = mem.take<float>(decode ? (size_t) rows*nb : 0);
    s.scores      = mem.take<float>((size_t) a.gqa*queries*TILE_KV);
    s.values      = mem.take<float>((size_t) TILE_KV*std::max(a.DK, a.DV));
    s.keys        = mem.take<float>((size_t) TILE_KV*a.DK);
    s.codes       = mem.take<int8_t>((size_t) TILE_KV*a.DK);
    s.scale       = mem.take<float>((size_t) TILE_KV*nb);
    s.min         = mem.take<float>((size_t) TILE_KV*nb);
    s.mask        = mem.take<float>((size_t) queries*TILE_KV);
    s.acc         = mem.take<float>((size_t) rows*a.DV);
    s.max         = mem.take<float>(rows);
    s.sum         = mem.take<float>(rows);
    return s;
}

size_t ggml_fattn_quant_work_size(const ggml_tensor * dst, int n_tasks) {
    const attn a = read_node(dst);
    size_t worst = 0;
    // a graph may run with fewer threads than planned, which makes prefill tiles larger but needs fewer of them
    for (int n = 1; n <= n_tasks; ++n) {
        arena mem = { nullptr, 0 };
        carve(a, n, mem);
        size_t size = mem.used*n;
        if (a.decode()) {
            size += sizeof(float)*a.n_seq*splits_per_seq(a, n)*a.n_head*a.n_q*(2 + a.DV);
        }
        worst = std::max(worst, size);
    }
    return worst + 64;
}

// ---------------------------------------------------------------------------------------------------------------------
// scores

// Queries as int16 with one scale a row: its error is 1e-9 of the energy, so decode agrees with prefill.
static void quantize_queries(const attn & a, const scratch & s, int rows) {
    const int nb = a.DK/a.type_k->block;
    for (int r = 0; r < rows; ++r) {
        const float * x = s.queries + (size_t) r*a.DK;
        float peak = 0.0f;
        for (int j = 0; j < a.DK; ++j) {
            peak = std::max(peak, fabsf(x[j]));
        }
        // |q| <= 127, so that DK products of one block stay far inside int32
        const float inverse = peak > 0.0f ? 32767.0f/peak : 0.0f;
        for (int j = 0; j < a.DK; ++j) {
            s.queries_i16[(size_t) r*a.DK + j] = (int16_t) lrintf(x[j]*inverse);
        }
        s.query_scale[r] = peak/32767.0f;
        for (int b = 0; b < nb; ++b) {
            float sum = 0.0f;
            for (int j = 0; j < a.type_k->block; ++j) {
                sum += x[b*a.type_k->block + j];
            }
            s.query_sums[r*nb + b] = sum;
        }
    }
}

template <int NR, int BLOCK>
static void scores_i8_rows(const int8_t * k, const float * kd, const int16_t * q, int tile, int DK, float * out) {
    constexpr int NV = BLOCK/FATTN_I16_N;
    const int nb = DK/BLOCK;
    for (int t = 0; t < tile; ++t) {
        f32v acc[NR];
        for (int r = 0; r < NR; ++r) {
            acc[r] = f32v_zero();
        }
        for (int b = 0; b < nb; ++b) {
            i16v kv[NV];
            for (int i = 0; i < NV; ++i) {
                kv[i] = i16v_from_i8(k + (size_t) t*DK + b*BLOCK + i*FATTN_I16_N);
            }
            const f32v d = f32v_set1(kd[t*nb + b]);
            for (int r = 0; r < NR; ++r) {
                i32v sum = i32v_zero();
                for (int i = 0; i < NV; ++i) {
                    sum = i16v_madd(kv[i], i16v_load(q + (size_t) r*DK + b*BLOCK + i*FATTN_I16_N), sum);
                }
                acc[r] = f32v_fma(f32v_from_i32(sum), d, acc[r]);
            }
        }
        for (int r = 0; r < NR; ++r) {
            out[r*TILE_KV + t] = f32v_sum(acc[r]);
        }
    }
}

template <int BLOCK>
static void scores_i8(const scratch & s, const int16_t * q, int rows, int tile, int DK) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
        scores_i8_rows<4, BLOCK>(s.codes, s.scale, q + (size_t) r*DK, tile, DK, s.scores + r*TILE_KV);
    }
    q += (size_t) r*DK;
    float * out = s.scores + r*TILE_KV;
    switch (rows - r) {
        case 3: scores_i8_rows<3, BLOCK>(s.codes, s.scale, q, tile, DK, out); break;
        case 2: scores_i8_rows<2, BLOCK>(s.codes, s.scale, q, tile, DK, out); break;
        case 1: scores_i8_rows<1, BLOCK>(s.codes, s.scale, q, tile, DK, out); break;
        default: break;
    }
}

// decode: rows [row0, row0 + rows) of the queries against a tile of K, in int8 x int16
static void scores_decode(const attn & a, const scratch & s, const char * k, int row0, int rows, int tile) {
    if (!a.type_k->unpack) {
        a.type_k->to_f32(k, a.k->nb[1], tile, a.DK, s.values);
        for (int r = 0; r < rows; ++r) {
            for (int t = 0; t < tile; ++t) {
                ggml_vec_dot_f32(a.DK, s.scores + r*TILE_KV + t, 0, s.values + (size_t) t*a.DK, 0,
                    s.queries + (size_t) (row0 + r)*a.DK, 0, 1);
            }
        }
        return;
    }
    a.type_k->unpack(k, a.k->nb[1], tile, a.DK, s.codes, s.scale, s.min);
    const int16_t * q = s.queries_i16 + (size_t) row0*a.DK;
    if (a.type_k->block == 64) {
        scores_i8<64>(s, q, rows, tile, a.DK);
    } else {
        scores_i8<32>(s, q, rows, tile, a.DK);
    }
    const int nb = a.DK/a.type_k->block;
    for (int r = 0; r < rows; ++r) {
        float * row = s.scores + r*TILE_KV;
        const float query_scale = s.query_scale[row0 + r];
        for (int t = 0; t < tile; ++t) {
            row[t] *= query_scale;
        }
        if (a.type_k->has_min) {
            for (int t = 0; t < tile; ++t) {
                for (int b = 0; b < nb; ++b) {
                    row[t] += s.min[t*nb + b]*s.query_sums[(row0 + r)*nb + b];
                }
            }
        }
    }
}

// prefill: all rows of the tile by f32 matrix products
static void scores_prefill(const attn & a, const scratch & s, const char * k, int rows, int tile) {
    a.type_k->to_f32(k, a.k->nb[1], tile, a.DK, s.values);
    transpose(s.keys, TILE_KV, s.values, a.DK, tile, a.DK);
    memset(s.scores, 0, (size_t) rows*TILE_KV*sizeof(float));
    gemm(s.scores, TILE_KV, s.queries, a.DK, s.keys, TILE_KV, rows, a.DK, tile);
}

// ---------------------------------------------------------------------------------------------------------------------
// mask and softmax

enum class mask_state { NONE, SOME, ALL };

// f16 mask of a tile to f32; ALL if every entry is -inf, NONE if every entry is 0
static mask_state load_mask(const ggml_fp16_t * m, int tile, float * out) {
    bool all  = true;
    bool none = true;
    for (int t = 0; t < tile; ++t) {
        all  &= m[t] == 0xfc00;
        none &= m[t] == 0;
    }
    if (all || none) {
        return all ? mask_state::ALL : mask_state::NONE;
    }
    ggml_cpu_fp16_to_fp32(m, out, tile);
    return mask_state::SOME;
}

// one row of scores: scale, cap, mask, and the online softmax; leaves the probabilities in `row`
static void softmax_row(const attn & a, float * row, int tile, const float * mask, float slope, float * max, float * sum, float * acc) {
    ggml_vec_scale_f32(tile, row, a.scale);
    if (a.softcap != 0.0f) {
        ggml_vec_tanh_f32(tile, row, row);
        ggml_vec_scale_f32(tile, row, a.softcap);
    }
    if (mask) {
        ggml_vec_mad_f32(tile, row, mask, slope);
    }
    float tile_max;
    ggml_vec_max_f32(tile, &tile_max, row);
    if (tile_max == -INFINITY) {
        memset(row, 0, tile*sizeof(float));
        return;
    }
    if (tile_max > *max) {
        const float shrink = expf(*max - tile_max);
        ggml_vec_scale_f32(a.DV, acc, shrink);
        *sum *= shrink;
        *max = tile_max;
    }
    *sum += (float) ggml_vec_soft_max_f32(tile, row, row, *max);
}

// the masks of `queries` queries that share a tile; returns whether any position is seen by any of them
static bool load_masks(const attn & a, const scratch & s, int iq0, int queries, int head, int seq, int ic, int tile, mask_state * states) {
    bool seen = false;
    for (int i = 0; i < queries; ++i) {
        states[i] = a.mask ? load_mask(a.mask_row(iq0 + i, head, seq) + ic, tile, s.mask + i*TILE_KV) : mask_state::NONE;
        seen |= states[i] != mask_state::ALL;
    }
    return seen;
}

// softmax over the rows of one KV head, which are [gqa][queries]
static void softmax_rows(const attn & a, const scratch & s, int head_kv, int iq0, int queries, int seq, int ic, int tile,
        mask_state * states, int row0) {
    const bool mask_per_head = a.mask && a.mask->ne[2] > 1;
    for (int g = 0; g < a.gqa; ++g) {
        const int head = head_kv*a.gqa + g;
        if (mask_per_head && g > 0) {
            load_masks(a, s, iq0, queries, head, seq, ic, tile, states);
        }
        const float slope = a.slope(head);
        for (int i = 0; i < queries; ++i) {
            const int r = g*queries + i;
            float * row = s.scores + (size_t) r*TILE_KV;
            if (states[i] == mask_state::ALL) {
                memset(row, 0, tile*sizeof(float));
                continue;
            }
            softmax_row(a, row, tile, states[i] == mask_state::SOME ? s.mask + i*TILE_KV : nullptr, slope,
                s.max + row0 + r, s.sum + row0 + r, s.acc + (size_t) (row0 + r)*a.DV);
        }
    }
}

// whether a tile can be skipped for all heads of the group
static bool tile_is_seen(const attn & a, const scratch & s, int head_kv, int iq0, int queries, int seq, int ic, int tile, mask_state * states) {
    const int heads = a.mask && a.mask->ne[2] > 1 ? a.gqa : 1;
    bool seen = false;
    for (int g = heads - 1; g >= 0; --g) { // the first head's masks are left loaded
        seen |= load_masks(a, s, iq0, queries, head_kv*a.gqa + g, seq, ic, tile, states);
    }
    return seen;
}

static void add_values(const attn & a, const scratch & s, const char * v, int row0, int rows, int tile) {
    a.type_v->to_f32(v, a.v->nb[1], tile, a.DV, s.values);
    gemm(s.acc + (size_t) row0*a.DV, a.DV, s.scores, TILE_KV, s.values, a.DV, rows, tile, a.DV);
}

static void reset_rows(const attn & a, const scratch & s, int rows) {
    memset(s.acc, 0, (size_t) rows*a.DV*sizeof(float));
    std::fill(s.max, s.max + rows, -INFINITY);
    std::fill(s.sum, s.sum + rows, 0.0f);
}

// the attention sink: one more logit, whose value is zero
static void apply_sink(const attn & a, int head, float * max, float * sum, float * acc) {
    if (!a.sinks) {
        return;
    }
    const float logit = ((const float *) a.sinks->data)[head];
    if (logit > *max) {
        const float shrink = expf(*max - logit);
        ggml_vec_scale_f32(a.DV, acc, shrink);
        *sum = *sum*shrink + 1.0f;
        *max = logit;
    } else {
        *sum += expf(logit - *max);
    }
}

static void write_out(const attn & a, int iq, int head, int seq, float sum, float * acc) {
    ggml_vec_scale_f32(a.DV, acc, sum == 0.0f ? 0.0f : 1.0f/sum);
    memcpy(a.out(iq, head, seq), acc, a.DV*sizeof(float));
}

// ---------------------------------------------------------------------------------------------------------------------
// prefill: one KV head and a block of queries at a time

static void prefill_tile(const attn & a, const scratch & s, int seq, int head_kv, int iq0, int queries) {
    const int rows = a.gqa*queries;
    for (int g = 0; g < a.gqa; ++g) {
        for (int i = 0; i < queries; ++i) {
            memcpy(s.queries + (size_t) (g*queries + i)*a.DK, a.query(iq0 + i, head_kv*a.gqa + g, seq), a.DK*sizeof(float));
        }
    }
    reset_rows(a, s, rows);
    mask_state states[TILE_ROWS];
    for (int ic = 0; ic < a.n_kv; ic += TILE_KV) {
        const int tile = std::min(TILE_KV, a.n_kv - ic);
        if (!tile_is_seen(a, s, head_kv, iq0, queries, seq, ic, tile, states)) {
            continue;
        }
        scores_prefill(a, s, a.cache_row(a.k, ic, head_kv, seq), rows, tile);
        softmax_rows(a, s, head_kv, iq0, queries, seq, ic, tile, states, 0);
        add_values(a, s, a.cache_row(a.v, ic, head_kv, seq), 0, rows, tile);
    }
    for (int r = 0; r < rows; ++r) {
        const int head = head_kv*a.gqa + r/queries;
        apply_sink(a, head, s.max + r, s.sum + r, s.acc + (size_t) r*a.DV);
        write_out(a, iq0 + r%queries, head, seq, s.sum[r], s.acc + (size_t) r*a.DV);
    }
}

static void prefill(const ggml_compute_params * params, const attn & a, const scratch & s) {
    const int queries = queries_per_tile(a, params->nth);
    const int tiles   = (a.n_q + queries - 1)/queries;
    const int items   = tiles*a.n_head_kv*a.n_seq;

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    for (int item = params->ith; item < items; item = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int from_end = tiles - 1 - item/(a.n_head_kv*a.n_seq); // the longest causal tiles first
        const int head_kv  = item % a.n_head_kv;
        const int seq      = item/a.n_head_kv % a.n_seq;
        const int iq0      = from_end*queries;
        prefill_tile(a, s, seq, head_kv, iq0, std::min(queries, a.n_q - iq0));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// decode: a range of positions at a time for all heads, then a reduction over the ranges

struct partials {
    float * base;   // [seq][split][head_kv][gqa][query][2 + DV]: max, sum, acc
    int     splits;

    float * row(const attn & a, int seq, int split, int r) const {
        return base + ((size_t) (seq*splits + split)*a.n_head*a.n_q + r)*(2 + a.DV);
    }
};

static void decode_range(const attn & a, const scratch & s, int seq, int ic0, int ic1) {
    const int rows = a.gqa*a.n_q; // of one KV head
    for (int r = 0; r < a.n_head*a.n_q; ++r) {
        memcpy(s.queries + (size_t) r*a.DK, a.query(r%a.n_q, r/a.n_q, seq), a.DK*sizeof(float));
    }
    if (a.type_k->unpack) {
        quantize_queries(a, s, a.n_head*a.n_q);
    }
    reset_rows(a, s, a.n_head*a.n_q);
    const bool mask_per_head = a.mask && a.mask->ne[2] > 1;
    mask_state states[MAX_DECODE];
    for (int ic = ic0; ic < ic1; ic += TILE_KV) {
        const int tile = std::min(TILE_KV, ic1 - ic);
        for (int head_kv = 0; head_kv < a.n_head_kv; ++head_kv) {
            if ((head_kv == 0 || mask_per_head) && !tile_is_seen(a, s, head_kv, 0, a.n_q, seq, ic, tile, states)) {
                if (mask_per_head) {
                    continue;
                }
                break;
            }
            const int row0 = head_kv*rows;
            scores_decode(a, s, a.cache_row(a.k, ic, head_kv, seq), row0, rows, tile);
            softmax_rows(a, s, head_kv, 0, a.n_q, seq, ic, tile, states, row0);
            add_values(a, s, a.cache_row(a.v, ic, head_kv, seq), row0, rows, tile);
        }
    }
}

static void reduce_row(const attn & a, const scratch & s, const partials & p, int seq, int r) {
    float max = -INFINITY;
    for (int i = 0; i < p.splits; ++i) {
        max = std::max(max, p.row(a, seq, i, r)[0]);
    }
    float sum = 0.0f;
    memset(s.acc, 0, a.DV*sizeof(float));
    for (int i = 0; i < p.splits; ++i) {
        const float * part = p.row(a, seq, i, r);
        if (part[0] == -INFINITY) {
            continue;
        }
        const float weight = expf(part[0] - max);
        sum += part[1]*weight;
        ggml_vec_mad_f32(a.DV, s.acc, part + 2, weight);
    }
    const int head = r/a.n_q;
    apply_sink(a, head, &max, &sum, s.acc);
    write_out(a, r%a.n_q, head, seq, sum, s.acc);
}

static void decode(const ggml_compute_params * params, const attn & a, const scratch & s, float * base) {
    const int rows = a.n_head*a.n_q;
    const partials p = { base, splits_per_seq(a, params->nth) };
    // whole tiles per range
    const int range = GGML_PAD((a.n_kv + p.splits - 1)/p.splits, TILE_KV);
    for (int item = params->ith; item < a.n_seq*p.splits; item += params->nth) {
        const int seq   = item/p.splits;
        const int split = item%p.splits;
        decode_range(a, s, seq, std::min(split*range, a.n_kv), std::min((split + 1)*range, a.n_kv));
        for (int r = 0; r < rows; ++r) {
            float * part = p.row(a, seq, split, r);
            part[0] = s.max[r];
            part[1] = s.sum[r];
            memcpy(part + 2, s.acc + (size_t) r*a.DV, a.DV*sizeof(float));
        }
    }
    ggml_barrier(params->threadpool);
    for (int i = params->ith; i < a.n_seq*rows; i += params->nth) {
        reduce_row(a, s, p, i/rows, i%rows);
    }
}

void ggml_fattn_quant(const ggml_compute_params * params, ggml_tensor * dst) {
    const attn a = read_node(dst);
    arena measure = { nullptr, 0 };
    carve(a, params->nth, measure);
    char * work = (char *) GGML_PAD((uintptr_t) params->wdata, 64);
    arena mem = { work + params->ith*measure.used, 0 };
    const scratch s = carve(a, params->nth, mem);
    if (a.decode()) {
        decode(params, a, s, (float *) (work + params->nth*measure.used));
    } else {
        prefill(params, a, s);
    }
}
