#pragma once

// Encoding turbo3 and turbo4 on a GPU: each of 32 lanes tries one candidate of the scale search. The bytes are
// those of turbo-quants-ref.c: q, the sums and the comparison of candidates are the same integers and floats.
//
// The reference counts the bounds below a value, up to 15 comparisons. Here the range of q is cut into cells so narrow
// that no two bounds of a candidate share one. A table [cell][candidate] then holds all there is to know: where the
// bound is in the cell, and the codebook entries on its two sides. All 32 threads look at the same value, so they read
// neighbouring words, and one comparison is left. A flipped candidate is an ordinary one with mirrored bounds and entries.

#include "attention-row.cuh"
#include "turbo-quants-decode.cuh"

#include <string.h>

#define TURBO_LANES       TURBO_SEARCH
#define TURBO_Q_RANGE     16384         // TURBO_Q_MAX of turbo-quants-ref.h
#define TURBO_PEAK_MIN    0x35800000u   // bits of TURBO_VALUE_MIN, 2^-20
#define TURBO_PEAK_MAX    0x477de040u   // bits of TURBO_VALUE_MAX, 64992.25

// ---- the table of cells -----------------------------------------------------------------------------------------------

// cells of turbo3 are twice as wide: its bounds are
static constexpr __host__ __device__ int turbo_cell_bits(int levels) { return levels == 8 ? 11 : 10; }

// An entry: [place of the bound in the cell : turbo_cell_bits] .. [1 at bit 20] [code below it, 4 bits at 16] [entry above]
// [entry below]. Compared with a value's word as a whole, its upper bits decide, or bit 20 where they are equal: not above.
// A cell without a bound has it at the cell's end: nothing is above.
template <int LEVELS> struct alignas(16) turbo_search_table {
    static constexpr int CELLS = (2*TURBO_Q_RANGE >> turbo_cell_bits(LEVELS)) + 1;
    uint32_t cell[CELLS][TURBO_LANES];
    uint8_t  book[TURBO_LANES]; // bit 3: flipped
};

// the bound below code i, of the candidate as it is or mirrored: -v > b is v < -b, and not v > -b - 1
template <int LEVELS> static constexpr int turbo_bound(const int16_t (&bounds)[LEVELS], bool flip, int i) {
    return flip ? -bounds[LEVELS - i] - 1 : bounds[i];
}

template <int LEVELS> static constexpr int turbo_entry(const int8_t (&values)[LEVELS], bool flip, int i) {
    return flip ? -values[LEVELS - 1 - i] : values[i];
}

template <int LEVELS> static constexpr bool turbo_bounds_fit(const int16_t (&bounds)[TURBO_SEARCH][LEVELS]) {
    for (int c = 0; c < TURBO_SEARCH; ++c) {
        for (int i = 2; i < LEVELS; ++i) {
            if (bounds[c][i] - bounds[c][i - 1] < 1 << turbo_cell_bits(LEVELS)) {
                return false;
            }
        }
    }
    return true;
}

static_assert(turbo_bounds_fit(turbo3_search_bounds), "two bounds in a cell: narrow turbo_cell_bits");
static_assert(turbo_bounds_fit(turbo4_search_bounds), "two bounds in a cell: narrow turbo_cell_bits");

template <int LEVELS> static constexpr turbo_search_table<LEVELS> turbo_make_search(
        const int16_t (&bounds)[TURBO_SEARCH][LEVELS], const uint8_t (&book)[TURBO_SEARCH], const uint8_t (&flip)[TURBO_SEARCH],
        const int8_t (&kvalues)[TURBO_BOOKS][LEVELS]) {
    constexpr int BITS  = turbo_cell_bits(LEVELS);
    constexpr int WIDTH = 1 << BITS;
    turbo_search_table<LEVELS> s = {};
    for (int c = 0; c < TURBO_SEARCH; ++c) {
        s.book[c] = (uint8_t) (book[c] | flip[c] << 3);
        int code = 0;
        for (int i = 0; i < turbo_search_table<LEVELS>::CELLS; ++i) {
            const int  place = code + 1 < LEVELS ? turbo_bound(bounds[c], flip[c], code + 1) + TURBO_Q_RANGE - i*WIDTH : WIDTH;
            const int  here  = place < WIDTH ? 1 : 0;
            const uint32_t below = (uint8_t) turbo_entry(kvalues[book[c]], flip[c], code);
            const uint32_t above = (uint8_t) turbo_entry(kvalues[book[c]], flip[c], code + here);
            s.cell[i][c] = (uint32_t) (here ? place : WIDTH - 1) << (32 - BITS) | 1u << 20 | (uint32_t) code << 16 | above << 8 | below;
            code += here;
        }
    }
    return s;
}

static constexpr turbo_search_table< 8> turbo3_search_table = turbo_make_search(turbo3_search_bounds, turbo3_search_book, turbo3_search_flip, kvalues_turbo3);
static constexpr turbo_search_table<16> turbo4_search_table = turbo_make_search(turbo4_search_bounds, turbo4_search_book, turbo4_search_flip, kvalues_turbo4);
static __device__ const turbo_search_table< 8> turbo3_search_device = turbo3_search_table;
static __device__ const turbo_search_table<16> turbo4_search_device = turbo4_search_table;

// ---- what a thread does: also for the host ----------------------------------------------------------------------------

#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
// -use_fast_math would approximate the division
TURBO_HD float    turbo_mul(float a, float b) { return __fmul_rn(a, b); }
TURBO_HD float    turbo_div(float a, float b) { return __fdiv_rn(a, b); }
TURBO_HD int      turbo_round(float a)        { return __float2int_rn(a); }
TURBO_HD uint32_t turbo_bits(float a)         { return __float_as_uint(a); }
TURBO_HD float    turbo_float(uint32_t a)     { return __uint_as_float(a); }
TURBO_HD int      turbo_half_bits(float a)    { return __half_as_ushort(__float2half_rn(a)); }
#else
TURBO_HD float    turbo_mul(float a, float b) { return a*b; }
TURBO_HD float    turbo_div(float a, float b) { return a/b; }
TURBO_HD int      turbo_round(float a)        { return (int) __builtin_rintf(a); }
TURBO_HD uint32_t turbo_bits(float a)         { uint32_t u; memcpy(&u, &a, sizeof(u)); return u; }
TURBO_HD float    turbo_float(uint32_t a)     { float f;    memcpy(&f, &a, sizeof(f)); return f; }
TURBO_HD int      turbo_half_bits(float a)    { const half h = __float2half_rn(a); uint16_t u; memcpy(&u, &h, sizeof(u)); return u; }
#endif

// NaN is 0, too large is the largest. By bits, for a compiler may be told that there is no NaN.
TURBO_HD uint32_t turbo_sanitize_bits(float v) {
    const uint32_t u = turbo_bits(v);
    const uint32_t magnitude = u & 0x7fffffff;
    return magnitude > 0x7f800000 ? 0 : (u & 0x80000000) | (magnitude < TURBO_PEAK_MAX ? magnitude : TURBO_PEAK_MAX);
}

// The largest of these is the magnitude of the peak, and its last bit says whether it is a positive value's.
TURBO_HD uint32_t turbo_peak_key(uint32_t v) {
    return v << 1 | (v >> 31 ^ 1);
}

struct turbo_peak {
    float    size;
    float    turn; // what makes q of a value: the peak becomes +TURBO_Q_RANGE
    bool     negative;
    bool     zero; // the block is stored as zeros
};

TURBO_HD turbo_peak turbo_make_peak(uint32_t key) {
    turbo_peak p;
    p.size     = turbo_float(key >> 1);
    p.negative = !(key & 1);
    p.zero     = key >> 1 < TURBO_PEAK_MIN;
    const float factor = p.zero ? 0.0f : turbo_div(TURBO_Q_RANGE, p.size);
    p.turn     = p.negative ? -factor : factor;
    return p;
}

// a value as the search wants it
struct turbo_value {
    int      q;
    uint32_t word; // [place in its cell : turbo_cell_bits] .. [bytes from a candidate's first entry to that of this cell]
};

static constexpr uint32_t TURBO_CELL_MASK = 0x1fff;
static_assert(sizeof(turbo_search_table<16>::cell) <= TURBO_CELL_MASK, "a word holds all of them");

template <int LEVELS> TURBO_HD turbo_value turbo_make_value(uint32_t v, const turbo_peak & p) {
    constexpr int BITS = turbo_cell_bits(LEVELS);
    turbo_value r;
    r.q = turbo_round(turbo_mul(turbo_float(v), p.turn));
    const uint32_t u = (uint32_t) (r.q + TURBO_Q_RANGE);
    r.word = u << (32 - BITS) | (u >> BITS)*(uint32_t) (TURBO_LANES*sizeof(uint32_t));
    return r;
}

TURBO_HD uint32_t turbo_entry_at(const uint32_t (* cells)[TURBO_LANES], int candidate, uint32_t word) {
    return *(const uint32_t *) ((const char *) cells + ((word & TURBO_CELL_MASK) | (uint32_t) candidate*4));
}

// the entry that it stands for in the lowest byte
TURBO_HD uint32_t turbo_choose_entry(uint32_t entry, uint32_t word) { return word > entry ? entry >> 8 : entry; }

struct turbo_sums {
    int32_t dot;    // sum of q*t
    int32_t energy; // sum of t*t
};

template <int LEVELS> TURBO_HD int turbo_code(uint32_t entry, uint32_t word, bool flip) {
    const int code = (int) (entry >> 16 & 15) + (word > entry ? 1 : 0);
    return flip ? LEVELS - 1 - code : code;
}

// dot^2/energy, good to a few ulp: bits of a float that is not negative, which compare like it
TURBO_HD uint32_t turbo_score(const turbo_sums & s) {
    return s.dot > 0 ? turbo_bits((float) s.dot*(float) s.dot/(float) s.energy) : 0;
}

// Candidates as good as this decide among themselves, one after another, as the reference compares them. All others lose
// to the best one whatever the rounding: 31 comparisons can carry an error of 31 * 2^-22, which is half of what is kept.
TURBO_HD uint32_t turbo_near_score(uint32_t best) {
    return turbo_bits(turbo_float(best)*(1.0f - 1.0f/65536));
}

// turbo_is_better of turbo-quants-ref.h
TURBO_HD bool turbo_beats(const turbo_sums & s, const turbo_sums & best) {
    const float a = (float) s.dot;
    const float b = (float) best.dot;
    return s.dot > 0 && turbo_mul(turbo_mul(a, a), (float) best.energy) > turbo_mul(turbo_mul(b, b), (float) s.energy);
}

// bits of d
TURBO_HD uint32_t turbo_make_scale(const turbo_peak & p, const turbo_sums & s, int book_flip) {
    float scale = turbo_mul(turbo_mul(p.size, turbo_div((float) s.dot, (float) s.energy)), 128.0f/TURBO_Q_RANGE);
    scale = scale < 65504.0f ? scale : 65504.0f;
    const int book = book_flip & (TURBO_BOOKS - 1);
    int bits = ((turbo_half_bits(scale) - book + TURBO_BOOKS/2) & -TURBO_BOOKS) + book;
    bits = bits > 0x7bff ? bits - TURBO_BOOKS : bits; // keep it finite
    return (uint32_t) bits | ((book_flip >> 3 & 1) != (int) p.negative ? 0x8000 : 0);
}

// Where the code of a value of a block of turbo3 is: two bits of byte value % 16 of qs, and one of byte value % 8 of qh.
TURBO_HD int turbo3_low_shift(int value)  { return value/16*2; }
TURBO_HD int turbo3_high_shift(int value) { return (value/8 & 1)*2 + (value/16 & 1) + value/32*4; }

// ---- what 32 threads do together --------------------------------------------------------------------------------------

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TURBO_ASYNC_COPY
#endif

// A team of warps encodes a row of D values, which all of them have as attention-row.cuh says. One warp does its blocks in turn,
// as a prompt wants it, which has other warps to do meanwhile; 2 or 4 warps share each block where a token's time is what counts.
static constexpr __host__ __device__ int turbo_team(int d, int per_block) { return d/QK_TURBO*per_block; }

// the values of a block that a warp searches for
struct alignas(16) turbo_share {
    uint32_t word[QK_TURBO];
    int16_t  q[QK_TURBO];
};

// WARPS: of all teams of a CTA, which are neighbours
template <typename block_t, int WARPS> struct turbo_encode_shared {
    turbo_search_table<turbo_traits<block_t>::LEVELS> table;
    turbo_share share[WARPS];
    turbo_sums  sums[WARPS][TURBO_LANES];
};

static __device__ __forceinline__ const uint4 * turbo_search_of(const turbo_search_table< 8> &) { return (const uint4 *) &turbo3_search_device; }
static __device__ __forceinline__ const uint4 * turbo_search_of(const turbo_search_table<16> &) { return (const uint4 *) &turbo4_search_device; }

// By n threads. Does not depend on the input, so it can be done while the kernel before still runs. turbo_encode waits for it.
template <typename block_t, int WARPS> static __device__ __forceinline__ void turbo_encode_prepare(turbo_encode_shared<block_t, WARPS> & s, int thread = threadIdx.x, int n = blockDim.x) {
    constexpr int COUNT = sizeof(s.table)/sizeof(uint4);
    const uint4 * from = turbo_search_of(s.table);
    uint4       * to   = (uint4 *) &s.table;
    for (int i = thread; i < COUNT; i += n) {
#ifdef TURBO_ASYNC_COPY
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((uint32_t) __cvta_generic_to_shared(to + i)), "l"(from + i) : "memory");
#else
        to[i] = from[i];
#endif // TURBO_ASYNC_COPY
    }
}

static __device__ __forceinline__ void turbo_encode_wait() {
#ifdef TURBO_ASYNC_COPY
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif // TURBO_ASYNC_COPY
}

static __device__ __forceinline__ void turbo_syncwarp() {
#ifndef GGML_USE_HIP
    __syncwarp();
#endif // GGML_USE_HIP
}

// of 16 or 32 neighbours, which all get it
template <int LANES> static __device__ __forceinline__ uint32_t turbo_max_of_lanes(uint32_t v) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (LANES == TURBO_LANES) {
        return __reduce_max_sync(0xffffffff, v);
    } else
#endif
    {
#pragma unroll
        for (int offset = LANES/2; offset > 0; offset /= 2) { v = max(v, __shfl_xor_sync(0xffffffff, v, offset, TURBO_LANES)); }
        return v;
    }
}

// v of all lanes whose numbers differ in these bits
template <int FIRST, int LAST> static __device__ __forceinline__ uint32_t turbo_or_of_lanes(uint32_t v) {
#pragma unroll
    for (int bit = FIRST; bit <= LAST; bit *= 2) { v |= __shfl_xor_sync(0xffffffff, v, bit, TURBO_LANES); }
    return v;
}

// bit i: thread i of these 32; a warp of AMD can be 64 wide
static __device__ __forceinline__ uint32_t turbo_lanes_where(bool condition) {
#if defined(GGML_USE_HIP)
    return (uint32_t) (__ballot(condition) >> (threadIdx.x & (ggml_cuda_get_physical_warp_size() - TURBO_LANES)));
#else
    return __ballot_sync(0xffffffff, condition);
#endif // defined(GGML_USE_HIP)
}

// the products of q, four int16, with t, four int8
static __device__ __forceinline__ int turbo_dot_4(uint2 q, uint32_t t, int sum) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    return __dp2a_hi((int) q.y, (int) t, __dp2a_lo((int) q.x, (int) t, sum));
#else
    const uint32_t of[2] = { q.x, q.y };
#pragma unroll
    for (int i = 0; i < 4; ++i) { sum += (int16_t) (of[i/2] >> 16*(i%2))*(int8_t) (t >> 8*i); }
    return sum;
#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
}

static __device__ __forceinline__ int turbo_energy_4(uint32_t t, int sum) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    return __dp4a((int) t, (int) t, sum);
#else
#pragma unroll
    for (int i = 0; i < 4; ++i) { sum += (int8_t) (t >> 8*i)*(int8_t) (t >> 8*i); }
    return sum;
#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
}

// N values for the candidate of this lane, four at a time: integer instructions are what a prompt's rows wait for
template <int N> static __device__ __forceinline__ turbo_sums turbo_search(const uint32_t (* cells)[TURBO_LANES], const turbo_share & share, int lane) {
    turbo_sums sums = { 0, 0 };
#pragma unroll 4
    for (int j = 0; j < N/4; ++j) {
        const uint4 w = ((const uint4 *) share.word)[j];
        const uint2 q = ((const uint2 *) share.q)[j];
        const uint32_t e0 = turbo_entry_at(cells, lane, w.x), e1 = turbo_entry_at(cells, lane, w.y);
        const uint32_t e2 = turbo_entry_at(cells, lane, w.z), e3 = turbo_entry_at(cells, lane, w.w);
        const uint32_t t01 = turbo_byte_perm(turbo_choose_entry(e0, w.x), turbo_choose_entry(e1, w.y), 0x0040);
        const uint32_t t23 = turbo_byte_perm(turbo_choose_entry(e2, w.z), turbo_choose_entry(e3, w.w), 0x0040);
        const uint32_t t   = turbo_byte_perm(t01, t23, 0x5410);
        sums.dot    = turbo_dot_4(q, t, sums.dot);
        sums.energy = turbo_energy_4(t, sums.energy);
    }
    return sums;
}

// the candidate that the reference finds; `sums` becomes its
static __device__ __forceinline__ int turbo_choose(turbo_sums & sums) {
    const uint32_t score = turbo_score(sums);
    const uint32_t good  = turbo_lanes_where(score >= turbo_near_score(turbo_max_of_lanes<TURBO_LANES>(score)));
    turbo_sums best = { 0, 1 };
    int index = 0;
    for (uint32_t rest = good; rest != 0; rest &= rest - 1) {
        const int c = __ffs((int) rest) - 1;
        turbo_sums s;
        s.dot    = __shfl_sync(0xffffffff, sums.dot,    c, TURBO_LANES);
        s.energy = __shfl_sync(0xffffffff, sums.energy, c, TURBO_LANES);
        if (turbo_beats(s, best)) {
            best  = s;
            index = c;
        }
    }
    sums = best;
    return index;
}

// RUN bytes; blocks are aligned to 2
template <int RUN> static __device__ __forceinline__ void turbo_write_bytes(uint8_t * y, uint32_t bytes) {
#pragma unroll
    for (int i = 0; i < RUN/2; ++i) { ((uint16_t *) y)[i] = (uint16_t) (bytes >> 16*i); }
}

// Lane i of 64/RUN has codes RUN*i.. of its block. All lanes come here; those of blocks that are not theirs to write have no part in it.
template <int RUN> static __device__ __forceinline__ void turbo_write_codes(block_turbo3 * y, int i, const int (&code)[RUN], bool writes) {
    uint32_t low = 0, high = 0;
#pragma unroll
    for (int e = 0; e < RUN; ++e) {
        low  |= (uint32_t) (code[e] &  3) << 8*e;
        high |= (uint32_t) (code[e] >> 2) << 8*e;
    }
    low  = turbo_or_of_lanes<16/RUN, 32/RUN>(low  << turbo3_low_shift(RUN*i));
    high = turbo_or_of_lanes< 8/RUN, 32/RUN>(high << turbo3_high_shift(RUN*i));
    if (writes && i < 16/RUN) { turbo_write_bytes<RUN>(y->qs + RUN*i, low); }
    if (writes && i <  8/RUN) { turbo_write_bytes<RUN>(y->qh + RUN*i, high); }
}

template <int RUN> static __device__ __forceinline__ void turbo_write_codes(block_turbo4 * y, int i, const int (&code)[RUN], bool writes) {
    uint32_t codes = 0;
#pragma unroll
    for (int e = 0; e < RUN; ++e) { codes |= (uint32_t) code[e] << 8*e; }
    codes |= __shfl_xor_sync(0xffffffff, codes, 32/RUN, TURBO_LANES) << 4;
    if (writes && i < 32/RUN) { turbo_write_bytes<RUN>(y->qs + RUN*i, codes); }
}

// The barriers inside of turbo_encode: all threads of the CTA must come there.
struct turbo_all_threads {
    static __device__ __forceinline__ void wait() { __syncthreads(); }
};

// D values to D/64 blocks from y on
template <int D, int TEAM, typename barrier_t = turbo_all_threads, typename block_t, int WARPS>
static __device__ __forceinline__ void turbo_encode(turbo_encode_shared<block_t, WARPS> & s, const float (&x)[D/32], block_t * y) {
    constexpr int LEVELS = turbo_traits<block_t>::LEVELS;
    constexpr int RUN = row_run<D>(), LANES = QK_TURBO/RUN, BESIDE = TURBO_LANES/LANES; // lanes of a block, blocks beside each other
    constexpr int SHARERS = TEAM == 1 ? 1 : TEAM/(D/QK_TURBO), SHARE = QK_TURBO/SHARERS;
    static_assert(TEAM == 1 || TEAM == turbo_team(D, SHARERS), "each block has as many warps");
    const int lane = threadIdx.x % TURBO_LANES, block = lane/LANES, i = lane % LANES;
    const int warp = threadIdx.x/TURBO_LANES % TEAM, place = threadIdx.x/TURBO_LANES % WARPS, part = warp % SHARERS;
    turbo_share & share = s.share[place];
    turbo_encode_wait();
    barrier_t::wait(); // for the table

    // one warp: all blocks; a team: this warp's
    const int first = TEAM == 1 ? 0 : warp/SHARERS, end = TEAM == 1 ? D/QK_TURBO : first + 1;
#pragma unroll 1
    for (int row = first/BESIDE; row*BESIDE < end; ++row) { // of blocks that are beside each other
        float v[RUN];
#pragma unroll
        for (int e = 0; e < D/32; ++e) {
            if (e/RUN == row) { v[e%RUN] = x[e]; }
        }
        uint32_t key = 0;
#pragma unroll
        for (int e = 0; e < RUN; ++e) { key = max(key, turbo_peak_key(turbo_sanitize_bits(v[e]))); }
        const turbo_peak peak = turbo_make_peak(turbo_max_of_lanes<LANES>(key));
        turbo_value q[RUN];
#pragma unroll
        for (int e = 0; e < RUN; ++e) { q[e] = turbo_make_value<LEVELS>(turbo_sanitize_bits(v[e]), peak); }

        turbo_sums best = { 0, 1 };
        int index = 0;
#pragma unroll 1
        for (int b = max(first - row*BESIDE, 0); b < min(end - row*BESIDE, BESIDE); ++b) {
            turbo_syncwarp();
            if (block == b && i/(LANES/SHARERS) == part) {
                const int at = i%(LANES/SHARERS);
#pragma unroll
                for (int e = 0; e < RUN; ++e) {
                    share.word[RUN*at + e] = q[e].word;
                    share.q[RUN*at + e]    = (int16_t) q[e].q;
                }
            }
            turbo_syncwarp();
            turbo_sums sums = turbo_search<SHARE>(s.table.cell, share, lane);
            if constexpr (SHARERS > 1) {
                if (part > 0) { s.sums[place][lane] = sums; }
                barrier_t::wait();
                if (part > 0) { return; }
#pragma unroll
                for (int w = 1; w < SHARERS; ++w) {
                    sums.dot    += s.sums[place + w][lane].dot;
                    sums.energy += s.sums[place + w][lane].energy;
                }
            }
            const int chosen = turbo_choose(sums);
            if (block == b) {
                best  = sums;
                index = chosen;
            }
        }

        block_t * at = y + row*BESIDE + block;
        const bool writes = row*BESIDE + block >= first && row*BESIDE + block < end;
        const int  book   = s.table.book[index];
        int code[RUN];
#pragma unroll
        for (int e = 0; e < RUN; ++e) { code[e] = peak.zero ? 0 : turbo_code<LEVELS>(turbo_entry_at(s.table.cell, index, q[e].word), q[e].word, book >> 3); }
        turbo_write_codes<RUN>(at, i, code, writes);
        if (writes && i == 0) {
            *(uint16_t *) at = (uint16_t) (peak.zero ? 0 : turbo_make_scale(peak, best, book)); // d is the first member
        }
    }
}
