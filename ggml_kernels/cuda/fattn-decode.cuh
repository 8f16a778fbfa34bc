#pragma once

// FLASH_ATTN_EXT for a few queries on a packed K/V cache, by tensor cores, without an f16 copy of the cache.
//
// A warp owns one KV head (and all queries of its GQA group) and walks over positions, 16 at a time:
//   S^T [16 pos x 8 q] = K [16 x D] Q^T [D x 8]        mma.m16n8k16, A = codes of K made into halves in registers
//   P   = exp(S - max), times V's scale, transposed by movmatrix
//   O^T [D x 8 q]     += V^T [D x 16 pos] P            A = codes of V, two positions interleaved by byte shuffles
//
// Codes become halves without arithmetic: a byte u under the exponent 0x64 is the half 1024 + u. The constant part of all
// products, (1024 + bias) * sum(q), is taken off once per block. The order of the values inside of a row is whatever the
// packed format gives; Q is loaded, and O is written, in the same order.

#include <cuda_fp16.h>
#include <stdint.h>

struct fattn_decode_params {
    const char  * q;
    const char  * k;
    const char  * v;
    const char  * mask;      // half, or null
    float       * part;      // [seq][head][q][split][D]
    float2      * meta;      // [seq][head][q][split]: max (log2 domain), sum
    float scale, softcap, max_bias, m0, m1;
    int   n_head_log2;
    int   n_q, n_kv, n_head, n_head_kv, gqa, n_splits;
    int   nbq1, nbq2;  int64_t nbq3;
    int   nbk1, nbk2;  int64_t nbk3;
    int   nbv1, nbv2;  int64_t nbv3;
    int   nbm1;        int64_t nbm3;
    int   seq_k, seq_v, seq_m; // sequences of K, V and mask, which q's are broadcast over
};

// ---- loaders ----------------------------------------------------------------------------------------------------------
// A row segment in shared memory starts at a multiple of 2 bytes. Per type:
//   BLOCK     values under one scale          BIAS   what is added to an entry to make it the unsigned byte
//   BYTES     bytes per BLOCK                 chunk  8 values of a row as 2 x 4 unsigned bytes
//   index     which value of the row the e-th value of a chunk is

// __byte_perm clears the sign bits of the selector first, an instruction each time; here they are clear by construction
__device__ __forceinline__ uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t sel) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sel));
    return d;
}

// PAR is the parity of the address in half words: 0 or 2, or anything else if it is known only at run time
__device__ __forceinline__ uint32_t smem_u32(const char * p, int par, int shift = 0) {
    if (par == 0) {
        return *(const uint32_t *) p >> shift;
    }
    if (par != 2) {
        const int q = (int) __cvta_generic_to_shared(p) & 2;
        const uint32_t * w = (const uint32_t *) (p - q);
        return __funnelshift_r(w[0], w[1], q*8) >> shift;
    }
    const uint32_t * w = (const uint32_t *) (p - 2);
    return __funnelshift_r(w[0], w[1], 16 + shift); // the bits above are of the next word: masked off by who shifts
}

// the parity of row + off, where the row's is known
__device__ __forceinline__ constexpr int parity(int row_par, int off) { return row_par < 0 ? -1 : (row_par + off) & 2; }

__device__ __forceinline__ float smem_half(const char * p) {
    return __half2float(*(const half *) p);
}

struct load_q4_0 {
    static constexpr int BLOCK = 32, BYTES = 18, BIAS = 8, K_BIAS = 8;
    static constexpr float UNIT = 1.0f;
    template <bool SIGNED> __device__ static __forceinline__ void chunk(const char * row, int, int b, int j, const uint32_t *, uint32_t & lo, uint32_t & hi) {
        const uint32_t w = smem_u32(row + b*BYTES + 2 + j*4, -1);
        lo = w & 0x0f0f0f0f;
        hi = (w >> 4) & 0x0f0f0f0f;
    }
    __device__ static int index(int b, int j, int e) { return b*32 + j*4 + (e & 3) + (e >> 2)*16; }
};

struct load_q8_0 {
    static constexpr int BLOCK = 32, BYTES = 34, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = 1.0f;
    template <bool SIGNED> __device__ static __forceinline__ void chunk(const char * row, int, int b, int j, const uint32_t *, uint32_t & lo, uint32_t & hi) {
        const char * p = row + b*BYTES + 2 + j*8;
        const int par = (int) __cvta_generic_to_shared(p) & 2;
        const uint32_t * w = (const uint32_t *) (p - par);
        const uint32_t w1 = w[1];
        lo = __funnelshift_r(w[0], w1, par*8) ^ (SIGNED ? 0 : 0x80808080);
        hi = __funnelshift_r(w1, w[2], par*8) ^ (SIGNED ? 0 : 0x80808080);
    }
    __device__ static int index(int b, int j, int e) { return b*32 + j*8 + e; }
};

// books of unsigned bytes in shared memory: 8 x 16 bytes, which is one row of banks
struct load_turbo4 {
    static constexpr int BLOCK = 64, BYTES = 34, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = 1.0f/128;
    template <bool SIGNED> __device__ static __forceinline__ void chunk(const char * row, int row_par, int b, int j, const uint32_t * books, uint32_t & lo, uint32_t & hi) {
        const uint4    t = ((const uint4 *) books)[*(const uint16_t *) (row + b*BYTES) & 7];
        const uint32_t w = smem_u32(row + b*BYTES + 2 + j*4, parity(row_par, b*BYTES + 2));
        const uint32_t sel  = w & 0x77777777;
        const uint32_t half = ((w >> 1) & 0x44444444) | 0x32103210;
        lo = byte_perm(byte_perm(t.x, t.y, sel),       byte_perm(t.z, t.w, sel),       half);
        hi = byte_perm(byte_perm(t.x, t.y, sel >> 16), byte_perm(t.z, t.w, sel >> 16), half >> 16);
    }
    __device__ static int index(int b, int j, int e) { return b*64 + j*4 + (e >> 1) + (e & 1)*32; }
};

struct load_turbo3 {
    static constexpr int BLOCK = 64, BYTES = 26, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = 1.0f/128;
    template <bool SIGNED> __device__ static __forceinline__ void chunk(const char * row, int row_par, int b, int j, const uint32_t * books, uint32_t & lo, uint32_t & hi) {
        const uint2 t = ((const uint2 *) books)[*(const uint16_t *) (row + b*BYTES) & 7];
        const int k = j >> 1, odd = j & 1;
        const uint32_t w = smem_u32(row + b*BYTES + 2 + k*4, parity(row_par, b*BYTES + 2), 2*odd);
        const uint32_t h = smem_u32(row + b*BYTES + 18 + (k & 1)*4, parity(row_par, b*BYTES + 18), 2*(k >> 1)) << (2 - odd);
        const uint32_t sel = (w & 0x33333333) | (h & 0x44444444);
        lo = byte_perm(t.x, t.y, sel);
        hi = byte_perm(t.x, t.y, sel >> 16);
    }
    __device__ static int index(int b, int j, int e) { return b*64 + (j >> 1)*4 + (j & 1)*16 + (e >> 1) + (e & 1)*32; }
};

template <typename L> __device__ __forceinline__ float block_scale(const char * row, int b) { return smem_half(row + b*L::BYTES); }

// ---- pieces -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_half2(float lo, float hi) {
    const half2 h = __floats2half2_rn(lo, hi);
    return *(const uint32_t *) &h;
}

__device__ __forceinline__ void mma_16832(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void barrier_init(uint64_t * b, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"((uint32_t) __cvta_generic_to_shared(b)), "r"(arrivals));
}

__device__ __forceinline__ void barrier_arrive(uint64_t * b) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"((uint32_t) __cvta_generic_to_shared(b)) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t * b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"((uint32_t) __cvta_generic_to_shared(b)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t * b, uint32_t phase) {
    asm volatile("{ .reg .pred p; WAIT_%=: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra DONE_%=; bra WAIT_%=; DONE_%=: }"
        :: "r"((uint32_t) __cvta_generic_to_shared(b)), "r"(phase) : "memory");
}

__device__ __forceinline__ void copy_bulk(void * dst, const void * src, uint32_t bytes, uint64_t * b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :: "r"((uint32_t) __cvta_generic_to_shared(dst)), "l"(src), "r"(bytes), "r"((uint32_t) __cvta_generic_to_shared(b)) : "memory");
}

// ---- kernel -----------------------------------------------------------------------------------------------------------
// grid (splits, head groups, sequences); a warp per KV head of the group. NT column tiles of 8 (query, head) pairs.

template <int D, typename LK, typename LV, int NT, int HEADS, int TILE, bool PLAIN, int MIN_BLOCKS>
__global__ void __launch_bounds__(HEADS*32, MIN_BLOCKS)
fattn_decode(const fattn_decode_params p, const uint4 * __restrict__ books_k, const uint4 * __restrict__ books_v) {
    constexpr int ROW_K = D/LK::BLOCK*LK::BYTES, ROW_V = D/LV::BLOCK*LV::BYTES;
    constexpr int STRIDE_K = HEADS*ROW_K + 16,   STRIDE_V = HEADS*ROW_V + 16; // padded against bank conflicts
    constexpr int CHUNKS = D/8, NBK = D/LK::BLOCK, NBV = D/LV::BLOCK;
    constexpr int STEPS = TILE/16;
    constexpr int PAR_K = ROW_K % 4 == 0 ? 0 : -1, PAR_V = ROW_V % 4 == 0 ? 0 : -1;
    // a block of V that covers all rows of a tile lends its scale to P; smaller blocks are scaled value by value
    constexpr bool SCALE_P = LV::BLOCK >= 64;
    constexpr int  NPB     = SCALE_P ? NBV : 1;

    extern __shared__ __align__(16) char smem[];
    uint4 * s_books_k = (uint4 *) smem;
    uint4 * s_books_v = s_books_k + 8;
    char  * tiles     = smem + 256 + 64;
    constexpr int STAGES = 3;
    constexpr int MASK_ROWS = NT*8; // no more queries than columns
    constexpr int STAGE = TILE*(STRIDE_K + STRIDE_V) + MASK_ROWS*TILE*2;

    const int warp = threadIdx.x/32, lane = threadIdx.x%32, g = lane/4, t = lane%4;
    const int split = blockIdx.x, head_kv = blockIdx.y*HEADS + warp, seq = blockIdx.z;

    if (threadIdx.x < 8)                          { s_books_k[threadIdx.x]     = books_k[threadIdx.x]; }
    else if (threadIdx.x >= 32 && threadIdx.x < 40) { s_books_v[threadIdx.x - 32] = books_v[threadIdx.x - 32]; }

    const int tiles_all = (p.n_kv + TILE - 1)/TILE;
    const int tile0 = (int) ((int64_t) tiles_all*split/p.n_splits);
    const int tile1 = (int) ((int64_t) tiles_all*(split + 1)/p.n_splits);

    const char * kbase = p.k + (int64_t) (seq%p.seq_k)*p.nbk3 + (int64_t) blockIdx.y*HEADS*p.nbk2;
    const char * vbase = p.v + (int64_t) (seq%p.seq_v)*p.nbv3 + (int64_t) blockIdx.y*HEADS*p.nbv2;

    // Three stages: a warp that is ahead refills the stage before the last, which the others have left by then.
    uint64_t * ready = (uint64_t *) (smem + 256); // filled, one per stage
    uint64_t * free_ = ready + STAGES;            // read by all warps
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&ready[i], 1);
            barrier_init(&free_[i], HEADS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    // each warp copies its share of the rows, of K and of V, for all heads of the group: one warp alone would hold up the others
    auto load_tile = [&](int tile, int stage) {
        constexpr int ROWS = TILE/HEADS;
        static_assert(TILE % HEADS == 0 && ROWS <= 16, "a half warp has a lane for each row");
        char * dk = tiles + stage*STAGE;
        char * dv = dk + TILE*STRIDE_K;
        if (threadIdx.x == 0) { barrier_expect(&ready[stage], TILE*HEADS*(ROW_K + ROW_V) + (p.mask ? p.n_q*TILE*2 : 0)); }
        if (warp == 0 && lane < p.n_q && p.mask) {
            copy_bulk(dv + TILE*STRIDE_V + lane*TILE*2,
                p.mask + (int64_t) (seq%p.seq_m)*p.nbm3 + (int64_t) lane*p.nbm1 + (int64_t) tile*TILE*2, TILE*2, &ready[stage]);
        }
        const int r = warp*ROWS + lane%16;
        if (lane%16 < ROWS) {
            const int64_t pos = min(tile*TILE + r, p.n_kv - 1);
            if (lane < 16) {
                copy_bulk(dk + r*STRIDE_K, kbase + pos*p.nbk1, HEADS*ROW_K, &ready[stage]);
            } else {
                copy_bulk(dv + r*STRIDE_V, vbase + pos*p.nbv1, HEADS*ROW_V, &ready[stage]);
            }
        }
    };

    // Q^T as B fragments in K's order: column n is (query n / gqa, head n % gqa). int16 as two int8 parts, one scale a column.
    constexpr float LOG2E = 1.44269504f;
    constexpr int PER_BLOCK = LK::BLOCK/32;
    const int ncols = p.n_q*p.gqa;
    uint32_t q[NT][CHUNKS/4][2][2]; // [.][.][high, low][values 0-3, 4-7]
    float qscale[NT][2];            // of columns 2t, 2t + 1
    int   qsum[NT][NBK][2];         // what the bias of K's bytes contributes to them
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        const int col = min(n*8 + g, ncols - 1);
        const float * src = (const float *) (p.q + (int64_t) (col/p.gqa)*p.nbq1 + (int64_t) (head_kv*p.gqa + col%p.gqa)*p.nbq2 + seq*p.nbq3);
        float peak = 0.0f;
        for (int i = 0; i < D/4; ++i) { peak = fmaxf(peak, fabsf(src[i*4 + t])); }
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
        const float inv = peak > 0.0f ? 32512.0f/peak : 0.0f;
        int sum[NBK];
#pragma unroll
        for (int b = 0; b < NBK; ++b) { sum[b] = 0; }
#pragma unroll
        for (int i = 0; i < CHUNKS/4; ++i) {
#pragma unroll
            for (int w = 0; w < 2; ++w) {
                uint32_t high = 0, low = 0;
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int x = __float2int_rn(src[LK::index(i/PER_BLOCK, i%PER_BLOCK*4 + t, w*4 + e)]*inv);
                    const int h = (x + 128) >> 8;
                    high |= (uint32_t) (h & 0xff) << 8*e;
                    low  |= (uint32_t) ((x - 256*h) & 0xff) << 8*e;
                    sum[i/PER_BLOCK] += x;
                }
                q[n][i][0][w] = high;
                q[n][i][1][w] = low;
            }
        }
        const float scale = peak/32512.0f*LK::UNIT*(PLAIN || p.softcap == 0.0f ? p.scale*LOG2E : p.scale/p.softcap);
        qscale[n][0] = __shfl_sync(~0u, scale, 8*t);
        qscale[n][1] = __shfl_sync(~0u, scale, 8*t + 4);
#pragma unroll
        for (int b = 0; b < NBK; ++b) {
            sum[b] += __shfl_xor_sync(~0u, sum[b], 1);
            sum[b] += __shfl_xor_sync(~0u, sum[b], 2); // of column g
            qsum[n][b][0] = __shfl_sync(~0u, sum[b], 8*t)    *LK::K_BIAS;
            qsum[n][b][1] = __shfl_sync(~0u, sum[b], 8*t + 4)*LK::K_BIAS;
        }
    }

    float o[NT][CHUNKS/2][4];
    float vbias[NT][NPB][4]; // sums of P, by a product with ones
    float m[NT][2], l[NT][2];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        m[n][0] = m[n][1] = -1e30f; l[n][0] = l[n][1] = 0.0f;
#pragma unroll
        for (int b = 0; b < NPB; ++b) { vbias[n][b][0] = vbias[n][b][1] = vbias[n][b][2] = vbias[n][b][3] = 0.0f; }
#pragma unroll
        for (int i = 0; i < CHUNKS/2; ++i) { o[n][i][0] = o[n][i][1] = o[n][i][2] = o[n][i][3] = 0.0f; }
    }

    // the mask rows of columns 2t and 2t + 1; PLAIN masks hold 0 and -inf, so they need no factor
    int mask_row[NT][2];
    float slope[NT][2];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int col = min(n*8 + 2*t + j, ncols - 1);
            const int h = head_kv*p.gqa + col%p.gqa;
            mask_row[n][j] = col/p.gqa*TILE + g;
            slope[n][j] = LOG2E;
            if (!PLAIN && p.max_bias != 0.0f) { slope[n][j] *= h < p.n_head_log2 ? powf(p.m0, h + 1) : powf(p.m1, 2*(h - p.n_head_log2) + 1); }
        }
    }

    __syncthreads(); // books and barriers
    if (tile0     < tile1) { load_tile(tile0,     0); }
    if (tile0 + 1 < tile1) { load_tile(tile0 + 1, 1); }
    int stage = 0, turn = 0; // turn: how often the stages were gone through
    for (int tile = tile0; tile < tile1; ++tile) {
        barrier_wait(&ready[stage], turn & 1);
        const bool last = (tile + 1)*TILE > p.n_kv;
        const char * tk = tiles + stage*STAGE + warp*ROW_K;
        const char * tv = tiles + stage*STAGE + TILE*STRIDE_K + warp*ROW_V;
        const half * tm = (const half *) (tiles + stage*STAGE + TILE*(STRIDE_K + STRIDE_V));

        // scores
        float s[NT][STEPS][4];
#pragma unroll
        for (int st = 0; st < STEPS; ++st) {
            const char * r0 = tk + (st*16 + g)*STRIDE_K;
            const char * r1 = r0 + 8*STRIDE_K;
#pragma unroll
            for (int n = 0; n < NT; ++n) { s[n][st][0] = s[n][st][1] = s[n][st][2] = s[n][st][3] = 0.0f; }
#pragma unroll
            for (int b = 0; b < NBK; ++b) {
                int high[NT][4], low[NT][4];
#pragma unroll
                for (int n = 0; n < NT; ++n) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) { high[n][e] = low[n][e] = 0; }
                }
#pragma unroll
                for (int i = 0; i < PER_BLOCK; ++i) {
                    uint32_t lo0, hi0, lo1, hi1;
                    LK::template chunk<true>(r0, PAR_K, b, i*4 + t, (const uint32_t *) s_books_k, lo0, hi0);
                    LK::template chunk<true>(r1, PAR_K, b, i*4 + t, (const uint32_t *) s_books_k, lo1, hi1);
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
                        const int c = b*PER_BLOCK + i;
                        mma_16832(high[n], lo0, lo1, hi0, hi1, q[n][c][0][0], q[n][c][0][1]);
                        mma_16832(low[n],  lo0, lo1, hi0, hi1, q[n][c][1][0], q[n][c][1][1]);
                    }
                }
                const float d0 = block_scale<LK>(r0, b), d1 = block_scale<LK>(r1, b);
#pragma unroll
                for (int n = 0; n < NT; ++n) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        s[n][st][e] += (e < 2 ? d0 : d1)*(float) (high[n][e]*256 + low[n][e] - qsum[n][b][e & 1]);
                    }
                }
            }
        }

        // cap, mask, maximum
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            float mx0 = m[n][0], mx1 = m[n][1];
#pragma unroll
            for (int st = 0; st < STEPS; ++st) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    float x0 = s[n][st][2*r]*qscale[n][0], x1 = s[n][st][2*r + 1]*qscale[n][1];
                    if (!PLAIN && p.softcap != 0.0f) {
                        x0 = p.softcap*LOG2E*tanhf(x0);
                        x1 = p.softcap*LOG2E*tanhf(x1);
                    }
                    if (p.mask) { // rows of the mask are as long as the tiles, or -inf follows
                        const float m0 = __half2float(tm[mask_row[n][0] + st*16 + r*8]);
                        const float m1 = p.n_q == 1 ? m0 : __half2float(tm[mask_row[n][1] + st*16 + r*8]);
                        x0 = fmaxf(PLAIN ? x0 + m0 : x0 + m0*slope[n][0], -1e30f);
                        x1 = fmaxf(PLAIN ? x1 + m1 : x1 + m1*slope[n][1], -1e30f);
                    }
                    s[n][st][2*r]     = x0;
                    s[n][st][2*r + 1] = x1;
                }
            }
            if (last) {
#pragma unroll
                for (int i = 0; i < STEPS*4; ++i) {
                    if (tile*TILE + i/4*16 + g + (i%4/2)*8 >= p.n_kv) { s[n][i/4][i%4] = -1e30f; }
                }
            }
#pragma unroll
            for (int i = 0; i < STEPS*2; ++i) {
                mx0 = fmaxf(mx0, s[n][i/2][i%2*2]);
                mx1 = fmaxf(mx1, s[n][i/2][i%2*2 + 1]);
            }
#pragma unroll
            for (int w = 4; w < 32; w *= 2) {
                mx0 = fmaxf(mx0, __shfl_xor_sync(~0u, mx0, w));
                mx1 = fmaxf(mx1, __shfl_xor_sync(~0u, mx1, w));
            }
            if (__any_sync(~0u, mx0 > m[n][0] || mx1 > m[n][1])) {
                const float f0 = exp2f(m[n][0] - mx0), f1 = exp2f(m[n][1] - mx1);
                m[n][0] = mx0; m[n][1] = mx1;
                l[n][0] *= f0; l[n][1] *= f1;
#pragma unroll
                for (int b = 0; b < NPB; ++b) { vbias[n][b][0] *= f0; vbias[n][b][1] *= f1; }
#pragma unroll
                for (int i = 0; i < CHUNKS/2; ++i) { o[n][i][0] *= f0; o[n][i][1] *= f1; o[n][i][2] *= f0; o[n][i][3] *= f1; }
            }
        }

        // values
#pragma unroll
        for (int st = 0; st < STEPS; ++st) {
            uint32_t pb[NT][NPB][2];
            const char * r0 = tv + (st*16 + g)*STRIDE_V;
            const char * r1 = r0 + 8*STRIDE_V;
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                float e[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    e[i] = s[n][st][i] <= -1e29f ? 0.0f : exp2f(s[n][st][i] - m[n][i & 1]);
                    l[n][i & 1] += e[i];
                }
#pragma unroll
                for (int b = 0; b < NPB; ++b) {
                    const float d0 = SCALE_P ? block_scale<LV>(r0, b) : 1.0f, d1 = SCALE_P ? block_scale<LV>(r1, b) : 1.0f;
                    const half2 h0 = __floats2half2_rn(e[0]*d0, e[1]*d0), h1 = __floats2half2_rn(e[2]*d1, e[3]*d1);
                    pb[n][b][0] = transpose_8x8(*(const uint32_t *) &h0);
                    pb[n][b][1] = transpose_8x8(*(const uint32_t *) &h1);
                    if (SCALE_P) {
                        const uint32_t ones[4] = { 0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00 };
                        mma_16816(vbias[n][b], ones, pb[n][b][0], pb[n][b][1]);
                    }
                }
            }
            const char * v0 = tv + (st*16 + 2*t)*STRIDE_V;
#pragma unroll
            for (int i = 0; i < CHUNKS/8; ++i) {
                uint32_t x[4][2]; // positions 2t, 2t+1, 2t+8, 2t+9
                const int b = SCALE_P ? i : i*2 + (g >> 2), j = SCALE_P ? g : g & 3;
                half2 d01, d23, m01, m23;
                if constexpr (!SCALE_P) {
                    const half2 unbias = __float2half2_rn(-(1024.0f + LV::BIAS));
                    d01 = __floats2half2_rn(block_scale<LV>(v0, b),              block_scale<LV>(v0 +   STRIDE_V, b));
                    d23 = __floats2half2_rn(block_scale<LV>(v0 + 8*STRIDE_V, b), block_scale<LV>(v0 + 9*STRIDE_V, b));
                    m01 = m23 = unbias;
                }
                LV::template chunk<false>(v0,              PAR_V, b, j, (const uint32_t *) s_books_v, x[0][0], x[0][1]);
                LV::template chunk<false>(v0 +   STRIDE_V, PAR_V, b, j, (const uint32_t *) s_books_v, x[1][0], x[1][1]);
                LV::template chunk<false>(v0 + 8*STRIDE_V, PAR_V, b, j, (const uint32_t *) s_books_v, x[2][0], x[2][1]);
                LV::template chunk<false>(v0 + 9*STRIDE_V, PAR_V, b, j, (const uint32_t *) s_books_v, x[3][0], x[3][1]);
#pragma unroll
                for (int w = 0; w < 2; ++w) {
#pragma unroll
                    for (int pair = 0; pair < 2; ++pair) {
                        const uint32_t y0 = byte_perm(x[0][w], x[1][w], pair ? 0x7362 : 0x5140); // v0[e], v1[e], v0[e+1], v1[e+1]
                        const uint32_t y1 = byte_perm(x[2][w], x[3][w], pair ? 0x7362 : 0x5140);
                        uint32_t a[4] = { byte_perm(y0, 0x64646464, 0x4140), byte_perm(y0, 0x64646464, 0x4342),
                                          byte_perm(y1, 0x64646464, 0x4140), byte_perm(y1, 0x64646464, 0x4342) };
                        if constexpr (!SCALE_P) { // exact: small integers, then one rounding
#pragma unroll
                            for (int r = 0; r < 4; ++r) {
                                half2 & h = *(half2 *) &a[r];
                                h = __hmul2(__hadd2(h, r < 2 ? m01 : m23), r < 2 ? d01 : d23);
                            }
                        }
#pragma unroll
                        for (int n = 0; n < NT; ++n) {
                            mma_16816(o[n][i*4 + w*2 + pair], a, pb[n][SCALE_P ? i*64/LV::BLOCK : 0][0], pb[n][SCALE_P ? i*64/LV::BLOCK : 0][1]);
                        }
                    }
                }
            }
        }
        __syncwarp();
        if (lane == 0) { barrier_arrive(&free_[stage]); }
        const int before = stage == 0 ? STAGES - 1 : stage - 1;
        if (tile + 2 < tile1) {
            if (tile > tile0) { barrier_wait(&free_[before], (stage == 0 ? turn - 1 : turn) & 1); }
            load_tile(tile + 2, before);
        }
        if (++stage == STAGES) { stage = 0; ++turn; }
    }

    // O^T rows g, g + 8 of tile (i, w, pair) are values 4w + 2pair and 4w + 2pair + 1 of chunk 8i + g; columns 2t, 2t + 1
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int w = 4; w < 32; w *= 2) {
            l[n][0] += __shfl_xor_sync(~0u, l[n][0], w);
            l[n][1] += __shfl_xor_sync(~0u, l[n][1], w);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int col = n*8 + 2*t + j;
            if (col >= ncols) { continue; }
            const int head = head_kv*p.gqa + col%p.gqa;
            const int64_t row = (((int64_t) seq*p.n_head + head)*p.n_q + col/p.gqa)*p.n_splits + split;
            float * out = p.part + row*D;
#pragma unroll
            for (int i = 0; i < CHUNKS/2; ++i) {
                const int b = SCALE_P ? i/4 : (i/4)*2 + (g >> 2), k = SCALE_P ? g : g & 3, e = (i%4)*2;
                const float bias = SCALE_P ? vbias[n][SCALE_P ? (i/4)*64/LV::BLOCK : 0][j]*(1024.0f + LV::BIAS) : 0.0f;
                out[LV::index(b, k, e)]     = (o[n][i][j]     - bias)*LV::UNIT;
                out[LV::index(b, k, e + 1)] = (o[n][i][j + 2] - bias)*LV::UNIT;
            }
            if (g == 0) { p.meta[row] = make_float2(m[n][j], l[n][j]); }
        }
    }
}

// one block per (sequence, head, query): combines the splits
template <int D>
__global__ void __launch_bounds__(1024) fattn_decode_combine(
        const float * __restrict__ part, const float2 * __restrict__ meta, float * __restrict__ dst, int n_splits, int n_head, int n_q,
        const float * __restrict__ sinks) {
    const int row = blockIdx.x; // [seq][head][q]; blockIdx.y takes 32 of the D values
    const int iq = row%n_q, head = row/n_q%n_head, seq = row/n_q/n_head;
    constexpr int LANES = 8;
    const int GROUPS = blockDim.x/LANES;
    const int lane = threadIdx.x%LANES, group = threadIdx.x/LANES;
    meta += (int64_t) row*n_splits;
    constexpr float LOG2E = 1.44269504f;
    extern __shared__ float weights[]; // [n_splits]
    __shared__ float s_max[32];
    float mx = sinks ? sinks[head]*LOG2E : -1e30f;
    for (int i = threadIdx.x; i < n_splits; i += blockDim.x) { mx = fmaxf(mx, meta[i].x); }
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, w)); }
    if (threadIdx.x%32 == 0) { s_max[threadIdx.x/32] = mx; }
    __syncthreads();
    for (int i = 0; i < (int) blockDim.x/32; ++i) { mx = fmaxf(mx, s_max[i]); }
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n_splits; i += blockDim.x) {
        const float2 ml = meta[i];
        const float w = exp2f(ml.x - mx);
        weights[i] = w;
        sum += w*ml.y;
    }
    __syncthreads();
    float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int i = group; i < n_splits; i += GROUPS) {
        const float w = weights[i];
        const float4 x = ((const float4 *) (part + ((int64_t) row*n_splits + i)*D + blockIdx.y*32))[lane];
        acc.x += w*x.x; acc.y += w*x.y; acc.z += w*x.z; acc.w += w*x.w;
    }
#pragma unroll
    for (int w = 1; w < 32; w *= 2) { sum += __shfl_xor_sync(~0u, sum, w); }
    __shared__ float4 s_acc[32*LANES];
    __shared__ float  s_sum[32];
#pragma unroll
    for (int w = LANES; w < 32; w *= 2) {
        acc.x += __shfl_xor_sync(~0u, acc.x, w);
        acc.y += __shfl_xor_sync(~0u, acc.y, w);
        acc.z += __shfl_xor_sync(~0u, acc.z, w);
        acc.w += __shfl_xor_sync(~0u, acc.w, w);
    }
    if (threadIdx.x%32 < LANES) { s_acc[threadIdx.x/32*LANES + lane] = acc; }
    if (threadIdx.x%32 == 0) { s_sum[threadIdx.x/32] = sum; }
    __syncthreads();
    if (group == 0) {
        for (int i = 1; i < (int) blockDim.x/32; ++i) {
            const float4 x = s_acc[i*LANES + lane];
            acc.x += x.x; acc.y += x.y; acc.z += x.z; acc.w += x.w;
        }
        sum = sinks ? exp2f(sinks[head]*LOG2E - mx) : 0.0f;
        for (int i = 0; i < (int) blockDim.x/32; ++i) { sum += s_sum[i]; }
        const float inv = sum > 0.0f ? 1.0f/sum : 0.0f;
        ((float4 *) (dst + (((int64_t) seq*n_q + iq)*n_head + head)*D + blockIdx.y*32))[lane] = make_float4(acc.x*inv, acc.y*inv, acc.z*inv, acc.w*inv);
    }
}
