#pragma once

// Attention of one token to a short context, with all that is ahead of it since the projections, in one launch. There the
// cache costs little: what takes the time is launches, barriers, and code that runs for the first time. So
//   - a block has one KV head and a run of positions, and makes its queries itself;
//   - the block that has the token's own position makes and stores its rows of K and V as well, and only the warp that
//     attends to that position waits for them;
//   - some warps prepare these rows while the others fetch the cache, whose first tile is attended to while the next is on its way; the
//     block that makes rows waits for both, and then some of its warps encode while the others attend;
//   - warps combine in shared memory, and the block of a head that is done last combines the runs;
//   - what could be done in two places is done in a loop, for the sake of less code.

#include "attention-encode.cuh"
#include "fattn-decode-kernel.cuh"
#include "fattn-short-params.cuh"

// ---- the token's own rows -----------------------------------------------------------------------------------------------

constexpr int SHORT_TEAM = 2;     // warps that encode 64 values
constexpr int SHORT_ENCODERS = 8; // warps that encode, at most

template <typename L> struct short_encoder;
template <> struct short_encoder<load_f16>    { typedef encode_half type; };
template <> struct short_encoder<load_q8_0>   { typedef encode_block_32<block_q8_0, quantize_f32_q8_0_block> type; };
template <> struct short_encoder<load_q5_0>   { typedef encode_block_32<block_q5_0, quantize_f32_q5_0_block> type; };
template <> struct short_encoder<load_q4_0>   { typedef encode_block_32<block_q4_0, quantize_f32_q4_0_block> type; };
template <> struct short_encoder<load_turbo4> { typedef encode_turbo<block_turbo4, SHORT_ENCODERS> type; };
template <> struct short_encoder<load_turbo3> { typedef encode_turbo<block_turbo3, SHORT_ENCODERS> type; };

// one for both, where they are the same
template <typename LK, typename LV> struct short_encoders {
    typename short_encoder<LK>::type k;
    typename short_encoder<LV>::type v;
    __device__ __forceinline__ void prepare(int thread, int n) { k.prepare(thread, n); v.prepare(thread, n); }
};
template <typename L> struct short_encoders<L, L> {
    typename short_encoder<L>::type both;
    __device__ __forceinline__ void prepare(int thread, int n) { both.prepare(thread, n); }
};

// Warps that encode the token's own rows, the last ones of its block, while the others attend to what is there.
static __host__ __device__ constexpr int short_encoder_warps(int d) { return d == 64 ? 4 : d == 128 ? 8 : 6; }

struct short_team_barrier {
    static __device__ __forceinline__ void wait() {
        wait_at_barrier<SHORT_TEAM*32>(1 + threadIdx.x/(SHORT_TEAM*32));
    }
};

// 64 values to both the tile in shared memory and the cache; then arrives at `made`
template <typename E>
static __device__ __forceinline__ void store_run(E & encode, float * values, char * row, char * cache, uint64_t * made) {
    constexpr int BYTES = 64/E::BLOCK*sizeof(typename E::block);
    const int lane = threadIdx.x%32;
    float x[2];
    load_row<64>(x, values, lane);
    encode.template store<64, SHORT_TEAM, short_team_barrier>(x, (typename E::block *) row, values);
    if (threadIdx.x/32%SHORT_TEAM == 0) {
        __syncwarp();
        for (int i = lane; i < BYTES/2; i += 32) { ((uint16_t *) cache)[i] = ((const uint16_t *) row)[i]; }
        if (lane == 0) { barrier_arrive(made); }
    }
}

// What a multiprocessor loads comes in the order in which it asks: what the rows are made of goes before the second tile. The warps that
// prepare rows arrive, those that fetch wait.
template <int D> struct loads_issued {
    static __device__ __forceinline__ void arrive() { arrive_at_barrier<fattn_short_warps(D)*32>(15); }
    static __device__ __forceinline__ void wait()   { wait_at_barrier<fattn_short_warps(D)*32>(15); }
};

// By copies, not loads: the compiler puts what all threads load alike into uniform registers at once, and waits for it.
static __device__ __forceinline__ void fetch_position(char * to, const fattn_decode_index & s) {
    if (s.is_64) { copy_or_clear<8>(to, s.data); }
    else         { copy_or_clear<4>(to, s.data); }
}

static __device__ __forceinline__ int64_t position_of(const char * fetched, const fattn_decode_index & s) {
    return s.data == nullptr ? -1 : s.is_64 ? *(const int64_t *) fetched : *(const int32_t *) fetched;
}

// warps that prepare rows; the others fetch
template <int D> static __device__ __forceinline__ int short_preparers(int n_rows) { return min(n_rows, fattn_short_warps(D)*3/4); }

// Queries packed, K and V as floats: a row a warp. K and V by all blocks, for to know which one needs them takes a while.
template <int D, typename LK>
static __device__ __forceinline__ void short_prepare(const fattn_short_params & p, const warp_place & place, char * packed, float * rows, bool store) {
    const fattn_decode_params & a = p.attention;
    const int n_rows = a.gqa + (store ? 2 : 0);
#pragma unroll 1
    for (int task = place.warp; task < n_rows; task += short_preparers<D>(n_rows)) {
        const int kind = max(task - a.gqa + 1, 0); // Q, K, V
        const fattn_short_input in = p.input[kind]; // indexed reads of parameters are slow: once
        const int head = kind == 0 ? place.head_kv*a.gqa + task : place.head_kv;
        float x[D/32];
        if (in.source.x) {
            attention_values<D> values;
            values.prepare(in.source, head, 0, place.lane);
            fattn_decode_wait_for_predecessor();
            values.fetch(in.source, head);
            if (p.n_tiles > 1 && task == place.warp) { loads_issued<D>::arrive(); }
            values.template finish<true>(in.source, true, place.lane, x);
            if (in.n_rot > 1) { hadamard<D>(x, place.lane, in.n_rot); }
        } else {
            fattn_decode_wait_for_predecessor();
            load_row<D>(x, (const float *) (a.q + (int64_t) head*a.nbq2 + place.seq*a.nbq3), place.lane);
            if (p.n_tiles > 1 && task == place.warp) { loads_issued<D>::arrive(); }
        }
        if (kind == 0) { query_of<D, LK>::pack(packed + task*packed_query_bytes(D), x, peak_of_row<D>(x), place.lane); }
        else           { store_row<D>(rows + (kind - 1)*D, x, place.lane); }
    }
}

// ---- tiles --------------------------------------------------------------------------------------------------------------

// K or V of a head
template <int D, typename L>
struct short_operand {
    static constexpr int ROW = L::row_bytes(D), COPIES = fattn_short_copied(ROW)/16, STRIDE = fattn_short_stride(ROW);

    char * cache; // of the head's first position
    int nb;

    __device__ __forceinline__ int shift() const { return fattn_short_shift(ROW) == 0 ? 0 : (int) ((uintptr_t) cache & 15); }

    // rows from the position first on, by n threads; those past the end are zeros
    __device__ __forceinline__ void load(char * tile, int first, int rows, int n_kv, int thread, int n) const {
        const char * from = cache - shift();
#pragma unroll 1
        for (int i = thread; i < rows*COPIES; i += n) {
            const int r = i/COPIES, c = i%COPIES*16;
            // some rows need all their copies only where they begin late: nothing is read past one, which may be the last
            const bool there = first + r < n_kv && (ROW%16 == 0 || c < shift() + ROW);
            copy_or_clear<16>(tile + r*STRIDE + c, from + (int64_t) min(first + r, n_kv - 1)*nb + c, there ? 16 : 0);
        }
    }
};

// of a block, in two stages in shared memory
template <int D, typename LK, typename LV>
struct short_tiles {
    short_operand<D, LK> k;
    short_operand<D, LV> v;
    const char * mask; // of the query
    char * stages;
    int first, end;    // positions of the block
    int rows;          // of a tile
    int fresh_k, fresh_v; // the positions that it makes, or -1

    __device__ __forceinline__ char * of_k(int index)    const { return stages + index%2*fattn_short_stage(rows, LK::row_bytes(D), LV::row_bytes(D)); }
    __device__ __forceinline__ char * of_v(int index)    const { return of_k(index) + rows*short_operand<D, LK>::STRIDE; }
    __device__ __forceinline__ char * of_mask(int index) const { return of_v(index) + rows*short_operand<D, LV>::STRIDE; }
    __device__ __forceinline__ int pieces(int index)     const { return (min(rows, end - first - index*rows) + 15)/16; }

    __device__ __forceinline__ void load(int index, int n_kv, int thread, int n) const {
        k.load(of_k(index), first + index*rows, pieces(index)*16, n_kv, thread, n);
        v.load(of_v(index), first + index*rows, pieces(index)*16, n_kv, thread, n);
    }

    __device__ __forceinline__ void load_mask(int index, int n_kv, int thread, int n) const {
        for (int i = thread; mask && i < pieces(index)*8; i += n) {
            const int at = first + index*rows + 2*i;
            copy_or_clear<4>(of_mask(index) + 4*i, mask + (int64_t) 2*min(at, (n_kv - 1) & ~1), max(0, min(4, 2*(n_kv - at))));
        }
    }

    // A position that is not among those attended to is stored by no block: llama.cpp has none.
    __device__ __forceinline__ void set_fresh(int64_t position_k, int64_t position_v) {
        fresh_k = position_k >= first && position_k < end ? (int) position_k : -1;
        fresh_v = position_v >= first && position_v < end ? (int) position_v : -1;
    }

    __device__ __forceinline__ bool makes() const { return fresh_k >= 0 || fresh_v >= 0; }

    // A row that is made goes into its tile, or, if that is not fetched yet, to the cache alone.
    __device__ __forceinline__ bool is_here(int fresh) const { return fresh - first < 2*rows; }

    // whether one of 16 positions is not masked: a cache is padded, and short contexts are mostly that
    __device__ __forceinline__ bool is_seen(int index, int piece, int lane) const {
        return mask == nullptr || __any_sync(~0u, ((const uint16_t *) of_mask(index))[piece*16 + lane%16] != 0xfc00);
    }

    // whether a row among 16 is one that the block makes, in a tile that was fetched before
    __device__ __forceinline__ bool awaits(int index, int piece) const {
        const int at = first + index*rows + piece*16;
        return index < 2 && ((fresh_k >= at && fresh_k < at + 16) || (fresh_v >= at && fresh_v < at + 16));
    }
};

// By the warps that encode. spare: room for rows whose tile is not here
template <int D, typename LK, typename LV>
static __device__ __forceinline__ void make_rows(const warp_place & place, const short_tiles<D, LK, LV> & tiles, short_encoders<LK, LV> & encoders,
        float * rows, char * spare, uint64_t * made) {
    static_assert(short_encoder_warps(D) % SHORT_TEAM == 0 && short_encoder_warps(D) <= SHORT_ENCODERS, "each team has its own place in shared memory");
    constexpr int TEAMS = short_encoder_warps(D)/SHORT_TEAM, RUNS = D/64;
#pragma unroll 1
    for (int task = place.warp/SHORT_TEAM - (fattn_short_warps(D)/SHORT_TEAM - TEAMS); task < 2*RUNS; task += TEAMS) {
        const bool is_k = task < RUNS;
        const int  run  = is_k ? task : task - RUNS, bytes = run*(is_k ? LK::row_bytes(64) : LV::row_bytes(64));
        const int  fresh = is_k ? tiles.fresh_k : tiles.fresh_v, index = fresh - tiles.first >= tiles.rows, at = fresh - tiles.first - index*tiles.rows;
        if (fresh < 0) { // another block's, if K and V are stored at different positions
            if (place.warp%SHORT_TEAM == 0 && place.lane == 0) { barrier_arrive(made); }
            continue;
        }
        const int  stride = is_k ? short_operand<D, LK>::STRIDE : short_operand<D, LV>::STRIDE;
        char * row   = tiles.is_here(fresh) ? (is_k ? tiles.of_k(index) + tiles.k.shift() : tiles.of_v(index) + tiles.v.shift()) + at*stride : spare;
        char * cache = is_k ? tiles.k.cache + (int64_t) fresh*tiles.k.nb : tiles.v.cache + (int64_t) fresh*tiles.v.nb;
        if (!tiles.is_here(fresh) && !is_k) { row += (LK::row_bytes(D) + 15)/16*16; }
        if constexpr (std::is_same_v<LK, LV>) { store_run(encoders.both, rows + task*64, row + bytes, cache + bytes, made); }
        else if (is_k)                        { store_run(encoders.k,    rows + task*64, row + bytes, cache + bytes, made); }
        else                                  { store_run(encoders.v,    rows + task*64, row + bytes, cache + bytes, made); }
    }
}

// ---- combining ----------------------------------------------------------------------------------------------------------

// The parts of a row: of the warps of a block, in shared memory, or of the blocks of a head.
struct short_parts {
    const float  * rows; // 64 values of each; a part without a sum has none
    const float2 * meta; // maximum (log2 domain) and sum
    int stride, meta_stride;
    int n;               // at most 32
    bool many;           // most of them should have a sum: the first 16 rows are on their way before that is known, for one wait and not two
};

// 64 values of the row, number lane and lane + 32, its maximum and its sum
struct short_row {
    float y[2], max, sum;

    __device__ __forceinline__ void add(float weight, float x0, float x1) {
        y[0] += weight != 0.0f ? weight*x0 : 0.0f;
        y[1] += weight != 0.0f ? weight*x1 : 0.0f;
    }
};

static __device__ __forceinline__ short_row combine_parts(const short_parts & parts, float sink) {
    constexpr int AHEAD = 16;
    const int lane = threadIdx.x%32;
    const float * row = parts.rows + lane;
    float ahead[AHEAD][2];
    if (parts.many) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const float * at = row + min(i, parts.n - 1)*parts.stride;
            ahead[i][0] = at[0];
            ahead[i][1] = at[32];
        }
    }
    const float2 meta = lane < parts.n ? parts.meta[lane*parts.meta_stride] : make_float2(FATTN_DECODE_LOWEST, 0.0f);
    short_row r = {};
    r.max = max_of_warp(fmaxf(meta.x, sink));
    const float weight = meta.y != 0.0f ? exp2f(meta.x - r.max) : 0.0f;
    r.sum = sum_of_warp(weight*meta.y);
    if (parts.many) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) { r.add(__shfl_sync(~0u, weight, i), ahead[i][0], ahead[i][1]); }
    }
    const int first = parts.many ? AHEAD : 0, n = 32 - __clz((int) __ballot_sync(~0u, weight != 0.0f));
    row += first*parts.stride;
#pragma unroll 4
    for (int i = first; i < n; ++i, row += parts.stride) { r.add(__shfl_sync(~0u, weight, i), row[0], row[32]); }
    return r;
}

// whether this is the last block of its head; last: in shared memory
static __device__ __forceinline__ bool is_last(const warp_place & place, unsigned * tickets, bool * last) {
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned * ticket = tickets + place.seq*gridDim.y + blockIdx.y;
        *last = take_ticket(ticket) == gridDim.x - 1;
        if (*last) { *ticket = 0; }
    }
    __syncthreads();
    return *last;
}

// parts: [warp][column] rows, then the maxima and sums
template <int D, typename LV>
static __device__ __forceinline__ void leave_parts(float * parts, const warp_place & place, const output<D, LV> & out) {
    constexpr int STRIDE = fattn_short_part_stride(D);
    float2 * meta = (float2 *) (parts + fattn_short_warps(D)*place.n_rows*STRIDE);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const float l = sum_of_columns(out.l[j]);
        const int at = place.warp*place.n_rows + 2*place.t + j;
        if (2*place.t + j < place.n_rows) {
            if (l != 0.0f) { store_output<D, LV>(out, j, parts + at*STRIDE); }
            if (place.g == 0) { meta[at] = make_float2(out.m[j], l); }
        }
    }
}

// First the warps' parts, then, if there are other blocks, theirs.
template <int D>
static __device__ __forceinline__ void combine(const fattn_decode_params & p, const warp_place & place, const float * parts, unsigned * tickets, bool * last) {
    constexpr int STRIDE = fattn_short_part_stride(D), WARPS = fattn_short_warps(D);
    const float2 * meta = (const float2 *) (parts + WARPS*place.n_rows*STRIDE);
#pragma unroll 1
    for (int pass = 0; ; ++pass) {
        const bool whole = pass == 1 || p.n_splits == 1;
#pragma unroll 1
        for (int task = place.warp; task < place.n_rows*(D/64); task += WARPS) {
            const int col = task/(D/64), first = task%(D/64)*64;
            const int64_t head = (int64_t) place.seq*p.n_head + place.head_kv*p.gqa + col, part = head*p.n_splits;
            const short_parts from = pass == 0 ? short_parts{ parts + col*STRIDE + first, meta + col, place.n_rows*STRIDE, place.n_rows, WARPS, p.n_splits > 1 }
                                               : short_parts{ p.part + part*D + first, p.meta + part, D, 1, p.n_splits, true };
            const float sink = whole && p.sinks ? p.sinks[place.head_kv*p.gqa + col]*FATTN_DECODE_LOG2E : FATTN_DECODE_LOWEST;
            short_row r = combine_parts(from, sink);
            if (whole) {
                finish_row(r.y, r.sum + (p.sinks ? exp2f(sink - r.max) : 0.0f), p.rotate_dst, place.lane);
            } else if (first == 0) {
                p.meta[part + place.split] = make_float2(r.max, r.sum); // by all lanes, the same
            }
            float * to = (whole ? p.dst + head*D : p.part + (part + place.split)*D) + first + place.lane;
            to[0]  = r.y[0];
            to[32] = r.y[1];
        }
        if (whole || !is_last(place, tickets, last)) {
            return;
        }
    }
}

// until all tiles that are on their way are there, or all but the last one
static __device__ __forceinline__ void wait_for_tiles(bool but_last) {
    if (but_last) { wait_for_copies<1>(); }
    else          { wait_for_copies<0>(); }
    __syncthreads();
}

// how add_tile sees it: 16 positions of one head
template <int D, typename LK, typename LV>
struct short_shape {
    static constexpr int PER_WARP = 1, STEPS = 1, ROW_K = LK::row_bytes(D), ROW_V = LV::row_bytes(D);
    static constexpr int stride_k = short_operand<D, LK>::STRIDE, stride_v = short_operand<D, LV>::STRIDE;
};

// ---- the kernel ---------------------------------------------------------------------------------------------------------

// grid (runs of positions, KV heads, sequences)
template <int D, typename LK, typename LV>
__global__ void __launch_bounds__(fattn_short_warps(D)*32, 1) fattn_short(const __grid_constant__ fattn_short_params p) {
#ifdef FATTN_DECODE_AVAILABLE
    constexpr int WARPS = fattn_short_warps(D), ATTENDING = WARPS - short_encoder_warps(D);
    const fattn_decode_params & a = p.attention;
    const warp_place place(a);

    extern __shared__ __align__(128) char smem[];
    short_encoders<LK, LV> & encoders = *(short_encoders<LK, LV> *) smem;
    char     * header  = smem + (sizeof(encoders) + 127)/128*128;
    uint32_t * books_k = (uint32_t *) header, * books_v = (uint32_t *) (header + 128);
    uint64_t * made    = (uint64_t *) (header + 256);
    char     * position_k = header + 256 + 8, * position_v = position_k + 8;
    char     * packed  = header + FATTN_SHORT_BOOKS;
    float    * rows    = (float *) (packed + (a.gqa*packed_query_bytes(D) + 15)/16*16);

    short_tiles<D, LK, LV> tiles;
    tiles.first  = (place.split*p.pieces + min(place.split, p.more))*16;
    tiles.end    = min(tiles.first + (p.pieces + (place.split < p.more))*16, a.n_kv);
    tiles.rows   = p.rows;
    tiles.stages = header + fattn_short_header(D, LK::row_bytes(D), LV::row_bytes(D), a.gqa);
    tiles.mask   = a.mask && gridDim.z > 1 ? a.mask + place.seq%a.seq_m*a.nbm3 : a.mask;
    tiles.k = { (char *) a.k + place.seq*a.nbk3 + place.head_kv*a.nbk2, (int) a.nbk1 };
    tiles.v = { (char *) a.v + place.seq*a.nbv3 + place.head_kv*a.nbv2, (int) a.nbv1 };
    const bool store = p.input[1].source.x != nullptr;
    if (!store) { fattn_decode_wait_for_predecessor(); } // for the rows it stored

    const int n_tiles = p.n_tiles, n_preparers = short_preparers<D>(a.gqa + (store ? 2 : 0));
    const short_shape<D, LK, LV> shape;
    warp_columns<D, LK, 1> columns[1];
    output<D, LV> out[1][1];
#pragma unroll 1
    for (int i = 0; i < n_tiles; ++i) {
        const int first = i == 0 ? n_preparers*32 : 0, thread = (int) threadIdx.x - first, n = (int) blockDim.x - first;
        if (i == 0 && thread >= 0) {
            if constexpr (!LK::HALF) { LK::fill_books(books_k, n - 1 - thread, true); } // the last warp waits for these loads, for the first has more to do
            if constexpr (!LV::HALF) { LV::fill_books(books_v, n - 1 - thread, false); }
            if (store) { encoders.prepare(thread, n); }
            if (store && thread == 0) {
                fetch_position(position_k, p.idx[0]);
                fetch_position(position_v, p.idx[1]);
                barrier_init(made, 2*(D/64));
            }
        }
#pragma unroll 1
        for (int next = i == 0 ? 0 : i + 1; next < min(i + 2, n_tiles) && thread >= 0; ++next) {
            if (i == 0 && next == 1) { loads_issued<D>::wait(); }
            tiles.load(next, a.n_kv, thread, n);
            fattn_decode_wait_for_predecessor(); // which may have made the mask
            tiles.load_mask(next, a.n_kv, thread, n);
            commit_copies();
        }
        int n_attending = WARPS;
        if (i == 0) {
            if (thread < 0) { short_prepare<D, LK>(p, place, packed, rows, store); }
            wait_for_tiles(n_tiles > 1);
            tiles.set_fresh(position_of(position_k, p.idx[0]), position_of(position_v, p.idx[1]));
            if (tiles.makes()) { // in either of them
                if (n_tiles > 1) { wait_for_tiles(false); }
                n_attending = ATTENDING;
                if (place.warp >= ATTENDING) { make_rows(place, tiles, encoders, rows, (char *) (rows + 2*D), made); }
            }
            columns[0].find_token_slopes(a, place);
            columns[0].take(a, place, packed);
            out[0][0].clear();
        } else if (i > 1 || !tiles.makes()) { // a block that makes rows has waited for its second tile
            wait_for_tiles(i + 1 < n_tiles);
        }
        const int turn = (place.warp + i*(WARPS - 1)*(p.rows/16))%WARPS; // the warp after the last one of the tile before is the first
#pragma unroll 1
        for (int piece = turn; piece < (turn < n_attending ? tiles.pieces(i) : 0); piece += n_attending) {
            if (!tiles.is_seen(i, piece, place.lane)) { continue; }
            if (tiles.awaits(i, piece)) { barrier_wait(made, 0); }
            columns[0].mask_at[0][0] = columns[0].mask_at[0][1] = piece*16 + place.g;
            add_tile<D, LK, LV, 1>(out, columns, tiles.of_k(i) + tiles.k.shift() + piece*16*shape.stride_k, tiles.of_v(i) + tiles.v.shift() + piece*16*shape.stride_v,
                (const half *) tiles.of_mask(i), a.n_kv - tiles.first - i*tiles.rows - piece*16 - place.g, books_k, books_v, shape, a);
        }
        if (n_tiles > 2) { __syncthreads(); } // all have left it: the next but one may come
    }
    fattn_decode_let_successor_start();

    __syncthreads(); // nobody reads the tiles any more
    float * parts = (float *) tiles.stages;
    leave_parts<D, LV>(parts, place, out[0][0]);
    __syncthreads();
    combine<D>(a, place, parts, p.tickets, (bool *) header);
#else
    (void) p;
#endif
}
