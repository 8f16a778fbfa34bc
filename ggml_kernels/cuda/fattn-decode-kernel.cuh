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
// results, one for each split and part, are combined by a second kernel, which can also undo the rotation of V.

#include "fattn-decode-columns.cuh"
#include "fattn-decode-combine.cuh"
#include "fattn-decode-place.cuh"
#include "fattn-decode-ring.cuh"
#include "fattn-decode-scores.cuh"
#include "fattn-decode-values.cuh"

// out += the positions of a tile that are the warp's, in steps of 16. They start at k and v, whose rows lie stride_k and
// stride_v bytes apart; left: from the lane's first to the last that there is.
template <int D, typename LK, typename LV, int NT, int STEPS>
static __device__ __forceinline__ void add_tile(output<D, LV> (&out)[NT], const warp_columns<D, LK, NT> & columns, const char * k, int stride_k,
        const char * v, int stride_v, const half * mask, int left, const uint32_t * books_k, const uint32_t * books_v, const fattn_decode_params & p) {
    float s[STEPS][NT][4];
#pragma unroll
    for (int st = 0; st < STEPS; ++st) {
#pragma unroll
        for (int n = 0; n < NT; ++n) { s[st][n][0] = s[st][n][1] = s[st][n][2] = s[st][n][3] = 0.0f; }
        add_scores<D, LK, NT>(s[st], columns.query, k + st*16*stride_k, stride_k, books_k);
    }
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        float m[2] = { out[n].m[0], out[n].m[1] };
        cap_and_mask(s, n, columns, mask, p);
        mask_past_end(s, n, left);
        max_of_columns(m, s, n);
        out[n].raise_max(m[0], m[1]);
    }
#pragma unroll
    for (int st = 0; st < STEPS; ++st) { add_values<D, LV, NT>(out, s[st], v + st*16*stride_v, stride_v, books_v); }
}

// grid (splits, head groups * column tiles, sequences); NT tiles of 8 (query, head) columns a warp; HEADS: of block_shape
template <int D, typename LK, typename LV, int NT, int HEADS>
__global__ void __launch_bounds__(FATTN_DECODE_WARPS*32, D <= 128 && NT == 1 ? 2 : 1)
fattn_decode(const fattn_decode_params p, const fattn_decode_token token) {
#ifdef FATTN_DECODE_AVAILABLE
    using S = block_shape<D, LK, LV, HEADS>;
    const S shape(p);
    const warp_place place(p, shape.n_heads, NT*8);

    extern __shared__ __align__(128) char smem[];
    uint32_t * books_k = (uint32_t *) smem;
    uint32_t * books_v = (uint32_t *) (smem + 128);
    tile_ring ring(p, shape, place, NT*8, smem);
    if constexpr (!LK::HALF) { LK::fill_books(books_k, threadIdx.x, true); }
    if constexpr (!LV::HALF) { LV::fill_books(books_v, threadIdx.x, false); }
    ring.init(shape.n_heads*shape.n_parts);
    const packed_queries<D, LK> queries = { ring.stages + (ring.n_stages - 1)*ring.size, ring.freed + FATTN_DECODE_MAX_STAGES };
    queries.init();

    const int position = place.part*S::STEPS*16; // the warp's first in a tile
    warp_columns<D, LK, NT> columns;
    columns.find_mask(p, place, shape.tile, position + place.g);
    ring.find_fresh(token);
    if (!ring.knows_fresh) { fattn_decode_wait_for_predecessor(); }
    __syncthreads();
    ring.fill();
    fattn_decode_wait_for_predecessor();
    if (p.packed_q) { queries.fetch(p, place, shape.n_heads); }
    columns.take(p, place, queries.of_warp(p, place, NT*8));

    output<D, LV> out[NT];
#pragma unroll
    for (int n = 0; n < NT; ++n) { out[n].clear(); }
    __syncthreads(); // the last stage is free now
    if (ring.clears()) {
        ring.clear(ring.n_stages - 1);
        __syncthreads();
    }
    for (int index = ring.first; index < ring.end; ++index) {
        if (ring.n_stages == 2) { ring.refill(index); }
        ring.wait();
        if (!HEADS) { ring.clear_past_end(index); }
        const char * k = ring.stages + ring.stage*ring.size, * v = k + ring.tile_v;
        add_tile<D, LK, LV, NT, S::STEPS>(out, columns, k + position*shape.stride_k + place.head*S::ROW_K, shape.stride_k,
            v + position*shape.stride_v + place.head*S::ROW_V, shape.stride_v, (const half *) (k + ring.tile_m),
            p.n_kv - index*shape.tile - position - place.g, books_k, books_v, p);
        ring.leave(index);
    }
    fattn_decode_let_successor_start();
    write_parts(p, place, shape.n_parts, out);
#else
    (void) p;
    (void) token;
#endif
}
