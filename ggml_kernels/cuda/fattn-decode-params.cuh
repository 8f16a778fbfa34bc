#pragma once

// What the host tells fattn-decode-kernel.cuh.

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) // they have it from common.cuh
#include <cuda_runtime.h>
#endif
#include <stdint.h>

// the position of a token in the cache
struct fattn_decode_index {
    const void * data;
    bool is_64; // int64, or int32
};

// One token, whose rows of K and V and whose queries are all that the launches ahead have to make: other tiles need not wait for them.
struct fattn_decode_token {
    fattn_decode_index idx[2]; // K, V; null: it is not known what they make
};

struct fattn_decode_params {
    const char  * q;
    const char  * packed_q;  // instead of q: [seq][head] packed queries, already rotated; one query a sequence, K of codes
    const char  * k;
    const char  * v;
    const char  * mask;      // half, or null; rows are 16-byte aligned and as long as the tiles need (fattn_short: 4-byte, of any length)
    // What is left to combine: [seq][head][q][part][D], and its maximum (log2 domain) and sum. A split leaves n_parts, or one, where its
    // warps add theirs up (block_shape::ONE_PART) and in a short context.
    float       * part;
    float2      * meta;
    float       * dst;
    const float * sinks;
    bool  rotate_dst;
    float scale, softcap, max_bias, m0, m1;
    int   n_head_log2;
    int   n_q, n_kv, n_head, gqa;
    int   n_splits;          // gridDim.x
    int   n_heads, n_parts;  // of a block: a warp has one of the parts of a head, or of two
    int   n_groups;          // gridDim.y is this times the tiles of columns
    int   n_stages;
    int   stride_k, stride_v;  // of a tile's rows in shared memory
    bool  whole_k, whole_v;  // a tile is one run of bytes: no row needs to be 16-byte aligned
    int   nbq1, nbq2;  int64_t nbq3;
    int64_t nbk1, nbk2, nbk3;
    int64_t nbv1, nbv2, nbv3;
    int   nbm1;        int64_t nbm3;
    int   seq_m;             // sequences of the mask, which serve Q's in turn
};

// below any score, and above minus infinity, which a masked position has: exp2 of their difference is 0, not a NaN
#define FATTN_DECODE_LOWEST (-1e29f)
#define FATTN_DECODE_LOG2E  1.44269504f

constexpr int FATTN_DECODE_MAX_STAGES = 3;
constexpr int FATTN_DECODE_HEADER     = 256 + 64; // books of K and V, seven barriers
constexpr int FATTN_DECODE_WARPS      = 8;        // at most

// the heads of a block that there are instances for, which know all strides at compile time: queries of one tile of columns
static __host__ __device__ constexpr bool fattn_decode_knows(int d, int heads) { return d == 128 ? heads == 8 : d == 64 && (heads == 8 || heads == 4); }

// positions a warp takes from a tile, in steps of 16: two, where three stages of them leave room for two blocks a multiprocessor
static __host__ __device__ constexpr int fattn_decode_steps(int row_k, int row_v) { return row_k + row_v <= 144 ? 2 : 1; }

// Heads that a warp has in such an instance, two where there is room for two steps of one: of those whose 64 values are one block, every other begins at half a word, so that each of
// its words has to be put together from two, unless it is known which heads these are. block_k, block_v: values of a block
static __host__ __device__ constexpr int fattn_decode_heads_per_warp(int d, int block_k, int block_v, int row_k, int row_v) {
    return d == 64 && (block_k == 64 || block_v == 64) && fattn_decode_steps(row_k, row_v) == 2 ? 2 : 1;
}

// between rows in shared memory, where they would begin at the same banks
static __host__ __device__ constexpr int fattn_decode_padding(int row) { return row % 32 == 0 ? 16 : 0; }

static __host__ __device__ constexpr int fattn_decode_mask_bytes(int n_tiles, int tile) { return n_tiles*8*tile*2; }

// a query in shared memory: its values, their unit, sums of blocks; padded against bank conflicts
static __host__ __device__ constexpr int packed_query_bytes(int d) { return 2*d + 48; }
