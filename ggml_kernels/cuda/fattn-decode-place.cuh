#pragma once

// Where a warp stands: how its block is laid out, and which heads, columns and positions are its own.

#include "fattn-decode-params.cuh"

template <int D, typename LK, typename LV>
struct block_rows {
    static constexpr int ROW_K = LK::row_bytes(D), ROW_V = LV::row_bytes(D);
    static constexpr int STEPS = fattn_decode_steps(ROW_K, ROW_V); // of 16 positions
};

// HEADS: p.n_heads, where it and with it all strides are known at compile time and rows are padded; or 0
template <int D, typename LK, typename LV, int HEADS>
struct block_shape : block_rows<D, LK, LV> {
    using rows = block_rows<D, LK, LV>;
    static constexpr int n_heads = HEADS, n_parts = FATTN_DECODE_WARPS/HEADS, n_stages = FATTN_DECODE_MAX_STAGES;
    static constexpr int stride_k = HEADS*rows::ROW_K + 16, stride_v = HEADS*rows::ROW_V + 16; // padded against bank conflicts
    static constexpr int tile = n_parts*rows::STEPS*16; // positions

    explicit __device__ __forceinline__ block_shape(const fattn_decode_params &) {}
};

template <int D, typename LK, typename LV>
struct block_shape<D, LK, LV, 0> : block_rows<D, LK, LV> {
    int n_heads, n_parts, n_stages, stride_k, stride_v, tile;

    explicit __device__ __forceinline__ block_shape(const fattn_decode_params & p) :
        n_heads(p.n_heads), n_parts(p.n_parts), n_stages(p.n_stages), stride_k(p.stride_k), stride_v(p.stride_v), tile(n_parts*this->STEPS*16) {}
};

// Column c of a group of heads is query c/gqa at head c%gqa.
struct warp_place {
    int warp, lane, g, t;     // g: its row of a fragment of A, t: its pair of columns
    int seq, split;
    int part, head;           // of the block's
    int group, head_kv;       // of blocks that share the heads; among all heads
    int col0, n_cols, n_rows; // the first column, how many there are in all, and in this block
    int q0;                   // the first column's query

    __device__ __forceinline__ warp_place(const fattn_decode_params & p, int n_heads, int max_columns) :
        warp(threadIdx.x/32), lane(threadIdx.x%32), g(lane/4), t(lane%4),
        seq(blockIdx.z), split(blockIdx.x),
        part(warp/n_heads), head(warp%n_heads),
        group(blockIdx.y%p.n_groups), head_kv(group*n_heads + head),
        col0(blockIdx.y/p.n_groups*max_columns), n_cols(p.n_q*p.gqa), n_rows(min(max_columns, n_cols - col0)),
        q0(col0/p.gqa) {}

    // one token and one KV head a block: blockIdx.y
    explicit __device__ __forceinline__ warp_place(const fattn_decode_params & p) :
        warp(threadIdx.x/32), lane(threadIdx.x%32), g(lane/4), t(lane%4),
        seq(blockIdx.z), split(blockIdx.x), part(warp), head(0), group(blockIdx.y), head_kv(blockIdx.y),
        col0(0), n_cols(p.gqa), n_rows(p.gqa), q0(0) {}
};
