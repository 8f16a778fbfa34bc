#pragma once

// FLASH_ATTN_EXT for a few queries on a packed K/V cache, by tensor cores, without an f16 copy of the cache.
//
// A warp owns one KV head, or two (and the queries of their GQA groups), and walks over positions, 16 at a time:
//   S^T [16 pos x 8 q] = K [16 x D] Q^T [D x 8]    codes: mma.m16n8k32 on int8, Q as two int8 parts; f16: mma.m16n8k16
//   P   = exp(S - max), times V's scale where a block covers enough values, transposed by movmatrix
//   O^T [D x 8 q]     += V^T [D x 16 pos] P        mma.m16n8k16; codes: two positions interleaved by byte shuffles
//
// Codes of V become halves without arithmetic: a byte u under the exponent 0x64 is the half 1024 + u. The constant part of
// the products, (1024 + bias) * sum(p), is taken off once at the end. The order of the values inside of a row is whatever
// the packed format gives; Q is loaded, and O is written, in the same order.
//
// The warps of a block share the tiles: n_heads neighbouring KV heads times n_parts runs of positions. A head's partial
// results, one for each split and part (or for each split, where its parts are added up before), are combined by a second
// kernel, which can also undo the rotation of V.

#include "fattn-decode-columns.cuh"
#include "fattn-decode-combine.cuh"
#include "fattn-decode-place.cuh"
#include "fattn-decode-ring.cuh"
#include "fattn-decode-scores.cuh"
#include "fattn-decode-values.cuh"

// out += the positions of a tile that are the warp's, in steps of 16, of each of its heads. They start at k and v, whose rows lie as far apart
// as the shape says; left: from the lane's first to the last that there is.
template <int D, typename LK, typename LV, int NT, typename S>
static __device__ __forceinline__ void add_tile(output<D, LV> (&out)[S::PER_WARP][NT], const warp_columns<D, LK, NT> (&columns)[S::PER_WARP], const char * k,
        const char * v, const half * mask, int left, const uint32_t * books_k, const uint32_t * books_v, const S & shape, const fattn_decode_params & p) {
    constexpr int HEADS = S::PER_WARP, STEPS = S::STEPS;
    float s[HEADS][STEPS][NT][4];
#pragma unroll
    for (int i = 0; i < HEADS*STEPS; ++i) {
        const int h = i%HEADS, st = i/HEADS;
#pragma unroll
        for (int n = 0; n < NT; ++n) { s[h][st][n][0] = s[h][st][n][1] = s[h][st][n][2] = s[h][st][n][3] = 0.0f; }
        add_scores<D, LK, NT>(s[h][st], columns[h].query, k + st*16*shape.stride_k + h*S::ROW_K, shape.stride_k, books_k, row_parity<D, LK>(HEADS == 1 ? -1 : h));
    }
    float m[HEADS*NT][2];
    bool rises = false;
#pragma unroll
    for (int i = 0; i < HEADS*NT; ++i) {
        const int h = i/NT, n = i%NT;
        m[i][0] = out[h][n].m[0];
        m[i][1] = out[h][n].m[1];
        cap_and_mask(s[h], n, columns[h], mask, p);
        mask_past_end(s[h], n, left);
        max_of_columns(m[i], s[h], n);
        rises = rises || m[i][0] > out[h][n].m[0] || m[i][1] > out[h][n].m[1];
    }
    if (__any_sync(~0u, rises)) {
#pragma unroll
        for (int i = 0; i < HEADS*NT; ++i) { out[i/NT][i%NT].scale_to(m[i][0], m[i][1]); }
    }
#pragma unroll
    for (int i = 0; i < HEADS*STEPS; ++i) {
        const int h = i%HEADS, st = i/HEADS;
        add_values<D, LV, NT>(out[h], s[h][st], v + st*16*shape.stride_v + h*S::ROW_V, shape.stride_v, books_v, row_parity<D, LV>(HEADS == 1 ? -1 : h));
    }
}

// grid (splits, head groups * column tiles, sequences); NT tiles of 8 (query, head) columns a warp; HEADS: of block_shape
template <int D, typename LK, typename LV, int NT, int HEADS>
__global__ void __launch_bounds__(FATTN_DECODE_WARPS*32, D <= 128 && NT == 1 ? 2 : 1)
fattn_decode(const fattn_decode_params p, const fattn_decode_token token) {
#ifdef FATTN_DECODE_AVAILABLE
    using S = block_shape<D, LK, LV, HEADS>;
    const S shape(p);
    const warp_place place(p, shape.n_heads, S::PER_WARP, NT*8);

    extern __shared__ __align__(128) char smem[];
    uint32_t * books_k = (uint32_t *) smem;
    uint32_t * books_v = (uint32_t *) (smem + 128);
    tile_ring ring(p, shape, place, NT*8, smem);
    if constexpr (!LK::HALF) { LK::fill_books(books_k, threadIdx.x, true); }
    if constexpr (!LV::HALF) { LV::fill_books(books_v, threadIdx.x, false); }
    ring.init();
    const packed_queries<D, LK> queries = { ring.stages + (ring.n_stages - 1)*ring.size, ring.freed + FATTN_DECODE_MAX_STAGES };
    queries.init();

    const int position = place.part*S::STEPS*16; // the warp's first in a tile
    warp_columns<D, LK, NT> columns[S::PER_WARP];
#pragma unroll
    for (int h = 0; h < S::PER_WARP; ++h) { columns[h].find_mask(p, place.of_head(h), shape.tile, position + place.g); }
    ring.find_fresh(token);
    if (!ring.knows_fresh) { fattn_decode_wait_for_predecessor(); }
    __syncthreads();
    ring.fill();
    fattn_decode_wait_for_predecessor();
    if (p.packed_q) { queries.fetch(p, place, shape.n_heads); }

    output<D, LV> out[S::PER_WARP][NT];
#pragma unroll
    for (int h = 0; h < S::PER_WARP; ++h) {
        const warp_place own = place.of_head(h);
        columns[h].take(p, own, queries.of_head(p, own, S::PER_WARP, NT*8));
#pragma unroll
        for (int n = 0; n < NT; ++n) { out[h][n].clear(); }
    }
    ring.let_copies_overwrite();
    __syncthreads(); // the last stage is free now
    if (ring.clears()) {
        ring.clear(ring.n_stages - 1);
        __syncthreads();
    }
    for (int index = ring.first; index < ring.end; ++index) {
        if (ring.n_stages == 2) { ring.refill(index); }
        ring.wait();
        ring.clear_past_end(index);
        const char * k = ring.stages + ring.stage*ring.size, * v = k + ring.tile_v;
        add_tile<D, LK, LV, NT>(out, columns, k + position*shape.stride_k + place.head*S::ROW_K, v + position*shape.stride_v + place.head*S::ROW_V,
            (const half *) (k + ring.tile_m), p.n_kv - index*shape.tile - position - place.g, books_k, books_v, shape, p);
        ring.leave(index);
    }
    fattn_decode_let_successor_start();
    if constexpr (S::ONE_PART) {
        __syncthreads(); // nobody reads the tiles any more
        add_parts<S>(out, place, (float *) ring.stages);
        if (place.part > 0) {
            return;
        }
    }
#pragma unroll
    for (int h = 0; h < S::PER_WARP; ++h) { write_parts(p, place.of_head(h), S::ONE_PART ? 1 : shape.n_parts, out[h]); }
#else
    (void) p;
    (void) token;
#endif
}
