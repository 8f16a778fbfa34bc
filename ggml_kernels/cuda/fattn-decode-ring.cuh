#pragma once

// How tiles of K, V and the mask come into shared memory, and when a stage is filled and free.

#include "fattn-decode-place.cuh"
#include "fattn-decode-ptx.cuh"

// Copies a run of positions of one operand, or its rows with padding between them. On Hopper, a few lanes of each warp
// issue bulk copies of rows: one warp alone would hold up the others. A run is one copy, for which the warps take turns. Before it, and where there is no more than the first tiles, every
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

// Stages in shared memory that tiles pass through in turn: each has rows of K, of V and of the mask.
struct tile_ring {
    char     * stages;
    uint64_t * ready; // filled, one per stage
    uint64_t * freed; // read by all warps
    int n_warps, n_stages, tile, tile_v, tile_m, size; // tile: positions; where V and the mask begin in a stage, and its size in bytes
    int n_kv, first, end;                     // of the block's tiles
    tile_copy k, v;
    const char * mask;
    int nbm, n_mask; // rows of the mask
    bool shared;     // every thread copies; or none but the ones that issue bulk copies
    bool knows_fresh;
    int  fresh_k, fresh_v; // if it does: the tiles that launches ahead store into
    int stage = 0, turn = 0; // where the warp is; turn: how often the stages were gone through

    template <int D, typename LK, typename LV, int HEADS>
    __device__ __forceinline__ tile_ring(const fattn_decode_params & p, const block_shape<D, LK, LV, HEADS> & shape, const warp_place & place, int max_columns, char * smem) {
        using S = block_shape<D, LK, LV, HEADS>;
        const int tiles = (p.n_kv + shape.tile - 1)/shape.tile;
        stages   = smem + FATTN_DECODE_HEADER;
        ready    = (uint64_t *) (smem + 256);
        freed    = ready + FATTN_DECODE_MAX_STAGES;
        n_warps  = shape.n_heads/S::PER_WARP*shape.n_parts;
        n_stages = shape.n_stages;
        tile     = shape.tile;
        tile_v   = tile*shape.stride_k;
        tile_m   = tile*(shape.stride_k + shape.stride_v);
        size     = tile_m + max_columns*tile*2;
        n_kv     = p.n_kv;
        first    = (uint32_t) tiles*place.split/(uint32_t) p.n_splits; // fits: the host makes sure of it
        end      = (uint32_t) tiles*(place.split + 1)/(uint32_t) p.n_splits;
        k        = { p.k + place.seq*p.nbk3 + place.group*shape.n_heads*p.nbk2, p.nbk1, shape.stride_k, shape.n_heads*S::ROW_K, shape.whole_k };
        v        = { p.v + place.seq*p.nbv3 + place.group*shape.n_heads*p.nbv2, p.nbv1, shape.stride_v, shape.n_heads*S::ROW_V, shape.whole_v };
        mask     = p.mask + place.seq%p.seq_m*p.nbm3 + (int64_t) place.q0*p.nbm1;
        nbm      = p.nbm1;
        n_mask   = p.mask ? min(p.n_q, (place.col0 + max_columns - 1)/p.gqa + 1) - place.q0 : 0;
#ifdef FATTN_DECODE_BULK_COPY
        shared   = tiles <= p.n_splits*(shape.n_stages - 1); // no block has more than the first tiles
#else
        shared   = true;
#endif
    }

    __device__ __forceinline__ void init() const {
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

    // a last tile that is not full leaves rows unwritten, which are multiplied by zero: they must not be NaN
    __device__ __forceinline__ bool clears() const { return (k.whole || v.whole) && n_kv % tile != 0; }

    __device__ __forceinline__ void clear(int stage) const {
        for (int i = threadIdx.x; i < size/16; i += blockDim.x) { ((uint4 *) (stages + stage*size))[i] = make_uint4(0, 0, 0, 0); }
        let_copies_overwrite();
    }

    // what this thread wrote by itself, after the next barrier
    static __device__ __forceinline__ void let_copies_overwrite() {
#ifdef FATTN_DECODE_BULK_COPY
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    }

    __device__ __forceinline__ void find_fresh(const fattn_decode_token & token) {
        knows_fresh = token.idx[0].data != nullptr;
        fresh_k = knows_fresh ? tile_of(token.idx[0]) : -1;
        fresh_v = knows_fresh ? tile_of(token.idx[1]) : -1;
    }

    __device__ __forceinline__ int tile_of(const fattn_decode_index & idx) const {
        const int64_t position = idx.is_64 ? *(const int64_t *) idx.data : *(const int32_t *) idx.data;
        return position >= 0 && position < n_kv ? (int) position/tile : -1;
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

    // whether this warp has copies of a tile to issue: all have, but where those of a whole tile are two, each warp in turn
    __device__ __forceinline__ bool issues(int index) const {
#ifdef FATTN_DECODE_BULK_COPY
        return !(k.whole && v.whole) || threadIdx.x/32 == (uint32_t) index % (uint32_t) n_warps;
#else
        (void) index;
        return true;
#endif
    }

    __device__ __forceinline__ void load(int index, int stage) const {
#ifdef FATTN_DECODE_BULK_COPY
        const int first = index*tile;
        char * dk = stages + stage*size;
        char * dv = dk + tile_v;
        char * dm = dk + tile_m;
        const bool alone = k.whole && v.whole;
        const int warp = alone ? 0 : threadIdx.x/32, lane = threadIdx.x%32, n = alone ? 1 : n_warps; // of those that issue
        if (warp == 0 && lane == 0) {
            barrier_expect(&ready[stage], k.bytes(first, tile, n_kv) + v.bytes(first, tile, n_kv) + n_mask*tile*2);
        }
        const int copies_k = k.copies(tile), copies = copies_k + v.copies(tile);
        for (int i = lane*n + warp; i < copies; i += 32*n) {
            if (i < copies_k) { k.one(dk, i,            first, tile, n_kv, &ready[stage]); }
            else              { v.one(dv, i - copies_k, first, tile, n_kv, &ready[stage]); }
        }
        if (warp == 0 && lane < n_mask) { copy_bulk(dm + lane*tile*2, mask + (int64_t) lane*nbm + first*2, tile*2, &ready[stage]); }
#else
        load_shared(index, stage);
#endif
    }

    // all stages but the last
    __device__ __forceinline__ void fill() const {
        for (int i = 0; i < n_stages - 1 && first + i < end; ++i) {
            if (first + i == fresh_k || first + i == fresh_v) { fattn_decode_wait_for_predecessor(); }
            if (shared) { load_shared(first + i, i); }
            else if (issues(first + i)) { load(first + i, i); }
        }
    }

    // the stage of tile index - 1, once all warps have left it
    __device__ __forceinline__ void refill(int index) const {
        if (index + n_stages - 1 < end && issues(index + n_stages - 1)) {
            const int before = stage == 0 ? n_stages - 1 : stage - 1;
            if (index > first) { barrier_wait(&freed[before], (stage == 0 ? turn - 1 : turn) & 1); }
            load(index + n_stages - 1, before);
        }
    }

    // With the last row of a tile that is one run of bytes came what fills its 16 bytes up.
    __device__ __forceinline__ void clear_past_end(int index) const {
        if (v.whole && (index + 1)*tile > n_kv) {
            const int past = (n_kv - index*tile)*v.stride;
            if ((int) threadIdx.x < -past % 16 + 16 && past % 16 != 0) { stages[stage*size + tile_v + past + threadIdx.x] = 0; }
            __syncthreads();
        }
    }

    __device__ __forceinline__ void wait() const { barrier_wait(&ready[stage], turn & 1); }

    // the warp has read its tile, and goes on; with three stages it refills afterwards, for which it seldom has to wait for the others
    __device__ __forceinline__ void leave(int index) {
        __syncwarp();
        if (threadIdx.x%32 == 0) { barrier_arrive(&freed[stage]); }
        if (n_stages != 2) { refill(index); }
        if (++stage == n_stages) { stage = 0; ++turn; }
    }
};
