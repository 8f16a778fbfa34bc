#pragma once

// Where a warp stands: how its block is laid out, and which heads, columns and positions are its own.

#include "fattn-decode-params.cuh"

template <int D, typename LK, typename LV, int HEADS>
struct block_rows {
    static constexpr int ROW_K = LK::row_bytes(D), ROW_V = LV::row_bytes(D); // of a head
    static constexpr int PER_WARP = HEADS > 0 ? fattn_decode_heads_per_warp(D, LK::BLOCK, LV::BLOCK, ROW_K, ROW_V) : 1;
    static constexpr int STEPS = fattn_decode_steps(PER_WARP*ROW_K, PER_WARP*ROW_V); // of 16 positions
};

// HEADS: p.n_heads, where it and with it all strides are known at compile time; or 0
template <int D, typename LK, typename LV, int HEADS>
struct block_shape : block_rows<D, LK, LV, HEADS> {
    using rows = block_rows<D, LK, LV, HEADS>;
    static constexpr int n_heads = HEADS, n_parts = FATTN_DECODE_WARPS*rows::PER_WARP/HEADS, n_stages = FATTN_DECODE_MAX_STAGES;
    static constexpr int pad_k = fattn_decode_padding(HEADS*rows::ROW_K), pad_v = fattn_decode_padding(HEADS*rows::ROW_V);
    static constexpr int stride_k = HEADS*rows::ROW_K + pad_k, stride_v = HEADS*rows::ROW_V + pad_v;
    static constexpr int tile = n_parts*rows::STEPS*16; // positions
    static constexpr bool ONE_PART = n_parts > 1; // its warps' parts become one
    const bool whole_k, whole_v;

    explicit __device__ __forceinline__ block_shape(const fattn_decode_params & p) : whole_k(pad_k == 0 && p.whole_k), whole_v(pad_v == 0 && p.whole_v) {}
};

template <int D, typename LK, typename LV>
struct block_shape<D, LK, LV, 0> : block_rows<D, LK, LV, 0> {
    static constexpr bool ONE_PART = false;
    const int n_heads, n_parts, n_stages, stride_k, stride_v, tile;
    const bool whole_k, whole_v;

    explicit __device__ __forceinline__ block_shape(const fattn_decode_params & p) :
        n_heads(p.n_heads), n_parts(p.n_parts), n_stages(p.n_stages), stride_k(p.stride_k), stride_v(p.stride_v), tile(n_parts*this->STEPS*16),
        whole_k(p.whole_k), whole_v(p.whole_v) {}
};

// Column c of a group of heads is query c/gqa at head c%gqa.
struct warp_place {
    int warp, lane, g, t;     // g: its row of a fragment of A, t: its pair of columns
    int seq, split;
    int part, head;           // of the block's; with two heads a warp, the first
    int group, head_kv;       // of blocks that share the heads; among all heads
    int col0, n_cols, n_rows; // the first column, how many there are in all, and in this block
    int q0;                   // the first column's query

    __device__ __forceinline__ warp_place(const fattn_decode_params & p, int n_heads, int per_warp, int max_columns) :
        warp(threadIdx.x/32), lane(threadIdx.x%32), g(lane/4), t(lane%4),
        seq(blockIdx.z), split(blockIdx.x),
        part(warp/(n_heads/per_warp)), head(warp%(n_heads/per_warp)*per_warp),
        group(blockIdx.y%p.n_groups), head_kv(group*n_heads + head),
        col0(blockIdx.y/p.n_groups*max_columns), n_cols(p.n_q*p.gqa), n_rows(min(max_columns, n_cols - col0)),
        q0(col0/p.gqa) {}

    // one token and one KV head a block: blockIdx.y
    explicit __device__ __forceinline__ warp_place(const fattn_decode_params & p) :
        warp(threadIdx.x/32), lane(threadIdx.x%32), g(lane/4), t(lane%4),
        seq(blockIdx.z), split(blockIdx.x), part(warp), head(0), group(blockIdx.y), head_kv(blockIdx.y),
        col0(0), n_cols(p.gqa), n_rows(p.gqa), q0(0) {}

    // of the warp's head h
    __device__ __forceinline__ warp_place of_head(int h) const {
        warp_place place = *this;
        place.head    += h;
        place.head_kv += h;
        return place;
    }
};
