#pragma once

// What a warp needs of its columns, its (query, head) pairs: the queries as fragments, and what their scores are multiplied by.

#include "fattn-decode-place.cuh"
#include "fattn-decode-ptx.cuh"
#include "fattn-decode-query.cuh"

#include <type_traits>

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

// Queries in shared memory: packed beforehand and fetched for all heads of the block, or packed by each warp for its own.
template <int D, typename LK>
struct packed_queries {
    static constexpr int BYTES = packed_query_bytes(D);

    char     * at;
    uint64_t * ready;

    __device__ __forceinline__ void init() const {
        if (threadIdx.x == 0) { barrier_init(ready, blockDim.x); }
    }

    // one query: the rows of the group's heads adjoin
    __device__ __forceinline__ void fetch(const fattn_decode_params & p, const warp_place & place, int n_heads) const {
        const char * from = p.packed_q + ((int64_t) place.seq*p.n_head + place.group*n_heads*p.gqa)*BYTES;
        for (int i = threadIdx.x*16; i < n_heads*p.gqa*BYTES; i += blockDim.x*16) { copy_16(at + i, from + i); }
        barrier_arrive_after_copies(ready);
    }

    // from the first column of the head of `place`, one of the warp's per_warp
    __device__ __forceinline__ const char * of_head(const fattn_decode_params & p, const warp_place & place, int per_warp, int max_columns) const {
        if (p.packed_q) {
            barrier_wait(ready, 0);
            return at + place.head*p.gqa*BYTES;
        }
        char * packed = at + (place.warp*per_warp + place.head%per_warp)*max_columns*BYTES;
        constexpr int AHEAD = D <= 128 ? 4 : 2; // rows that are on their way together
        for (int first = 0; first < place.n_rows; first += AHEAD) {
            float x[AHEAD][D/32];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int col = place.col0 + min(first + i, place.n_rows - 1);
                load_row<D>(x[i], (const float *) (p.q + (int64_t) (col/p.gqa)*p.nbq1 + (int64_t) (place.head_kv*p.gqa + col%p.gqa)*p.nbq2 + place.seq*p.nbq3), place.lane);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (first + i < place.n_rows) { query_of<D, LK>::pack(packed + (first + i)*BYTES, x[i], peak_of_row<D>(x[i]), place.lane); }
            }
        }
        __syncwarp();
        return packed;
    }
};

// NT tiles of 8 columns; column n*8 + g is in the fragments of B, columns n*8 + 2t and 2t + 1 in those of C
template <int D, typename LK, int NT>
struct warp_columns {
    query_of<D, LK> query[NT];
    float factor[NT][2];  // of columns 2t, 2t + 1: from a product to the log2 domain
    float slope[NT][2];   // what the mask is multiplied by
    int   mask_at[NT][2]; // their first position in the tile's mask

    static __device__ __forceinline__ float slope_of(const fattn_decode_params & p, int head) {
        if (p.max_bias == 0.0f) {
            return FATTN_DECODE_LOG2E;
        }
        return FATTN_DECODE_LOG2E*(head < p.n_head_log2 ? powf(p.m0, head + 1) : powf(p.m1, 2*(head - p.n_head_log2) + 1));
    }

    // position: the lane's first in a tile
    __device__ __forceinline__ void find_mask(const fattn_decode_params & p, const warp_place & place, int tile, int position) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int c = place.col0 + min(n*8 + 2*place.t + j, place.n_rows - 1), iq = p.n_q == 1 ? 0 : c/p.gqa, h = place.head_kv*p.gqa + c - iq*p.gqa;
                mask_at[n][j] = (iq - place.q0)*tile + position;
                slope[n][j]   = slope_of(p, h);
            }
        }
    }

    // of one token, where a column is a head; its mask has one row, of which each tile has another part
    __device__ __forceinline__ void find_token_slopes(const fattn_decode_params & p, const warp_place & place) {
        static_assert(NT == 1, "a token has no more columns");
#pragma unroll
        for (int j = 0; j < 2; ++j) { slope[0][j] = slope_of(p, place.head_kv*p.gqa + min(2*place.t + j, place.n_rows - 1)); }
    }

    __device__ __forceinline__ void take(const fattn_decode_params & p, const warp_place & place, const char * packed) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            query[n].take(packed + min(n*8 + place.g, place.n_rows - 1)*packed_query_bytes(D), place.t);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const char * tail = packed + min(n*8 + 2*place.t + j, place.n_rows - 1)*packed_query_bytes(D) + 2*D;
                factor[n][j] = *(const float *) tail*(p.softcap == 0.0f ? p.scale*FATTN_DECODE_LOG2E : p.scale/p.softcap);
                if constexpr (!LK::HALF) { query[n].set_bias((const int *) (tail + 4), j); }
            }
        }
    }
};
