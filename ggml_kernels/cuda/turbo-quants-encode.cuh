#pragma once

// Encoding turbo3 and turbo4 on a GPU: each of 32 lanes tries one candidate of the scale search. The bytes are
// those of turbo-quants-ref.c: q, the sums and the comparison of candidates are the same integers and floats.
//
// The reference counts the bounds below a value, up to 15 comparisons. Here the range of q is cut into cells so narrow
// that no two bounds of a candidate share one. A table [cell][candidate] then holds all there is to know: where the
// bound is in the cell, and the codebook entries on its two sides. All 32 threads look at the same value, so they read
// neighbouring words, and one comparison is left. A flipped candidate is an ordinary one with mirrored bounds and entries.

#include "turbo-quants-decode.cuh"

#include <string.h>

#define TURBO_LANES       TURBO_SEARCH
#define TURBO_Q_RANGE     16384         // TURBO_Q_MAX of turbo-quants-ref.h
#define TURBO_PEAK_MIN    0x35800000u   // bits of TURBO_VALUE_MIN, 2^-20
#define TURBO_PEAK_MAX    0x477de040u   // bits of TURBO_VALUE_MAX, 64992.25

// ---- the table of cells -----------------------------------------------------------------------------------------------

// cells of turbo3 are twice as wide: its bounds are
static constexpr __host__ __device__ int turbo_cell_bits(int levels) { return levels == 8 ? 11 : 10; }

// An entry: [place of the bound in the cell : turbo_cell_bits] .. [code below it, 4 bits at 16] [entry above] [entry below].
// Compared as a whole, its upper bits decide. A cell without a bound has it at the cell's end: nothing is above.
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
            s.cell[i][c] = (uint32_t) (here ? place : WIDTH - 1) << (32 - BITS) | (uint32_t) code << 16 | above << 8 | below;
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

// a value as the search wants it; 16 bytes, which are one read for all threads
struct alignas(16) turbo_value {
    int32_t  q;
    uint32_t cell;  // bytes from the first entry of a candidate to that of this cell
    uint32_t place; // in the cell, in the upper bits
    uint32_t unused;
};

template <int LEVELS> TURBO_HD turbo_value turbo_make_value(uint32_t v, const turbo_peak & p) {
    turbo_value r;
    r.q      = turbo_round(turbo_mul(turbo_float(v), p.turn));
    r.cell   = (uint32_t) (r.q + TURBO_Q_RANGE) >> turbo_cell_bits(LEVELS);
    r.place  = (uint32_t) (r.q + TURBO_Q_RANGE) << (32 - turbo_cell_bits(LEVELS));
    r.cell  *= TURBO_LANES*sizeof(uint32_t);
    r.unused = 0;
    return r;
}

// column: the candidate's first entry
TURBO_HD uint32_t turbo_entry_at(const uint32_t * column, const turbo_value & v) {
    return *(const uint32_t *) ((const char *) column + v.cell);
}

struct turbo_sums {
    int32_t dot;    // sum of q*t
    int32_t energy; // sum of t*t
};

TURBO_HD void turbo_add(turbo_sums & s, const turbo_value & v, uint32_t entry) {
    const int t = (int8_t) (v.place > entry ? entry >> 8 : entry);
    s.dot    += v.q*t;
    s.energy += t*t;
}

template <int LEVELS> TURBO_HD int turbo_code(const turbo_value & v, uint32_t entry, bool flip) {
    const int code = (int) (entry >> 16 & 15) + (v.place > entry ? 1 : 0);
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

// Thread `lane` has the codes of values lane and 32 + lane. turbo3: its bits of qs[lane & 15] (low byte) and of
// qh[lane & 7] (high byte); the other threads of the same byte have the others.
TURBO_HD uint32_t turbo3_plane_bits(int lane, int code0, int code1) {
    const int c = lane >> 4;
    const int high = 2*(lane >> 3 & 1) + c;
    return (uint32_t) ((code0 & 3) << 2*c | (code1 & 3) << (2*c + 4) | ((code0 >> 2) << high | (code1 >> 2) << (high + 4)) << 8);
}

// ---- what 32 threads do together --------------------------------------------------------------------------------------

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TURBO_ASYNC_COPY
#endif

// A team of 1, 2 or 4 warps encodes a block, each its share of the values for all candidates: four where there are so few
// blocks that a team's time is what counts, two where other warps have work meanwhile.
#define TURBO_MAX_TEAM       4
#define TURBO_TEAMS          4 // of a CTA that encode at once, at most, and neighbours

template <typename block_t> struct turbo_encode_shared {
    turbo_search_table<turbo_traits<block_t>::LEVELS> table;
    turbo_value value[TURBO_TEAMS][QK_TURBO];
    turbo_sums  sums[TURBO_TEAMS][TURBO_MAX_TEAM - 1][TURBO_LANES];
};

static __device__ __forceinline__ const uint4 * turbo_search_of(const turbo_search_table< 8> &) { return (const uint4 *) &turbo3_search_device; }
static __device__ __forceinline__ const uint4 * turbo_search_of(const turbo_search_table<16> &) { return (const uint4 *) &turbo4_search_device; }

// By n threads. Does not depend on the input, so it can be done while the kernel before still runs. turbo_encode waits for it.
template <typename block_t> static __device__ __forceinline__ void turbo_encode_prepare(turbo_encode_shared<block_t> & s, int thread = threadIdx.x, int n = blockDim.x) {
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

static __device__ __forceinline__ uint32_t turbo_max_of_lanes(uint32_t v) {
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffff, v);
#else
#pragma unroll
    for (int offset = TURBO_LANES/2; offset > 0; offset /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffff, v, offset, TURBO_LANES);
        v = v > other ? v : other;
    }
    return v;
#endif
}

// bit i: thread i of these 32; a warp of AMD can be 64 wide
static __device__ __forceinline__ uint32_t turbo_lanes_where(bool condition) {
#if defined(GGML_USE_HIP)
    return (uint32_t) (__ballot(condition) >> (threadIdx.x & (ggml_cuda_get_physical_warp_size() - TURBO_LANES)));
#else
    return __ballot_sync(0xffffffff, condition);
#endif // defined(GGML_USE_HIP)
}

// the candidate that the reference finds; `sums` becomes its
static __device__ __forceinline__ int turbo_choose(turbo_sums & sums) {
    const uint32_t score = turbo_score(sums);
    const uint32_t good  = turbo_lanes_where(score >= turbo_near_score(turbo_max_of_lanes(score)));
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

static __device__ __forceinline__ void turbo_write_codes(block_turbo3 * y, int lane, int code0, int code1) {
    uint32_t w = turbo3_plane_bits(lane, code0, code1);
    w |= __shfl_xor_sync(0xffffffff, w, 16, TURBO_LANES);
    const uint32_t h = w | __shfl_xor_sync(0xffffffff, w, 8, TURBO_LANES);
    if (lane < 16) {
        y->qs[lane] = (uint8_t) w;
    } else if (lane < 24) {
        y->qh[lane - 16] = (uint8_t) (h >> 8);
    }
}

static __device__ __forceinline__ void turbo_write_codes(block_turbo4 * y, int lane, int code0, int code1) {
    y->qs[lane] = (uint8_t) (code0 | code1 << 4);
}

// The barriers inside of turbo_encode: all threads of the CTA must come there.
struct turbo_all_threads {
    static __device__ __forceinline__ void wait() { __syncthreads(); }
};

// Encodes the block y. Thread `lane` of a team's first warp brings values lane (x0) and 32 + lane (x1).
template <int TEAM, typename barrier_t = turbo_all_threads, typename block_t>
static __device__ __forceinline__ void turbo_encode(turbo_encode_shared<block_t> & s, float x0, float x1, block_t * y) {
    constexpr int LEVELS = turbo_traits<block_t>::LEVELS;
    constexpr int SHARE  = QK_TURBO/TEAM;
    const int lane = threadIdx.x % TURBO_LANES;
    const int warp = threadIdx.x/TURBO_LANES % TEAM, team = threadIdx.x/(TURBO_LANES*TEAM) % TURBO_TEAMS;
    turbo_value * value = s.value[team];

    turbo_peak  peak = {};
    turbo_value q0 = {}, q1 = {};
    if (warp == 0) {
        const uint32_t v0 = turbo_sanitize_bits(x0);
        const uint32_t v1 = turbo_sanitize_bits(x1);
        const uint32_t k0 = turbo_peak_key(v0);
        const uint32_t k1 = turbo_peak_key(v1);
        peak = turbo_make_peak(turbo_max_of_lanes(k0 > k1 ? k0 : k1));
        q0 = turbo_make_value<LEVELS>(v0, peak);
        q1 = turbo_make_value<LEVELS>(v1, peak);
        value[lane]               = q0;
        value[lane + TURBO_LANES] = q1;
    }
    turbo_encode_wait();
    barrier_t::wait(); // for the table, too

    const uint32_t * columns = s.table.cell[0];
    turbo_sums sums = { 0, 0 };
#pragma unroll 16
    for (int j = 0; j < SHARE; ++j) {
        const turbo_value v = value[warp*SHARE + j];
        turbo_add(sums, v, turbo_entry_at(columns + lane, v));
    }
    if (TEAM > 1) {
        if (warp > 0) {
            s.sums[team][warp - 1][lane] = sums;
        }
        barrier_t::wait();
        if (warp > 0) {
            return;
        }
    }
#pragma unroll
    for (int w = 0; w < TEAM - 1; ++w) {
        sums.dot    += s.sums[team][w][lane].dot;
        sums.energy += s.sums[team][w][lane].energy;
    }
    const int index = turbo_choose(sums);
    const int book  = s.table.book[index];

    const bool flip  = book >> 3;
    const int  code0 = peak.zero ? 0 : turbo_code<LEVELS>(q0, turbo_entry_at(columns + index, q0), flip);
    const int  code1 = peak.zero ? 0 : turbo_code<LEVELS>(q1, turbo_entry_at(columns + index, q1), flip);
    turbo_write_codes(y, lane, code0, code1);
    if (lane == 0) {
        *(uint16_t *) y = (uint16_t) (peak.zero ? 0 : turbo_make_scale(peak, sums, book)); // d is the first member
    }
}
