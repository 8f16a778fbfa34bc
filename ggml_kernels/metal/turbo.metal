#include "common.h"
#include "dequantize.h"
#include "turbo-dequantize.h"

// SET_ROWS of turbo3 and turbo4: a simdgroup encodes a block, each of its 32 threads trying one candidate of the scale
// search. The bytes are those of turbo-quants-ref.c.
//
// Kernels are compiled with fast math, which may replace a division by an approximation and reorder a product. So where
// a rounding decides about the bytes it is done here in integers. What is left in floats is one product and one rint for
// each value, which fast math has nothing to do to, and a score that only has to be nearly right.

#define TURBO_LANES    32
#define TURBO_PEAK_MIN 0x35800000u // bits of TURBO_VALUE_MIN, 2^-20
#define TURBO_PEAK_MAX 0x477de040u // bits of TURBO_VALUE_MAX, 64992.25
#define TURBO_Q_MAX_BITS    0x46800000u // bits of 16384
#define TURBO_HALF_MAX_BITS 0x477fe000u // bits of 65504

static_assert(TURBO_SEARCH == TURBO_LANES, "a candidate for each thread");

// ---- floats as bits: positive and normal, before and after ------------------------------------------------------------

// v >> drop, to nearest, ties to even; drop < 32
static inline uint turbo_shift_rne(uint v, int drop) {
    if (drop <= 0) {
        return v << -drop;
    }
    const uint rest = v & ((1u << drop) - 1);
    const uint tie  = 1u << (drop - 1);
    const uint kept = v >> drop;
    return kept + (rest > tie || (rest == tie && (kept & 1)) ? 1 : 0);
}

// bits of the float nearest to v*2^exponent
static inline uint turbo_make_float(uint v, int exponent) {
    const int drop = 8 - (int) clz(v);
    // the mantissa's leading bit adds one to the exponent, and so does a carry out of it
    return ((uint) (exponent + drop + 149) << 23) + turbo_shift_rne(v, drop);
}

static inline uint turbo_mantissa(uint a) { return (a & 0x7fffff) | 0x800000; }
static inline int  turbo_exponent(uint a) { return (int) (a >> 23) - 150; } // of the mantissa's last bit

static inline uint turbo_mul(uint a, uint b) {
    const ulong product = (ulong) turbo_mantissa(a)*turbo_mantissa(b);
    const uint  upper   = (uint) (product >> 20) | ((product & 0xfffff) != 0 ? 1 : 0);
    return turbo_make_float(upper, turbo_exponent(a) + turbo_exponent(b) + 20);
}

static inline uint turbo_div(uint a, uint b) {
    const ulong above    = (ulong) turbo_mantissa(a) << 26;
    const uint  quotient = (uint) (above/turbo_mantissa(b));
    const bool  exact    = (ulong) quotient*turbo_mantissa(b) == above;
    return turbo_make_float(quotient | (exact ? 0 : 1), turbo_exponent(a) - turbo_exponent(b) - 26);
}

// bits of the half nearest to a, which is at most 65504
static inline int turbo_make_half(uint a) {
    const int exponent = turbo_exponent(a);
    const int unit     = max(exponent + 13, -24); // of a half's last bit
    return ((unit + 24) << 10) + (int) turbo_shift_rne(turbo_mantissa(a), min(unit - exponent, 31));
}

// ---- what the candidates are ------------------------------------------------------------------------------------------

template <typename block_t> struct turbo_traits;
template <> struct turbo_traits<block_turbo3> { enum { LEVELS =  8 }; };
template <> struct turbo_traits<block_turbo4> { enum { LEVELS = 16 }; };

static inline const constant short * turbo_bounds_of(device const block_turbo3 *, int c) { return turbo3_search_bounds[c]; }
static inline const constant short * turbo_bounds_of(device const block_turbo4 *, int c) { return turbo4_search_bounds[c]; }

static inline uint turbo_search_book(device const block_turbo3 *, int c) { return turbo3_search_book[c]; }
static inline uint turbo_search_book(device const block_turbo4 *, int c) { return turbo4_search_book[c]; }
static inline bool turbo_search_flip(device const block_turbo3 *, int c) { return turbo3_search_flip[c] != 0; }
static inline bool turbo_search_flip(device const block_turbo4 *, int c) { return turbo4_search_flip[c] != 0; }

// ---- a block's values as the search sees them -------------------------------------------------------------------------

// NaN is 0, too large is the largest
static inline uint turbo_sanitize(uint v) {
    const uint magnitude = v & 0x7fffffff;
    return magnitude > 0x7f800000 ? 0 : (v & 0x80000000) | min(magnitude, TURBO_PEAK_MAX);
}

// The largest of these is the magnitude of the peak, and its last bit says whether it is a positive value's.
static inline uint turbo_peak_key(uint v) {
    return v << 1 | (v >> 31 ^ 1);
}

static inline short turbo_round(uint v, float turn) {
    return (short) rint(as_type<float>(v)*turn);
}

// ---- the search -------------------------------------------------------------------------------------------------------

struct turbo_sums {
    int dot;    // sum of q*t
    int energy; // sum of t*t
};

// This thread's candidate. q0 and q1 are values `lane` and 32 + lane, which the others get by shuffling.
template <typename block_t>
static inline turbo_sums turbo_try(device const block_t * y, short q0, short q1, ushort lane) {
    constexpr short LEVELS = turbo_traits<block_t>::LEVELS;
    const bool flip = turbo_search_flip(y, lane);
    const auto book = turbo_load_book(y, turbo_search_book(y, lane));

    short bounds[LEVELS];
    FOR_UNROLL (short i = 1; i < LEVELS; ++i) {
        bounds[i] = turbo_bounds_of(y, lane)[i];
    }

    turbo_sums sums = { 0, 0 };
    for (short j = 0; j < QK_TURBO; ++j) {
        const short q = simd_shuffle(j < TURBO_LANES ? q0 : q1, j % TURBO_LANES);
        const short v = flip ? -q : q;
        uint code = 0;
        FOR_UNROLL (short i = 1; i < LEVELS; ++i) {
            code += v > bounds[i] ? 1 : 0;
        }
        const int t = turbo_entry(book, code);
        sums.dot    += v*t; // both turned over, if flipped: the product is that of q and the mirrored entry
        sums.energy += t*t;
    }
    return sums;
}

// turbo_is_better of turbo-quants-ref.h, of two with a positive dot
static inline bool turbo_beats(turbo_sums s, turbo_sums best) {
    const uint a = turbo_make_float(s.dot,    0);
    const uint b = turbo_make_float(best.dot, 0);
    return turbo_mul(turbo_mul(a, a), turbo_make_float(best.energy, 0)) > turbo_mul(turbo_mul(b, b), turbo_make_float(s.energy, 0));
}

// The candidate that the reference finds; `sums` becomes its. Those with about the best score decide among themselves, one
// after another, as the reference compares them. All others lose to the best one whatever the rounding: 31 comparisons
// can carry an error of 31 * 2^-22, which is half of what is kept.
static inline int turbo_choose(thread turbo_sums & sums, ushort lane) {
    const float score = sums.dot > 0 ? (float) sums.dot*(float) sums.dot/(float) sums.energy : 0.0f;
    const bool  good  = sums.dot > 0 && score >= simd_max(score)*(1.0f - 1.0f/65536);

    int index = -1;
    turbo_sums best = { 0, 1 };
    for (uint rest = simd_sum(good ? 1u << lane : 0u); rest != 0; rest &= rest - 1) {
        const ushort c = ctz(rest);
        const turbo_sums s = { simd_shuffle(sums.dot, c), simd_shuffle(sums.energy, c) };
        if (index < 0 || turbo_beats(s, best)) {
            best  = s;
            index = c;
        }
    }
    sums = best;
    return index;
}

// ---- writing ----------------------------------------------------------------------------------------------------------

// bits of d
static inline ushort turbo_make_scale(uint peak, bool negative, turbo_sums sums, uint book) {
    const uint ratio = turbo_div(turbo_make_float(sums.dot, 0), turbo_make_float(sums.energy, 0));
    const uint scale = turbo_mul(peak, ratio) - (7u << 23); // times 128/16384
    int bits = turbo_make_half(min(scale, TURBO_HALF_MAX_BITS));
    bits = ((bits - (int) book + TURBO_BOOKS/2) & -TURBO_BOOKS) + (int) book;
    bits = bits > 0x7bff ? bits - TURBO_BOOKS : bits; // keep it finite
    return (ushort) (bits | (negative ? 0x8000 : 0));
}

// The thread has the codes of values lane and 32 + lane: its bits of qs[lane & 15] (low byte) and of qh[lane & 7] (high
// byte). The other threads of the same byte have the others.
static inline void turbo_write_codes(device block_turbo3 * y, ushort lane, uint code0, uint code1) {
    const uint c    = lane >> 4;
    const uint high = 2*(lane >> 3 & 1) + c;
    uint w = (code0 & 3) << 2*c | (code1 & 3) << (2*c + 4) | ((code0 >> 2) << high | (code1 >> 2) << (high + 4)) << 8;
    w |= simd_shuffle_xor(w, 16);
    const uint h = w | simd_shuffle_xor(w, 8);
    if (lane < 16) {
        y->qs[lane] = (uint8_t) w;
    } else if (lane < 24) {
        y->qh[lane - 16] = (uint8_t) (h >> 8);
    }
}

static inline void turbo_write_codes(device block_turbo4 * y, ushort lane, uint code0, uint code1) {
    y->qs[lane] = (uint8_t) (code0 | code1 << 4);
}

template <typename block_t>
static inline uint turbo_code(device const block_t * y, int c, short q) {
    const short v = turbo_search_flip(y, c) ? -q : q;
    uint code = 0;
    FOR_UNROLL (short i = 1; i < turbo_traits<block_t>::LEVELS; ++i) {
        code += v > turbo_bounds_of(y, c)[i] ? 1 : 0;
    }
    return code;
}

// Encodes 64 floats at x, given as bits, by the 32 threads of a simdgroup.
template <typename block_t>
static inline void turbo_encode(device const uint * x, device block_t * y, ushort lane) {
    const uint v0  = turbo_sanitize(x[lane]);
    const uint v1  = turbo_sanitize(x[lane + TURBO_LANES]);
    const uint key = simd_max(max(turbo_peak_key(v0), turbo_peak_key(v1)));

    const uint peak     = key >> 1;
    const bool negative = !(key & 1);

    uint   code0 = 0;
    uint   code1 = 0;
    ushort scale = 0;

    if (peak >= TURBO_PEAK_MIN) {
        const float factor = as_type<float>(turbo_div(TURBO_Q_MAX_BITS, peak) | (negative ? 0x80000000 : 0));
        const short q0 = turbo_round(v0, factor);
        const short q1 = turbo_round(v1, factor);

        turbo_sums sums = turbo_try(y, q0, q1, lane);
        const int c = turbo_choose(sums, lane);

        code0 = turbo_code(y, c, q0);
        code1 = turbo_code(y, c, q1);
        scale = turbo_make_scale(peak, negative != turbo_search_flip(y, c), sums, turbo_search_book(y, c));
    }

    turbo_write_codes(y, lane, code0, code1);
    if (lane == 0) {
        *(device ushort *) &y->d = scale;
    }
}

// As kernel_set_rows_q of quantize.metal, but a simdgroup for each block: block tgpig.x*tptg.y + sgitg of the ne01 rows.
template <typename TI, typename block_t>
kernel void kernel_set_rows_turbo(
        constant ggml_metal_kargs_set_rows & args,
        device const  void * src0,
        device const  void * src1,
        device       float * dst,
        uint3                tgpig[[threadgroup_position_in_grid]],
        uint3                tptg [[threads_per_threadgroup]],
        ushort               tiisg[[thread_index_in_simdgroup]],
        ushort               sgitg[[simdgroup_index_in_threadgroup]]) {
    const int32_t i03 = tgpig.z;
    const int32_t i02 = tgpig.y;

    const int32_t i12 = i03%args.ne12;
    const int32_t i11 = i02%args.ne11;

    const int32_t ib  = tgpig.x*tptg.y + sgitg;
    const int32_t i01 = ib/args.nk0;
    const int32_t i00 = ib%args.nk0;
    if (i01 >= args.ne01) {
        return;
    }

    const TI i1 = *(device const TI *) ((device const char *) src1 + i01*args.nb10 + i11*args.nb11 + i12*args.nb12);

    device       block_t * dst_row = (device       block_t *) ((device       char *) dst  +  i1*args.nb1  + i02*args.nb2  + i03*args.nb3);
    device const uint    * src_row = (device const uint    *) ((device const char *) src0 + i01*args.nb01 + i02*args.nb02 + i03*args.nb03);

    turbo_encode(src_row + QK_TURBO*i00, dst_row + i00, tiisg);
}

typedef decltype(kernel_set_rows_turbo<int64_t, block_turbo3>) set_rows_turbo_t;

template [[host_name("kernel_set_rows_f32_i64_turbo3")]] kernel set_rows_turbo_t kernel_set_rows_turbo<int64_t, block_turbo3>;
template [[host_name("kernel_set_rows_f32_i32_turbo3")]] kernel set_rows_turbo_t kernel_set_rows_turbo<int32_t, block_turbo3>;
template [[host_name("kernel_set_rows_f32_i64_turbo4")]] kernel set_rows_turbo_t kernel_set_rows_turbo<int64_t, block_turbo4>;
template [[host_name("kernel_set_rows_f32_i32_turbo4")]] kernel set_rows_turbo_t kernel_set_rows_turbo<int32_t, block_turbo4>;
