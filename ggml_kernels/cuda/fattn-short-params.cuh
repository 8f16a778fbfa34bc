#pragma once

// What the host tells fattn-short-kernel.cuh.

#include "attention-source.cuh"
#include "fattn-decode-params.cuh"

struct fattn_short_input {
    attention_source source; // x null: Q is where the op has it; K and V are in the cache
    int n_rot;               // size of the Hadamard matrix; 1: none
};

struct fattn_short_params {
    fattn_decode_params attention; // n_q is 1
    fattn_short_input   input[3];  // Q, K, V
    fattn_decode_index  idx[2];    // K, V; there, if input[1] is
    int        pieces, more;       // 16 positions each: of a block, and how many blocks, the first ones, have one more: the last has the token's own rows to make
    int        n_tiles, rows;      // of a block, and positions of each, whole pieces
    unsigned * tickets;            // [seq][KV head] blocks that are done; zero before and after
};

constexpr int FATTN_SHORT_MAX_SPLITS = 32; // a lane each

static __host__ __device__ constexpr int fattn_short_warps(int d) { return d <= 128 ? 16 : 8; } // registers

// The rows of one head start anywhere: what fills their first 16 bytes up, and their last, comes with them.
static __host__ __device__ constexpr int fattn_short_shift(int row)  { return 16 - (row%16 == 0 ? 16 : row%8 == 0 ? 8 : row%4 == 0 ? 4 : 2); } // at most
static __host__ __device__ constexpr int fattn_short_copied(int row) { return (fattn_short_shift(row) + row + 15)/16*16; }

// of rows in shared memory: four words past a multiple of eight, so that eight rows lie in different banks
static __host__ __device__ constexpr int fattn_short_stride(int row) { return (fattn_short_copied(row) + 15)/32*32 + 16; }

static __host__ __device__ constexpr int fattn_short_stage(int rows, int row_k, int row_v) {
    return rows*(fattn_short_stride(row_k) + fattn_short_stride(row_v) + 2); // and the mask
}

static __host__ __device__ constexpr int fattn_short_part_stride(int d) { return d + 4; } // floats, against bank conflicts

constexpr int FATTN_SHORT_MAX_ENCODERS = 24*1024; // bytes, at the beginning of shared memory

// after them books, a barrier, positions, packed queries, K and V of the token as floats and as the cache has them; then the stages
constexpr int FATTN_SHORT_BOOKS = 256 + 32;

static __host__ __device__ constexpr int fattn_short_header(int d, int row_k, int row_v, int gqa) {
    return FATTN_SHORT_BOOKS + (gqa*packed_query_bytes(d) + 15)/16*16 + 2*d*4 + (row_k + 15)/16*16 + (row_v + 15)/16*16;
}

// parts of the warps take the place of the tiles
static __host__ __device__ constexpr int fattn_short_parts(int d, int gqa) { return fattn_short_warps(d)*gqa*(fattn_short_part_stride(d)*4 + 8); }

// Shares positions among attention.n_splits blocks, each in as few tiles as two stages have room for: with no more than two, no copy waits for a stage
// to become free. A run that gives each warp no more than a piece is one tile, any other at least two, for the first is attended to while the second is on
// its way, and the warps that encode the token's own rows join at the second. Returns the bytes of shared memory, more than `room` where two tiles of a piece for each warp do not fit:
// with less the other kernels are kept, and whether they serve a context does not hang on how it is cut.
static inline int fattn_short_share(fattn_short_params & p, int d, int row_k, int row_v, int gqa, int n_kv, int room) {
    const int pieces = (n_kv + 15)/16, n_splits = p.attention.n_splits, least = fattn_short_warps(d);
    p.pieces = pieces/n_splits;
    p.more   = pieces%n_splits;
    const int longest = p.pieces + (p.more > 0);
    for (p.n_tiles = longest > least ? 2 : 1; ; ++p.n_tiles) {
        p.rows = (longest + p.n_tiles - 1)/p.n_tiles*16;
        const int height = p.n_tiles > 1 && p.rows < least*16 ? least*16 : p.rows;
        const int stages = (p.n_tiles > 1 ? 2 : 1)*fattn_short_stage(height, row_k, row_v), parts = fattn_short_parts(d, gqa);
        const int smem = FATTN_SHORT_MAX_ENCODERS + fattn_short_header(d, row_k, row_v, gqa) + (stages > parts ? stages : parts) + 16; // as in fattn-decode.cu
        if (smem <= room || height <= least*16) {
            return smem;
        }
    }
}
