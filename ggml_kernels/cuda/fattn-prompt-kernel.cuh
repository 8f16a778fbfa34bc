#pragma once

// Attention of a prompt to a cache in halves: what a packed cache is converted to for it (cache-convert.cuh). Called as upstream's
// kernels are (launch_fattn), which also combines the parts of a split cache.
//
// A block has 128 rows of queries: of COLUMNS heads that share K and V, and 128/COLUMNS tokens. A warp has 32 of them, so that
// each fragment of K and V that it loads is used twice: with 16 rows a warp, shared memory is what tensor cores wait for.

#include "fattn-decode-ptx.cuh"
#include "fattn-common.cuh"

constexpr int FATTN_PROMPT_ROWS = 128, FATTN_PROMPT_WARPS = 4, FATTN_PROMPT_TILE = 64; // positions

constexpr int fattn_prompt_smem(int d, int columns) {
    return 2*(FATTN_PROMPT_ROWS*d + 2*FATTN_PROMPT_TILE*d + FATTN_PROMPT_ROWS/columns*FATTN_PROMPT_TILE);
}

// Rows of N halves in shared memory, in chunks of 16 bytes, of which eight neighbouring rows have theirs in different banks.
template <int N> struct prompt_tile {
    static constexpr int CHUNKS = N/8;
    static_assert((CHUNKS & (CHUNKS - 1)) == 0 && CHUNKS >= 8, "a chunk's number can be XORed into an address");
    char * data; // aligned to a row

    // in bytes from data on; of the chunk whose number is this one's XOR n: this XOR 16*n
    static __device__ __forceinline__ int at(int row, int chunk) { return (row*CHUNKS + (chunk ^ (row & 7)))*16; }

    // ROWS rows from `from` on, which are `stride` bytes apart. CLAMP: instead of those past the last one, that one
    template <int ROWS, bool CLAMP = false> __device__ __forceinline__ void load(const char * from, int stride, int last = 0) const {
        constexpr int THREADS = FATTN_PROMPT_WARPS*32, AT_ONCE = THREADS/CHUNKS;
        static_assert(ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0, "all threads copy as much, to chunks of one number");
        const int row = (threadIdx.y*32 + threadIdx.x)/CHUNKS, chunk = threadIdx.x % CHUNKS;
        const uint32_t to = shared_address(data) + at(row, chunk);
        from += (int64_t) (CLAMP ? min(row, last) : row)*stride + chunk*16;
#pragma unroll
        for (int i = 0; i < ROWS/AT_ONCE; ++i) {
            copy_16(to + i*AT_ONCE*CHUNKS*16, from);
            from += (int64_t) (CLAMP ? max(min(last - row - i*AT_ONCE, AT_ONCE), 0) : AT_ONCE)*stride;
        }
    }
};

// what a warp has of the rows: two times 16, of which a lane has numbers lane/4 and lane/4 + 8
template <int D> struct prompt_rows {
    float o[2][D/8][4];
    float max[2][2], sum[2][2]; // of scores before they are scaled; the sum is this lane's

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int n = 0; n < D/8; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) { o[i][n][e] = 0.0f; }
            }
#pragma unroll
            for (int h = 0; h < 2; ++h) { max[i][h] = -FLT_MAX/2.0f; sum[i][h] = 0.0f; }
        }
    }
};

// The mask's tile, for the tokens of this warp: whether any of it is not zero, and whether all of it is minus infinity
template <int COLUMNS>
static __device__ __forceinline__ void look_at_mask(const prompt_tile<FATTN_PROMPT_TILE> & mask, bool & adds, bool & hides) {
    constexpr int TOKENS = 32/COLUMNS;
    uint32_t any = 0;
    bool inf = true;
#pragma unroll
    for (int i = 0; i < TOKENS*8/32; ++i) {
        const int at = i*32 + threadIdx.x;
        const uint4 m = *(const uint4 *) (mask.data + mask.at(threadIdx.y*TOKENS + at/8, at % 8));
        any |= m.x | m.y | m.z | m.w;
        inf = inf && m.x == 0xfc00fc00 && m.y == 0xfc00fc00 && m.z == 0xfc00fc00 && m.w == 0xfc00fc00;
    }
    adds  = __any_sync(~0u, (any & 0x7fff7fff) != 0);
    hides = __all_sync(~0u, inf);
}

// scores of this warp's rows with a tile of K
template <int D>
static __device__ __forceinline__ void prompt_scores(float (&s)[2][FATTN_PROMPT_TILE/8][4], const prompt_tile<D> & q, const prompt_tile<D> & k) {
    const int lane = threadIdx.x;
    const uint32_t row_q = shared_address(q.data) + q.at(threadIdx.y*32 + lane%16, lane/16);
    const uint32_t row_k = shared_address(k.data) + k.at(lane/16*8 + lane%8, lane/8%2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < FATTN_PROMPT_TILE/8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) { s[i][n][e] = 0.0f; }
        }
    }
#pragma unroll
    for (int step = 0; step < D/16; ++step) {
        uint32_t a[2][4];
        load_matrices(a[0], row_q ^ 32*step);
        load_matrices(a[1], (row_q ^ 32*step) + 16*2*D);
#pragma unroll
        for (int n = 0; n < FATTN_PROMPT_TILE/16; ++n) {
            uint32_t b[4];
            load_matrices(b, (row_k ^ 32*step) + n*16*2*D);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_half(s[i][2*n],     a[i], b[0], b[1]);
                mma_half(s[i][2*n + 1], a[i], b[2], b[3]);
            }
        }
    }
}

template <int COLUMNS>
static __device__ __forceinline__ void add_mask(float (&s)[2][FATTN_PROMPT_TILE/8][4], const prompt_tile<FATTN_PROMPT_TILE> & mask, float inv_scale) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int token = (threadIdx.y*32 + i*16 + h*8 + threadIdx.x/4)/COLUMNS;
#pragma unroll
            for (int n = 0; n < FATTN_PROMPT_TILE/8; ++n) {
                const float2 m = __half22float2(((const half2 *) (mask.data + mask.at(token, n)))[threadIdx.x%4]);
                s[i][n][2*h]     += m.x*inv_scale;
                s[i][n][2*h + 1] += m.y*inv_scale;
            }
        }
    }
}

// Scores become weights, relative to the largest score so far; what was summed up before is brought to it. scale: of scores, in log2
template <int D>
static __device__ __forceinline__ void prompt_softmax(float (&s)[2][FATTN_PROMPT_TILE/8][4], prompt_rows<D> & r, float scale) {
    float factor[2][2];
    bool  changed = false;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float max = r.max[i][h];
#pragma unroll
            for (int n = 0; n < FATTN_PROMPT_TILE/8; ++n) { max = fmaxf(max, fmaxf(s[i][n][2*h], s[i][n][2*h + 1])); }
            max = fmaxf(max, __shfl_xor_sync(~0u, max, 1, 32));
            max = fmaxf(max, __shfl_xor_sync(~0u, max, 2, 32));
            factor[i][h] = exp2f((r.max[i][h] - max)*scale);
            changed = changed || max != r.max[i][h];
            r.max[i][h] = max;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < FATTN_PROMPT_TILE/8; ++n) {
                s[i][n][2*h]     = exp2f(s[i][n][2*h]*scale     - max*scale);
                s[i][n][2*h + 1] = exp2f(s[i][n][2*h + 1]*scale - max*scale);
                sum += s[i][n][2*h] + s[i][n][2*h + 1];
            }
            r.sum[i][h] = r.sum[i][h]*factor[i][h] + sum;
        }
    }
    if (__any_sync(~0u, changed)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int n = 0; n < D/8; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) { r.o[i][n][e] *= factor[i][e/2]; }
            }
        }
    }
}

template <int D>
static __device__ __forceinline__ void prompt_values(prompt_rows<D> & r, const float (&s)[2][FATTN_PROMPT_TILE/8][4], const prompt_tile<D> & v) {
    const int lane = threadIdx.x;
    const uint32_t row_v = shared_address(v.data) + v.at(lane%16, lane/16);
#pragma unroll
    for (int step = 0; step < FATTN_PROMPT_TILE/16; ++step) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) { a[i][e] = pack_half2(s[i][2*step + e/2][e%2*2], s[i][2*step + e/2][e%2*2 + 1]); }
        }
#pragma unroll
        for (int n = 0; n < D/16; ++n) {
            uint32_t b[4];
            load_matrices_transposed(b, (row_v ^ 32*n) + step*16*2*D);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_half(r.o[i][2*n],     a[i], b[0], b[1]);
                mma_half(r.o[i][2*n + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// Queries of `heads` heads and the tokens up to the last one, in halves; rows of others are zero. from: those of the block's first head and token
template <int D, int COLUMNS>
static __device__ __forceinline__ void load_queries(const prompt_tile<D> & q, const char * from, int nb01, int nb02, int last_token, int heads) {
    const int lane = threadIdx.x;
    if (lane >= D/4) { return; }
#pragma unroll 4
    for (int i = threadIdx.y; i < FATTN_PROMPT_ROWS; i += FATTN_PROMPT_WARPS) { // a row a warp
        const int token = i/COLUMNS, head = i%COLUMNS;
        const bool there = token <= last_token && head < heads;
        const float4 x = there ? *(const float4 *) (from + (int64_t) head*nb02 + (int64_t) token*nb01 + lane*16) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        *(uint2 *) (q.data + q.at(i, lane/2) + lane%2*8) = make_uint2(pack_half2(x.x, x.y), pack_half2(x.z, x.w));
    }
}

// What is summed up, divided by the sum if this block has seen the whole cache; else a part for flash_attn_combine_results.
// first_row: of the block's first token and head, of which a token has n_heads; sinks: of the block's heads, or null
template <int D, int COLUMNS>
static __device__ __forceinline__ void write_rows(const prompt_rows<D> & r, float * dst, float2 * dst_meta, int64_t first_row, int n_heads,
                                                  const float * sinks, float scale, int last_token, int heads) {
    const int lane = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = threadIdx.y*32 + i*16 + h*8 + lane/4, token = row/COLUMNS, head = row%COLUMNS;
            float max = r.max[i][h]*scale, sum = r.sum[i][h], factor = 1.0f;
            sum += __shfl_xor_sync(~0u, sum, 1, 32);
            sum += __shfl_xor_sync(~0u, sum, 2, 32);
            if (token > last_token || head >= heads) { continue; }
            if (sinks) {
                const float most = fmaxf(max, sinks[head]);
                factor = expf(max - most);
                sum    = sum*factor + expf(sinks[head] - most);
                max    = most;
            }
            const int64_t part = (first_row + (int64_t) token*n_heads + head)*gridDim.y + blockIdx.y;
            if (gridDim.y == 1) {
                factor /= sum;
            } else if (lane%4 == 0) {
                dst_meta[part] = make_float2(max, sum);
            }
#pragma unroll
            for (int n = 0; n < D/8; ++n) {
                *(float2 *) (dst + part*D + n*8 + lane%4*2) = make_float2(r.o[i][n][2*h]*factor, r.o[i][n][2*h + 1]*factor);
            }
        }
    }
}

template <int D, int COLUMNS>
static __global__ void __launch_bounds__(FATTN_PROMPT_WARPS*32, 2) k_fattn_prompt(
        const char * __restrict__ Q, const char * __restrict__ K, const char * __restrict__ V, const char * __restrict__ mask, const char * __restrict__ sinks,
        const int * __restrict__ KV_max, float * __restrict__ dst, float2 * __restrict__ dst_meta, const float scale,
        const float, const float, const float, const uint32_t, const float,
        const int32_t, const uint3 ne01, const int32_t ne02, const int32_t, const int32_t nb01, const int32_t nb02, const int32_t nb03,
        const int32_t, const int32_t ne11, const int32_t ne12, const int32_t, const int32_t nb11, const int32_t nb12, const int64_t nb13,
        const int32_t nb21, const int32_t nb22, const int64_t nb23,
        const int32_t, const int32_t, const int32_t ne33, const int32_t nb31, const int32_t, const int64_t nb33) {
#ifdef FATTN_DECODE_AVAILABLE
    constexpr int TOKENS = FATTN_PROMPT_ROWS/COLUMNS, TILE = FATTN_PROMPT_TILE;
    extern __shared__ __align__(1024) char prompt_shared[];
    const prompt_tile<D>    q     = { prompt_shared }, k = { q.data + 2*FATTN_PROMPT_ROWS*D }, v = { k.data + 2*TILE*D };
    const prompt_tile<TILE> masks = { v.data + 2*TILE*D };

    const int n_tokens = (int) ne01.z, gqa = ne02/ne12, groups = (gqa + COLUMNS - 1)/COLUMNS;
    const int token0 = blockIdx.x*TOKENS, group = blockIdx.z % groups, head_kv = blockIdx.z/groups % ne12, seq = blockIdx.z/(groups*ne12);
    const int head0 = head_kv*gqa + group*COLUMNS, heads = min(COLUMNS, gqa - group*COLUMNS);
    const char * from_k = K + seq*nb13 + (int64_t) head_kv*nb12, * from_v = V + seq*nb23 + (int64_t) head_kv*nb22;
    const char * from_mask = mask + (seq % ne33)*nb33 + (int64_t) token0*nb31;
    const int last_token = n_tokens - 1 - token0;

    ggml_cuda_pdl_sync();
    const int end = KV_max ? KV_max[seq*gridDim.x + blockIdx.x] : ne11, step = gridDim.y*TILE;
    int first = blockIdx.y*TILE;
    const auto load_k = [&](int at) {
        k.template load<TILE>(from_k + (int64_t) at*nb11, nb11);
        masks.template load<TOKENS, true>(from_mask + (int64_t) at*2, nb31, last_token);
    };
    if (first < end) { load_k(first); }
    load_queries<D, COLUMNS>(q, Q + seq*(int64_t) nb03 + (int64_t) head0*nb02 + (int64_t) token0*nb01, nb01, nb02, last_token, heads);

    prompt_rows<D> r;
    r.clear();
    const float scale_log2 = scale*1.44269504f;

    for (; first < end; first += step) {
        wait_for_copies<0>();
        __syncthreads(); // K and its mask are there, and nobody reads the V ahead any more
        v.template load<TILE>(from_v + (int64_t) first*nb21, nb21);
        bool adds, hides;
        look_at_mask<COLUMNS>(masks, adds, hides);
        float s[2][TILE/8][4];
        if (!hides) {
            prompt_scores<D>(s, q, k);
            if (adds) { add_mask<COLUMNS>(s, masks, 1.0f/scale); }
        }
        wait_for_copies<0>();
        __syncthreads(); // V is there, and nobody reads K any more
        if (first + step < end) { load_k(first + step); }
        if (!hides) {
            prompt_softmax<D>(s, r, scale_log2);
            prompt_values<D>(r, s, v);
        }
    }

    const int64_t first_row = ((int64_t) seq*n_tokens + token0)*ne02 + head0;
    write_rows<D, COLUMNS>(r, dst, dst_meta, first_row, ne02, sinks && blockIdx.y == 0 ? (const float *) sinks + head0 : nullptr, scale, last_token, heads);
#else
    GGML_UNUSED_VARS(Q, K, V, mask, sinks, KV_max, dst, dst_meta, scale, ne01, ne02, nb01, nb02, nb03, ne11, ne12, nb11, nb12, nb13, nb21, nb22, nb23, ne33, nb31, nb33);
    NO_DEVICE_CODE;
#endif // FATTN_DECODE_AVAILABLE
}
