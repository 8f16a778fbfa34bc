#pragma once

// FLASH_ATTN_EXT for a few queries on a packed K/V cache, by tensor cores, without an f16 copy of the cache.
//
// A warp owns one KV head (and the queries of its GQA group) and walks over positions, 16 at a time:
//   S^T [16 pos x 8 q] = K [16 x D] Q^T [D x 8]    codes: mma.m16n8k32 on int8, Q as two int8 parts; f16: mma.m16n8k16
//   P   = exp(S - max), times V's scale where a block covers enough values, transposed by movmatrix
//   O^T [D x 8 q]     += V^T [D x 16 pos] P        mma.m16n8k16; codes: two positions interleaved by byte shuffles
//
// Codes of V become halves without arithmetic: a byte u under the exponent 0x64 is the half 1024 + u. The constant part of
// the products, (1024 + bias) * sum(p), is taken off once at the end. The order of the values inside of a row is whatever
// the packed format gives; Q is loaded, and O is written, in the same order.
//
// The warps of a block share the tiles: n_heads neighbouring KV heads times n_parts runs of positions. A head's partial
// results, one for each split and part, are combined by a second kernel or, in a short context, within a cluster of blocks;
// both can also undo the rotation of V.

#include "fattn-decode-loaders.cuh"
#include "fattn-decode-params.cuh"
#include "fattn-decode-query.cuh"

#include <type_traits>

// below any score, and above minus infinity, which a masked position has: exp2 of their difference is 0, not a NaN
#define FATTN_DECODE_LOWEST (-1e29f)
#define FATTN_DECODE_LOG2E  1.44269504f

static __device__ __forceinline__ void fattn_decode_wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void fattn_decode_let_successor_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Q^T as B fragments of 16-bit products: halves of Q over its largest magnitude
template <int D, typename LK>
struct query_half {
    uint32_t q[D/16][2];

    static __device__ __forceinline__ void pack(char * packed, const float (&x)[D/32], float peak, int lane) {
        const float inv = peak > 0.0f ? 1.0f/peak : 0.0f;
#pragma unroll
        for (int i = 0; i < D/32; i += 2) { *(uint32_t *) (packed + 2*row_index<D>(lane, i)) = pack_half2(x[i]*inv, x[i + 1]*inv); }
        if (lane == 0) { *(float *) (packed + 2*D) = peak; }
    }

    __device__ __forceinline__ void take(const char * packed, int t) {
#pragma unroll
        for (int i = 0; i < D/16; ++i) {
            q[i][0] = *(const uint32_t *) (packed + i*32 + 4*t);
            q[i][1] = *(const uint32_t *) (packed + i*32 + 4*t + 16);
        }
    }
};

// Q^T as B fragments of 8-bit products: int16 as two int8 parts
template <int D, typename LK>
struct query_int8 {
    static constexpr int BLOCKS = D/LK::BLOCK;
    uint32_t q[D/32][2][2]; // [.][high, low][values 0-3, 4-7]
    int bias[BLOCKS][2];    // what the bias of K's bytes contributes to columns 2t, 2t + 1

    static __device__ __forceinline__ void pack(char * packed, const float (&x)[D/32], float peak, int lane) {
        pack_query_int8<D>(packed, x, peak, LK::UNIT, lane);
    }

    // column 2t + j; sums: of its blocks of 32
    __device__ __forceinline__ void set_bias(const int * sums, int j) {
        if (LK::K_BIAS != 0) {
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) { bias[b][j] = sums[b]*LK::K_BIAS; } // K_BIAS: only blocks of 32 have one
        }
    }

    __device__ __forceinline__ void take(const char * packed, int t) {
        constexpr int  CHUNKS      = LK::BLOCK/8;
        constexpr bool INTERLEAVED = LK::index(0, 0, 1) != 1; // the two words of a chunk take turns
        constexpr int  SECOND      = LK::index(0, 0, INTERLEAVED ? 1 : 4);
#pragma unroll
        for (int i = 0; i < D/32; ++i) {
            const char * at = packed + LK::index(i*4/CHUNKS, i*4%CHUNKS + t, 0);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t a = *(const uint32_t *) (at + h*D), b = *(const uint32_t *) (at + h*D + SECOND);
                q[i][h][0] = INTERLEAVED ? byte_perm(a, b, 0x5140) : a;
                q[i][h][1] = INTERLEAVED ? byte_perm(a, b, 0x7362) : b;
            }
        }
    }
};

template <int D, typename LK> using query_of = std::conditional_t<LK::HALF, query_half<D, LK>, query_int8<D, LK>>;

// s[n] += 16 positions of K, which start at row, times the columns; sixteen rows lie stride bytes apart
template <int D, typename LK, int NT>
static __device__ __forceinline__ void add_scores(float (&s)[NT][4], const query_of<D, LK> (&query)[NT], const char * row, int stride, const uint32_t * books) {
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    if constexpr (LK::HALF) {
        const char * p = row + lane%16*stride + lane/16*16;
#pragma unroll
        for (int i = 0; i < D/16; ++i) {
            uint32_t a[4];
            load_matrices(a, p + i*32);
#pragma unroll
            for (int n = 0; n < NT; ++n) { mma_half(s[n], a, query[n].q[i][0], query[n].q[i][1]); }
        }
    } else {
        constexpr int PER_BLOCK = LK::BLOCK/32;
        constexpr int PARITY    = LK::row_bytes(D)%4 == 0 && LK::BLOCK == 64 ? 0 : -1;
        const char * r0 = row + g*stride;
        const char * r1 = r0 + 8*stride;
#pragma unroll
        for (int b = 0; b < D/LK::BLOCK; ++b) {
            int high[NT][4] = {}, low[NT][4] = {};
#pragma unroll
            for (int i = 0; i < PER_BLOCK; ++i) {
                uint32_t lo0, hi0, lo1, hi1;
                LK::template chunk<true>(r0, PARITY, b, i*4 + t, books, lo0, hi0);
                LK::template chunk<true>(r1, PARITY, b, i*4 + t, books, lo1, hi1);
#pragma unroll
                for (int n = 0; n < NT; ++n) {
                    const auto & q = query[n].q[b*PER_BLOCK + i];
                    mma_int8(high[n], lo0, lo1, hi0, hi1, q[0][0], q[0][1]);
                    mma_int8(low[n],  lo0, lo1, hi0, hi1, q[1][0], q[1][1]);
                }
            }
            const float d0 = block_scale<LK>(r0, b), d1 = block_scale<LK>(r1, b);
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int sum = high[n][e]*256 + low[n][e] - (LK::K_BIAS != 0 ? query[n].bias[b][e & 1] : 0);
                    s[n][e] += (e < 2 ? d0 : d1)*(float) sum;
                }
            }
        }
    }
}

// ---- the output of a warp -----------------------------------------------------------------------------------------------

template <int D, typename LV> struct value_traits {
    // a block of V that covers all rows of a fragment lends its scale to P; smaller blocks are scaled value by value
    static constexpr bool SCALE_P = false;
    static constexpr int  SCALES  = 1;
};
template <int D> struct value_traits<D, load_turbo4> { static constexpr bool SCALE_P = true; static constexpr int SCALES = D/64; };
template <int D> struct value_traits<D, load_turbo3> { static constexpr bool SCALE_P = true; static constexpr int SCALES = D/64; };

template <int D, typename LV>
struct output {
    static constexpr int SCALES = value_traits<D, LV>::SCALES;

    float o[D/16][4];
    float sums[SCALES][4]; // of scaled P, by a product with ones: what the bias of V's bytes is multiplied by
    float m[2], l[2];      // of columns 2t, 2t + 1

    __device__ __forceinline__ void clear() {
        m[0] = m[1] = FATTN_DECODE_LOWEST;
        l[0] = l[1] = 0.0f;
#pragma unroll
        for (int b = 0; b < SCALES; ++b) { sums[b][0] = sums[b][1] = sums[b][2] = sums[b][3] = 0.0f; }
#pragma unroll
        for (int i = 0; i < D/16; ++i) { o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f; }
    }

    __device__ __forceinline__ void raise_max(float m0, float m1) {
        if (!__any_sync(~0u, m0 > m[0] || m1 > m[1])) {
            return;
        }
        const float f0 = exp2f(m[0] - m0), f1 = exp2f(m[1] - m1);
        m[0] = m0; m[1] = m1;
        l[0] *= f0; l[1] *= f1;
#pragma unroll
        for (int b = 0; b < SCALES; ++b) { sums[b][0] *= f0; sums[b][1] *= f1; }
#pragma unroll
        for (int i = 0; i < D/16; ++i) { o[i][0] *= f0; o[i][1] *= f1; o[i][2] *= f0; o[i][3] *= f1; }
    }
};

// out[n] += V^T of 16 positions, which start at row, times P of the scores s[n]
template <int D, typename LV, int NT>
static __device__ __forceinline__ void add_values(output<D, LV> (&out)[NT], const float (&s)[NT][4], const char * row, int stride, const uint32_t * books) {
    constexpr bool SCALE_P = value_traits<D, LV>::SCALE_P;
    constexpr int  SCALES  = value_traits<D, LV>::SCALES;
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    uint32_t p[NT][SCALES][2];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        float e[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            e[i] = exp2f(s[n][i] - out[n].m[i & 1]);
            out[n].l[i & 1] += e[i];
        }
#pragma unroll
        for (int b = 0; b < SCALES; ++b) {
            float d0 = 1.0f, d1 = 1.0f;
            if constexpr (SCALE_P) {
                d0 = block_scale<LV>(row + g*stride,       b);
                d1 = block_scale<LV>(row + (g + 8)*stride, b);
            }
            p[n][b][0] = transpose_8x8(pack_half2(e[0]*d0, e[1]*d0));
            p[n][b][1] = transpose_8x8(pack_half2(e[2]*d1, e[3]*d1));
            if (SCALE_P) {
                const uint32_t ones[4] = { 0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00 };
                mma_half(out[n].sums[b], ones, p[n][b][0], p[n][b][1]);
            }
        }
    }
    if constexpr (LV::HALF) {
        const char * v = row + (lane%8 + lane/16*8)*stride + (lane/8 & 1)*16;
#pragma unroll
        for (int i = 0; i < D/16; ++i) {
            uint32_t a[4];
            load_matrices_transposed(a, v + i*32);
#pragma unroll
            for (int n = 0; n < NT; ++n) { mma_half(out[n].o[i], a, p[n][0][0], p[n][0][1]); }
        }
    } else {
        constexpr int PARITY = LV::row_bytes(D)%4 == 0 && LV::BLOCK == 64 ? 0 : -1;
        const char * v0 = row + 2*t*stride;
#pragma unroll
        for (int i = 0; i < D/64; ++i) {
            const int b = SCALE_P ? i : i*2 + (g >> 2), j = SCALE_P ? g : g & 3;
            uint32_t x[4][2]; // positions 2t, 2t + 1, 2t + 8, 2t + 9
            LV::template chunk<false>(v0,            PARITY, b, j, books, x[0][0], x[0][1]);
            LV::template chunk<false>(v0 +   stride, PARITY, b, j, books, x[1][0], x[1][1]);
            LV::template chunk<false>(v0 + 8*stride, PARITY, b, j, books, x[2][0], x[2][1]);
            LV::template chunk<false>(v0 + 9*stride, PARITY, b, j, books, x[3][0], x[3][1]);
            half2 d01, d23;
            if constexpr (!SCALE_P) {
                d01 = __floats2half2_rn(block_scale<LV>(v0, b),            block_scale<LV>(v0 +   stride, b));
                d23 = __floats2half2_rn(block_scale<LV>(v0 + 8*stride, b), block_scale<LV>(v0 + 9*stride, b));
            }
#pragma unroll
            for (int w = 0; w < 2; ++w) {
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) {
                    const uint32_t y0 = byte_perm(x[0][w], x[1][w], pair ? 0x7362 : 0x5140); // v0[e], v1[e], v0[e+1], v1[e+1]
                    const uint32_t y1 = byte_perm(x[2][w], x[3][w], pair ? 0x7362 : 0x5140);
                    uint32_t a[4] = { byte_perm(y0, 0x64646464, 0x4140), byte_perm(y0, 0x64646464, 0x4342),
                                      byte_perm(y1, 0x64646464, 0x4140), byte_perm(y1, 0x64646464, 0x4342) };
                    if constexpr (!SCALE_P) { // exact: small integers, then one rounding
                        const half2 unbias = __float2half2_rn(-(1024.0f + LV::BIAS));
#pragma unroll
                        for (int r = 0; r < 4; ++r) {
                            half2 & h = *(half2 *) &a[r];
                            h = __hmul2(__hadd2(h, unbias), r < 2 ? d01 : d23);
                        }
                    }
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        mma_half(out[n].o[i*4 + w*2 + pair], a, p[n][SCALE_P ? i : 0][0], p[n][SCALE_P ? i : 0][1]);
                    }
                }
            }
        }
    }
}

// put(index, value) for column j (of 2t, 2t + 1): this lane's of the D values
template <int D, typename LV, typename F>
static __device__ __forceinline__ void put_output(const output<D, LV> & out, int j, const F & put) {
    const int g = threadIdx.x%32/4;
#pragma unroll
    for (int i = 0; i < D/16; ++i) {
        if constexpr (LV::HALF) {
            put(i*16 + g,     out.o[i][j]);
            put(i*16 + g + 8, out.o[i][j + 2]);
        } else {
            constexpr bool SCALE_P = value_traits<D, LV>::SCALE_P;
            const int b = SCALE_P ? i/4 : i/4*2 + (g >> 2), k = SCALE_P ? g : g & 3, e = i%4*2;
            const float bias = SCALE_P ? out.sums[SCALE_P ? i/4 : 0][j]*(1024.0f + LV::BIAS) : 0.0f;
            put(LV::index(b, k, e),     (out.o[i][j]     - bias)*LV::UNIT);
            put(LV::index(b, k, e + 1), (out.o[i][j + 2] - bias)*LV::UNIT);
        }
    }
}

static __device__ __forceinline__ float sum_of_columns(float l) {
#pragma unroll
    for (int w = 4; w < 32; w *= 2) { l += __shfl_xor_sync(~0u, l, w); }
    return l;
}

// the Hadamard matrix of 64 values times y[lane], y[lane + 32] of a warp
static __device__ __forceinline__ void hadamard_64(float (&y)[2], int lane) {
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float other = __shfl_xor_sync(~0u, y[i], bit);
            y[i] = lane & bit ? other - y[i] : y[i] + other;
        }
    }
    const float a = y[0], b = y[1];
    y[0] = (a + b)*0.125f;
    y[1] = (a - b)*0.125f;
}

#ifdef FATTN_DECODE_BULK_COPY
// The blocks of a cluster are consecutive splits. Each combines every cluster-th of their (column, head) rows: the others write
// their parts of them into its mailbox, which is faster than to let it fetch them. All sizes are powers of two, or known at
// compile time: in a kernel of a few microseconds, a division is a twentieth of one.
struct cluster_mail {
    float * rows;   // [row/cluster][source][D]
    int n_sources;  // part s % n_parts of block s / n_parts; at most 32, a power of two
    int n_heads, n_columns;
    int log2, rank; // of the cluster's size; of this block

    __device__ __forceinline__ int block_of(int i) const { return i & ((1 << log2) - 1); }
    template <int D> __device__ __forceinline__ float * row(int i, int source) const { return rows + ((i >> log2)*n_sources + source)*D; }
    template <int D> __device__ __forceinline__ float2 * meta(int i, int source) const {
        const int rows_here = (n_heads*n_columns + (1 << log2) - 1) >> log2;
        return (float2 *) (rows + rows_here*n_sources*D) + (i >> log2)*n_sources + source;
    }
};

// staging: of the block, free. Rows are sent whole: single values take ten times as long.
template <int D, typename LV, int NT>
static __device__ __forceinline__ void send_parts(const cluster_mail & mail, const output<D, LV> (&out)[NT], float * staging, int head, int source) {
    constexpr int STRIDE = D + 4; // against bank conflicts
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    staging += threadIdx.x/32*mail.n_columns*STRIDE;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float l = sum_of_columns(out[n].l[j]);
            const int r = n*8 + 2*t + j, i = r*mail.n_heads + head;
            if (r < mail.n_columns) {
                put_output<D, LV>(out[n], j, [&](int at, float x) { staging[r*STRIDE + at] = x; });
                if (g == 0) { store_remote(remote_address(mail.meta<D>(i, source), mail.block_of(i)), make_float2(out[n].m[j], l)); }
            }
        }
    }
    __syncwarp();
    for (int r = 0; r < mail.n_columns; ++r) {
        const int i = r*mail.n_heads + head;
        const uint32_t row = remote_address(mail.row<D>(i, source), mail.block_of(i));
        for (int at = lane*4; at < D; at += 128) { store_remote(row + at*sizeof(float), *(const float4 *) (staging + r*STRIDE + at)); }
    }
}

// a warp takes 64 values of a row: into one part, or the output, if there is no other cluster
template <int D>
static __device__ __forceinline__ void combine_mail(const fattn_decode_params & p, const cluster_mail & mail, int head_kv0, int col0) {
    const int warp = threadIdx.x/32, lane = threadIdx.x%32;
    const int  n_clusters = p.n_splits >> mail.log2;
    const bool last = n_clusters == 1;
    for (int task = warp; ; task += blockDim.x/32) {
        const int i = (task/(D/64) << mail.log2) + mail.rank, first = task%(D/64)*64 + lane;
        if (i >= mail.n_heads*mail.n_columns) {
            return;
        }
        const int col = col0 + i/mail.n_heads, iq = p.n_q == 1 ? 0 : col/p.gqa, h = (head_kv0 + i%mail.n_heads)*p.gqa + col - iq*p.gqa;
        const float sink = last && p.sinks ? p.sinks[h]*FATTN_DECODE_LOG2E : FATTN_DECODE_LOWEST;
        const float2 ml = *mail.meta<D>(i, lane & (mail.n_sources - 1));
        float mx = fmaxf(ml.x, sink);
        for (int w = 1; w < mail.n_sources; w *= 2) { mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, w)); }
        const float weight = exp2f(ml.x - mx);
        float sum = weight*ml.y;
        for (int w = 1; w < mail.n_sources; w *= 2) { sum += __shfl_xor_sync(~0u, sum, w); }
        float y[2] = { 0.0f, 0.0f };
#pragma unroll 4
        for (int s = 0; s < mail.n_sources; ++s) {
            const float ws = __shfl_sync(~0u, weight, s);
            const float * row = mail.row<D>(i, s) + first;
            y[0] += ws*row[0];
            y[1] += ws*row[32];
        }
        float * dst = p.dst + (((int64_t) blockIdx.z*p.n_q + iq)*p.n_head + h)*D;
        if (last) {
            sum += p.sinks ? exp2f(sink - mx) : 0.0f;
            const float inv = sum > 0.0f ? 1.0f/sum : 0.0f;
            y[0] *= inv;
            y[1] *= inv;
            if (p.rotate_dst) { hadamard_64(y, lane); }
        } else {
            const int64_t at = (((int64_t) blockIdx.z*p.n_head + h)*p.n_q + iq)*n_clusters + (blockIdx.x >> mail.log2);
            if (first == 0) { p.meta[at] = make_float2(mx, sum); }
            dst = p.part + at*D;
        }
        dst[first]      = y[0];
        dst[first + 32] = y[1];
    }
}
#endif

// ---- tiles --------------------------------------------------------------------------------------------------------------

// Copies a run of positions of one operand, or its rows with padding between them. On Hopper, a few lanes of each warp
// issue bulk copies: one warp alone would hold up the others. Before it, and where there is no more than the first tiles, every
// thread copies its share of 16 bytes: that takes more instructions, but half a microsecond less to arrive.
struct tile_copy {
    const char * src;
    int64_t nb;
    int stride, row; // in shared memory; bytes of a row
    bool whole;

    __device__ __forceinline__ int copies(int tile) const { return whole ? 1 : tile; }

    __device__ __forceinline__ int bytes(int first, int tile, int n_kv) const {
        return whole ? (int) ((min(tile, n_kv - first)*nb + 15) & ~15) : tile*row;
    }

    // rows past the end are copies of the last one: whatever they hold must be finite
    __device__ __forceinline__ const char * row_src(int first, int i, int n_kv) const {
        return src + (whole ? (int64_t) first : (int64_t) min(first + i, n_kv - 1))*nb;
    }

#ifdef FATTN_DECODE_BULK_COPY
    __device__ __forceinline__ void one(char * dst, int i, int first, int tile, int n_kv, uint64_t * ready) const {
        copy_bulk(dst + i*stride, row_src(first, i, n_kv), whole ? bytes(first, tile, n_kv) : row, ready);
    }
#endif
    __device__ __forceinline__ void share(char * dst, int first, int tile, int n_kv) const {
        const int per_copy = (whole ? bytes(first, tile, n_kv) : row)/16;
        for (int i = threadIdx.x; i < per_copy*copies(tile); i += blockDim.x) {
            const int r = i/per_copy, c = i%per_copy;
            copy_16(dst + r*stride + c*16, row_src(first, r, n_kv) + c*16);
        }
    }
};

struct tile_ring {
    char     * stages;
    uint64_t * ready; // filled, one per stage
    uint64_t * freed; // read by all warps
    int size, n_stages, tile, n_kv, tile_v, tile_m;
    tile_copy k, v;
    const char * mask;
    int nbm, n_mask; // rows of the mask
    bool shared;     // every thread copies; or none but the ones that issue bulk copies

    __device__ __forceinline__ void init(int n_warps) const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < n_stages; ++i) {
                barrier_init(&ready[i], shared ? n_warps*32 : 1);
                barrier_init(&freed[i], n_warps);
            }
#ifdef FATTN_DECODE_BULK_COPY
            asm volatile("fence.mbarrier_init.release.cluster;");
#endif
        }
        if (clears()) {
            for (int i = 0; i < n_stages - 1; ++i) { clear(i); }
        }
    }

    // the last tile leaves rows unwritten, which are multiplied by zero: they must not be NaN
    __device__ __forceinline__ bool clears() const { return k.whole || v.whole; }

    __device__ __forceinline__ void clear(int stage) const {
        for (int i = threadIdx.x; i < size/16; i += blockDim.x) { ((uint4 *) (stages + stage*size))[i] = make_uint4(0, 0, 0, 0); }
#ifdef FATTN_DECODE_BULK_COPY
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    }

    __device__ __forceinline__ void load_shared(int index, int stage) const {
        const int first = index*tile, per_row = tile*2/16;
        char * dk = stages + stage*size;
        k.share(dk,          first, tile, n_kv);
        v.share(dk + tile_v, first, tile, n_kv);
        for (int i = threadIdx.x; i < per_row*n_mask; i += blockDim.x) {
            copy_16(dk + tile_m + i*16, mask + (int64_t) (i/per_row)*nbm + first*2 + i%per_row*16);
        }
        barrier_arrive_after_copies(&ready[stage]);
    }

    __device__ __forceinline__ void load(int index, int stage) const {
#ifdef FATTN_DECODE_BULK_COPY
        const int first = index*tile;
        char * dk = stages + stage*size;
        char * dv = dk + tile_v;
        char * dm = dk + tile_m;
        const int warp = threadIdx.x/32, lane = threadIdx.x%32, n_warps = blockDim.x/32;
        if (threadIdx.x == 0) {
            barrier_expect(&ready[stage], k.bytes(first, tile, n_kv) + v.bytes(first, tile, n_kv) + n_mask*tile*2);
        }
        const int copies_k = k.copies(tile), copies = copies_k + v.copies(tile);
        for (int i = lane*n_warps + warp; i < copies; i += blockDim.x) {
            if (i < copies_k) { k.one(dk, i,            first, tile, n_kv, &ready[stage]); }
            else              { v.one(dv, i - copies_k, first, tile, n_kv, &ready[stage]); }
        }
        if (warp == 0 && lane < n_mask) { copy_bulk(dm + lane*tile*2, mask + (int64_t) lane*nbm + first*2, tile*2, &ready[stage]); }
#else
        load_shared(index, stage);
#endif
    }
};

// ---- the kernel ---------------------------------------------------------------------------------------------------------
// grid (splits, head groups * column tiles, sequences); NT tiles of 8 (query, head) columns a warp.
// HEADS: p.n_heads, where it and with it all strides are known at compile time and rows are padded; or 0.

template <int D, typename LK, typename LV, int NT, int HEADS>
__global__ void __launch_bounds__(FATTN_DECODE_WARPS*32, D <= 128 && NT == 1 ? 2 : 1)
fattn_decode(const fattn_decode_params p) {
    constexpr int ROW_K = LK::row_bytes(D), ROW_V = LV::row_bytes(D);
    constexpr int STEPS = HEADS == FATTN_DECODE_BRIEF_HEADS ? 1 : fattn_decode_steps(ROW_K, ROW_V);
    const int n_heads  = HEADS ? HEADS : p.n_heads;
    const int n_parts  = HEADS ? FATTN_DECODE_WARPS/HEADS : p.n_parts;
    const int stride_k = HEADS ? HEADS*ROW_K + 16 : p.stride_k; // padded against bank conflicts
    const int stride_v = HEADS ? HEADS*ROW_V + 16 : p.stride_v;
    const int n_stages = HEADS ? FATTN_DECODE_MAX_STAGES : p.n_stages;
    const int tile     = n_parts*STEPS*16;

    extern __shared__ __align__(128) char smem[];
    uint32_t * books_k = (uint32_t *) smem;
    uint32_t * books_v = (uint32_t *) (smem + 128);

    const int warp = threadIdx.x/32, lane = threadIdx.x%32, g = lane/4, t = lane%4;
    const int part = warp/n_heads, group = blockIdx.y%p.n_groups, head_kv = group*n_heads + warp%n_heads;
    const int seq = blockIdx.z, split = blockIdx.x;
    const int n_cols = p.n_q*p.gqa, col0 = blockIdx.y/p.n_groups*NT*8;
    const int q0 = col0/p.gqa;

    tile_ring ring;
    ring.stages   = smem + FATTN_DECODE_HEADER;
    ring.ready    = (uint64_t *) (smem + 256);
    ring.freed    = ring.ready + FATTN_DECODE_MAX_STAGES;
    ring.tile     = tile;
    ring.tile_v   = tile*stride_k;
    ring.tile_m   = tile*(stride_k + stride_v);
    ring.size     = ring.tile_m + fattn_decode_mask_bytes(NT, tile);
    ring.n_stages = n_stages;
    ring.n_kv     = p.n_kv;
    ring.k        = { p.k + seq*p.nbk3 + group*n_heads*p.nbk2, p.nbk1, stride_k, n_heads*ROW_K, HEADS ? false : p.whole_k };
    ring.v        = { p.v + seq*p.nbv3 + group*n_heads*p.nbv2, p.nbv1, stride_v, n_heads*ROW_V, HEADS ? false : p.whole_v };
    ring.mask     = p.mask + seq%p.seq_m*p.nbm3 + (int64_t) q0*p.nbm1;
    ring.nbm      = p.nbm1;
    ring.n_mask   = p.mask ? min(p.n_q, (col0 + NT*8 - 1)/p.gqa + 1) - q0 : 0;
#ifdef FATTN_DECODE_BULK_COPY
    ring.shared   = p.few_tiles;
#else
    ring.shared   = true;
#endif

    const int tiles = (p.n_kv + tile - 1)/tile;
    const int tile0 = (uint32_t) tiles*split/(uint32_t) p.n_splits; // fits: the host makes sure of it
    const int tile1 = (uint32_t) tiles*(split + 1)/(uint32_t) p.n_splits;

    if constexpr (!LK::HALF) { LK::fill_books(books_k, threadIdx.x, true); }
    if constexpr (!LV::HALF) { LV::fill_books(books_v, threadIdx.x, false); }
    ring.init(n_heads*n_parts);
#ifdef FATTN_DECODE_BULK_COPY
    if (p.cluster > 1) { cluster_arrive(); }
#endif
    uint64_t * q_ready = ring.freed + FATTN_DECODE_MAX_STAGES;
    if (threadIdx.x == 0) { barrier_init(q_ready, blockDim.x); }

    // queries: column n*8 + g is (query, head) of the group
    const int n_rows = min(NT*8, n_cols - col0);
    float slope[NT][2];    // of columns 2t, 2t + 1: what the mask is multiplied by
    int   mask_at[NT][2];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int c = col0 + min(n*8 + 2*t + j, n_rows - 1), iq = p.n_q == 1 ? 0 : c/p.gqa, h = head_kv*p.gqa + c - iq*p.gqa;
            mask_at[n][j] = (iq - q0)*tile + part*STEPS*16 + g;
            slope[n][j]   = FATTN_DECODE_LOG2E;
            if (p.max_bias != 0.0f) { slope[n][j] *= h < p.n_head_log2 ? powf(p.m0, h + 1) : powf(p.m1, 2*(h - p.n_head_log2) + 1); }
        }
    }
    fattn_decode_wait_for_predecessor();
    __syncthreads();
    if (p.packed_q) { // one query: the rows of the group's heads adjoin
        const char * from = p.packed_q + ((int64_t) seq*p.n_head + group*n_heads*p.gqa)*packed_query_bytes(D);
        for (int i = threadIdx.x*16; i < n_heads*p.gqa*packed_query_bytes(D); i += blockDim.x*16) { copy_16(ring.stages + (n_stages - 1)*ring.size + i, from + i); }
        barrier_arrive_after_copies(q_ready);
    }
    for (int i = 0; i < n_stages - 1 && tile0 + i < tile1; ++i) {
        if (ring.shared) { ring.load_shared(tile0 + i, i); }
        else             { ring.load(tile0 + i, i); }
    }

    char * packed = ring.stages + (n_stages - 1)*ring.size; // that stage comes last
    if (p.packed_q) {
        packed += warp%n_heads*p.gqa*packed_query_bytes(D);
        barrier_wait(q_ready, 0);
    } else {
        packed += warp*NT*8*packed_query_bytes(D);
        for (int r = 0; r < n_rows; ++r) {
            const int col = col0 + r;
            float x[D/32];
            load_row<D>(x, (const float *) (p.q + (int64_t) (col/p.gqa)*p.nbq1 + (int64_t) (head_kv*p.gqa + col%p.gqa)*p.nbq2 + seq*p.nbq3), lane);
            query_of<D, LK>::pack(packed + r*packed_query_bytes(D), x, peak_of_row<D>(x), lane);
        }
        __syncwarp();
    }

    query_of<D, LK> query[NT];
    float factor[NT][2];   // of columns 2t, 2t + 1: from a product to the log2 domain
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        query[n].take(packed + min(n*8 + g, n_rows - 1)*packed_query_bytes(D), t);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const char * tail = packed + min(n*8 + 2*t + j, n_rows - 1)*packed_query_bytes(D) + 2*D;
            factor[n][j] = *(const float *) tail*(p.softcap == 0.0f ? p.scale*FATTN_DECODE_LOG2E : p.scale/p.softcap);
            if constexpr (!LK::HALF) { query[n].set_bias((const int *) (tail + 4), j); }
        }
    }

    output<D, LV> out[NT];
#pragma unroll
    for (int n = 0; n < NT; ++n) { out[n].clear(); }
    __syncthreads(); // the last stage is free now
    if (ring.clears()) {
        ring.clear(n_stages - 1);
        __syncthreads();
    }

    int stage = 0, turn = 0; // turn: how often the stages were gone through
    const auto refill = [&](int index) { // the stage of tile index - 1, once all warps have left it
        if (index + n_stages - 1 < tile1) {
            const int before = stage == 0 ? n_stages - 1 : stage - 1;
            if (index > tile0) { barrier_wait(&ring.freed[before], (stage == 0 ? turn - 1 : turn) & 1); }
            ring.load(index + n_stages - 1, before);
        }
    };
    for (int index = tile0; index < tile1; ++index) {
        if (n_stages == 2) { refill(index); } // with three it can wait, and no warp for the others
        barrier_wait(&ring.ready[stage], turn & 1);
        const char * tk = ring.stages + stage*ring.size;
        const char * tv = tk + ring.tile_v + part*STEPS*16*stride_v + warp%n_heads*ROW_V;
        const half * tm = (const half *) (tk + ring.tile_m);
        tk += part*STEPS*16*stride_k + warp%n_heads*ROW_K;

        if (!HEADS && p.whole_v && (index + 1)*tile > p.n_kv) { // with the last row came what fills its 16 bytes up
            const int end = (p.n_kv - index*tile)*stride_v;
            if ((int) threadIdx.x < -end % 16 + 16 && end % 16 != 0) { ring.stages[stage*ring.size + ring.tile_v + end + threadIdx.x] = 0; }
            __syncthreads();
        }

        float s[STEPS][NT][4];
#pragma unroll
        for (int st = 0; st < STEPS; ++st) {
#pragma unroll
            for (int n = 0; n < NT; ++n) { s[st][n][0] = s[st][n][1] = s[st][n][2] = s[st][n][3] = 0.0f; }
            add_scores<D, LK, NT>(s[st], query, tk + st*16*stride_k, stride_k, books_k);
        }

        // cap, mask, maximum
        const int left = p.n_kv - index*tile - part*STEPS*16 - g; // positions from this lane's first
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            float m0 = out[n].m[0], m1 = out[n].m[1];
#pragma unroll
            for (int st = 0; st < STEPS; ++st) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float x = s[st][n][i]*factor[n][i & 1];
                    if (p.softcap != 0.0f) { x = p.softcap*FATTN_DECODE_LOG2E*tanhf(x); }
                    if (p.mask) {
                        const int j = p.n_q == 1 ? 0 : i & 1; // one query: both columns read the same
                        x += __half2float(tm[mask_at[n][j] + st*16 + i/2*8])*slope[n][i & 1];
                    }
                    s[st][n][i] = x;
                }
            }
            if (left < STEPS*16) {
#pragma unroll
                for (int i = 0; i < STEPS*4; ++i) {
                    if (i/4*16 + i%4/2*8 >= left) { s[i/4][n][i%4] = -INFINITY; }
                }
            }
#pragma unroll
            for (int i = 0; i < STEPS*2; ++i) {
                m0 = fmaxf(m0, s[i/2][n][i%2*2]);
                m1 = fmaxf(m1, s[i/2][n][i%2*2 + 1]);
            }
#pragma unroll
            for (int w = 4; w < 32; w *= 2) {
                m0 = fmaxf(m0, __shfl_xor_sync(~0u, m0, w));
                m1 = fmaxf(m1, __shfl_xor_sync(~0u, m1, w));
            }
            out[n].raise_max(m0, m1);
        }
#pragma unroll
        for (int st = 0; st < STEPS; ++st) { add_values<D, LV, NT>(out, s[st], tv + st*16*stride_v, stride_v, books_v); }

        __syncwarp();
        if (lane == 0) { barrier_arrive(&ring.freed[stage]); }
        if (n_stages != 2) { refill(index); }
        if (++stage == n_stages) { stage = 0; ++turn; }
    }
    fattn_decode_let_successor_start();

#ifdef FATTN_DECODE_BULK_COPY
    if (p.cluster > 1) {
        const int rank = split & (p.cluster - 1);
        const cluster_mail mail = { (float *) (ring.stages + p.mailbox), p.cluster*n_parts, n_heads, n_rows, p.cluster_log2, rank };
        __syncthreads(); // nobody reads the tiles any more
        cluster_wait();  // for the others to exist
        send_parts<D, LV, NT>(mail, out, (float *) ring.stages, warp%n_heads, rank*n_parts + part);
        cluster_arrive();
        cluster_wait();  // for all mail
        combine_mail<D>(p, mail, group*n_heads, col0);
        return;
    }
#endif
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float l = sum_of_columns(out[n].l[j]);
            const int col = col0 + n*8 + 2*t + j;
            if (col >= n_cols) { continue; }
            const int64_t row = (((int64_t) seq*p.n_head + head_kv*p.gqa + col%p.gqa)*p.n_q + col/p.gqa)*p.n_splits*n_parts + split*n_parts + part;
            put_output<D, LV>(out[n], j, [&](int at, float x) { p.part[row*D + at] = x; });
            if (g == 0) { p.meta[row] = make_float2(out[n].m[j], l); }
        }
    }
}

// ---- combining the parts ------------------------------------------------------------------------------------------------

// grid (rows [seq][head][q], D/64): 64 of the values of a row, from all its parts. rotate: undo the rotation of V.
// It is mostly waiting, so the first parts are fetched before anything is known about their weights.
template <int D>
__global__ void __launch_bounds__(1024) fattn_decode_combine(
        const float * part, const float2 * meta, float * dst, const float * sinks, int n_parts, int n_head, int n_q, bool rotate) {
    constexpr int LANES = 16, AHEAD = 4, MAX_WARPS = 32;
    const int row = blockIdx.x, iq = row%n_q, head = row/n_q%n_head, seq = row/n_q/n_head;
    const int n_warps = blockDim.x/32, warp = threadIdx.x/32, wlane = threadIdx.x%32;
    const int n_groups = blockDim.x/LANES, lane = threadIdx.x%LANES, group = threadIdx.x/LANES;

    extern __shared__ float weights[]; // [n_parts]
    __shared__ float  s_max[MAX_WARPS], s_sum[MAX_WARPS];
    __shared__ float4 s_acc[MAX_WARPS][LANES];

    fattn_decode_wait_for_predecessor();
    fattn_decode_let_successor_start();
    meta += (int64_t) row*n_parts;
    part += (int64_t) row*n_parts*D + blockIdx.y*64;

    float4 x[AHEAD];
    const auto fetch = [&](int base) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (base + i*n_groups < n_parts) { x[i] = ((const float4 *) (part + (int64_t) (base + i*n_groups)*D))[lane]; }
        }
    };
    fetch(group);

    const float sink = sinks ? sinks[head]*FATTN_DECODE_LOG2E : FATTN_DECODE_LOWEST;
    float mx = sink;
    for (int i = threadIdx.x; i < n_parts; i += blockDim.x) { mx = fmaxf(mx, meta[i].x); }
    mx = max_of_warp(mx);
    if (wlane == 0) { s_max[warp] = mx; }
    __syncthreads();
    mx = max_of_warp(s_max[min(wlane, n_warps - 1)]);

    float sum = 0.0f;
    for (int i = threadIdx.x; i < n_parts; i += blockDim.x) {
        const float2 ml = meta[i];
        const float w = exp2f(ml.x - mx);
        weights[i] = w;
        sum += w*ml.y;
    }
    sum = sum_of_warp(sum);
    if (wlane == 0) { s_sum[warp] = sum; }
    __syncthreads();

    float4 acc = make_float4(0, 0, 0, 0);
    for (int base = group; base < n_parts; base += AHEAD*n_groups) {
        if (base != group) { fetch(base); }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (base + i*n_groups < n_parts) {
                const float w = weights[base + i*n_groups];
                acc.x += w*x[i].x; acc.y += w*x[i].y; acc.z += w*x[i].z; acc.w += w*x[i].w;
            }
        }
    }
    acc.x += __shfl_xor_sync(~0u, acc.x, LANES);
    acc.y += __shfl_xor_sync(~0u, acc.y, LANES);
    acc.z += __shfl_xor_sync(~0u, acc.z, LANES);
    acc.w += __shfl_xor_sync(~0u, acc.w, LANES);
    if (wlane < LANES) { s_acc[warp][lane] = acc; }
    __syncthreads();
    if (warp > 0) {
        return;
    }
    float y[2] = { 0.0f, 0.0f };
#pragma unroll 8
    for (int i = 0; i < n_warps; ++i) {
        y[0] += ((const float *) s_acc[i])[wlane];
        y[1] += ((const float *) s_acc[i])[wlane + 32];
    }
    sum = sum_of_warp(wlane < n_warps ? s_sum[wlane] : 0.0f) + (sinks ? exp2f(sink - mx) : 0.0f);
    const float inv = sum > 0.0f ? 1.0f/sum : 0.0f;
    y[0] *= inv;
    y[1] *= inv;
    if (rotate) { hadamard_64(y, wlane); }
    dst += (((int64_t) seq*n_q + iq)*n_head + head)*D + blockIdx.y*64;
    dst[wlane]      = y[0];
    dst[wlane + 32] = y[1];
}
