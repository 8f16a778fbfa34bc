#version 450

// SET_ROWS and CPY of floats to turbo3 and turbo4: a workgroup encodes block after block. The bytes are those of
// turbo-quants-ref.c. SET_ROWS also does the rotation before it, if it is asked to.
//
// Each of the 32 candidates of the scale search has four threads, a quarter of the values for each. They work together
// through shared memory only, so the subgroup's size does not matter.
//
// A division may be off by 2.5 ulp in Vulkan, and no rounding mode is promised. So where a rounding decides about the bytes
// it is done here in integers. What is left in floats is one product and one roundEven for each value, and a score that
// only has to be nearly right.

#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require

#define TURBO_TABLES_SEARCH
#include "turbo_blocks.glsl"
#include "turbo_tables.glsl"

#if defined(DATA_A_TURBO3)
#define D_TYPE  block_turbo3_packed16
#define LEVELS  8
#define BOOKS   0
#define CHOICES turbo3_search
#else
#define D_TYPE  block_turbo4_packed16
#define LEVELS  16
#define BOOKS   16
#define CHOICES turbo4_search
#endif

#define A_TYPE uint // floats, as bits

#if defined(SET_ROWS)
#include "generic_binary_head.glsl"
#if B_SIZE == 64
#define ROW_OF .x
#else
#define ROW_OF
#endif
#else
#include "generic_unary_head.glsl"
#endif

#define TEAM            4
#define SHARE           (QK_TURBO/TEAM)
#define PEAK_MIN        0x35800000u // bits of TURBO_VALUE_MIN, 2^-20
#define PEAK_MAX        0x477de040u // bits of TURBO_VALUE_MAX, 64992.25
#define Q_MAX_BITS      0x46800000u // bits of 16384
#define HALF_MAX_BITS   0x477fe000u // bits of 65504

layout(local_size_x = TURBO_SEARCH*TEAM, local_size_y = 1, local_size_z = 1) in;

// by candidate in the last place: the threads of a subgroup then read different banks
shared int bounds[LEVELS*TURBO_SEARCH]; // below each code; the first row is not used
shared int entries[LEVELS*TURBO_SEARCH];

shared uint peak_key;
shared uint best_score;
shared uint good;
shared ivec4 q[QK_TURBO/4];
shared int  dots[TURBO_SEARCH];     // sums of q*t
shared int  energies[TURBO_SEARCH]; // sums of t*t
shared uint codes[QK_TURBO];

// ---- floats as bits: positive and normal, before and after ------------------------------------------------------------

// v >> drop, to nearest, ties to even; drop < 32
uint shift_rne(uint v, int drop) {
    if (drop <= 0) {
        return v << -drop;
    }
    const uint rest = v & ((1u << drop) - 1u);
    const uint tie  = 1u << (drop - 1);
    const uint kept = v >> drop;
    return kept + (rest > tie || (rest == tie && (kept & 1u) != 0) ? 1u : 0u);
}

// bits of the float nearest to v*2^exponent
uint make_float(uint v, int exponent) {
    const int drop = findMSB(v) - 23;
    // the mantissa's leading bit adds one to the exponent, and so does a carry out of it
    return (uint(exponent + drop + 149) << 23) + shift_rne(v, drop);
}

uint mantissa(uint a) { return (a & 0x7fffffu) | 0x800000u; }
int  exponent_of(uint a) { return int(a >> 23) - 150; } // of the mantissa's last bit

uint multiply(uint a, uint b) {
    uint high, low;
    umulExtended(mantissa(a), mantissa(b), high, low);
    const uint upper = high << 12 | low >> 20 | ((low & 0xfffffu) != 0 ? 1u : 0u);
    return make_float(upper, exponent_of(a) + exponent_of(b) + 20);
}

// The quotient's 26 digits from a division of floats, which is off by 48 at most, and what is left of a, below 2^30, by integers
// modulo 2^32. Nothing here depends on how a float is rounded.
uint divide(uint a, uint b) {
    const uint of = mantissa(a);
    const int  by = int(mantissa(b));
    int quotient = int(float(of)/float(by)*67108864.0f);
    int rest     = int(of << 26) - quotient*by;
    const int more = int(floor(float(rest)/float(by)));
    quotient += more;
    rest     -= more*by;
    if (rest < 0) {
        quotient -= 1;
        rest     += by;
    } else if (rest >= by) {
        quotient += 1;
        rest     -= by;
    }
    return make_float(uint(quotient) | (rest != 0 ? 1u : 0u), exponent_of(a) - exponent_of(b) - 26);
}

// bits of the half nearest to a, which is at most 65504
int make_half(uint a) {
    const int exponent = exponent_of(a);
    const int unit     = max(exponent + 13, -24); // of a half's last bit
    return ((unit + 24) << 10) + int(shift_rne(mantissa(a), min(unit - exponent, 31)));
}

// ---- a block's values as the search sees them -------------------------------------------------------------------------

// NaN is 0, too large is the largest
uint sanitize(uint v) {
    const uint magnitude = v & 0x7fffffffu;
    return magnitude > 0x7f800000u ? 0 : (v & 0x80000000u) | min(magnitude, PEAK_MAX);
}

// The largest of these is the magnitude of the peak, and its last bit says whether it is a positive value's.
uint make_peak_key(uint v) {
    return v << 1 | (v >> 31 ^ 1u);
}

// ---- the search -------------------------------------------------------------------------------------------------------

bool flip_of(uint candidate) { return (CHOICES[candidate] & 8u) != 0; }
uint book_of(uint candidate) { return CHOICES[candidate] & 7u; }
int  span_of(uint candidate) { return int(CHOICES[candidate] >> 4); }

// A candidate for the mirrored block has mirrored tables instead, so that the search need not turn over each value.
void load_candidates() {
    const uint candidate = gl_LocalInvocationIndex%TURBO_SEARCH;
    const uint team      = gl_LocalInvocationIndex/TURBO_SEARCH;
    const uint book      = book_of(candidate);
    const bool flip      = flip_of(candidate);
    for (uint i = team; i < LEVELS/4; i += TEAM) {
        const int four = int(turbo_books[BOOKS + book*(LEVELS/4) + i]);
        [[unroll]] for (int t = 0; t < 4; ++t) {
            const int  entry = bitfieldExtract(four, 8*t, 8);
            const uint level = 4*i + t;
            entries[(flip ? LEVELS - 1 - level : level)*TURBO_SEARCH + candidate] = flip ? -entry : entry;
        }
    }
    barrier();
    for (uint i = team + 1; i < LEVELS; i += TEAM) {
        const int sum   = entries[(i - 1)*TURBO_SEARCH + candidate] + entries[i*TURBO_SEARCH + candidate];
        const int bound = ((flip ? -sum : sum)*span_of(candidate) + 254*65536)/254 - 65536; // rounds down
        bounds[i*TURBO_SEARCH + candidate] = flip ? -bound - 1 : bound; // v > this where -v > bound does not hold
    }
}

int middle_of(uint candidate) { return bounds[LEVELS/2*TURBO_SEARCH + candidate]; }

// where the candidate's entry for v is; middle: the bound that is asked first
uint place_of(int v, uint candidate, int middle) {
    uint at = candidate + (v > middle ? LEVELS/2*TURBO_SEARCH : 0);
    [[unroll]] for (uint step = LEVELS/4*TURBO_SEARCH; step >= TURBO_SEARCH; step /= 2) {
        at += v > bounds[at + step] ? step : 0;
    }
    return at;
}

void try_candidate() {
    const uint candidate = gl_LocalInvocationIndex%TURBO_SEARCH;
    const uint first     = gl_LocalInvocationIndex/TURBO_SEARCH*(SHARE/4);
    const int  middle    = middle_of(candidate);
    int dot    = 0;
    int energy = 0;
    [[dont_unroll]] for (uint i = first; i < first + SHARE/4; ++i) {
        const ivec4 four = q[i];
        [[unroll]] for (uint t = 0; t < 4; ++t) {
            const int entry = entries[place_of(four[t], candidate, middle)];
            dot    += four[t]*entry;
            energy += entry*entry;
        }
    }
    atomicAdd(dots[candidate], dot);
    atomicAdd(energies[candidate], energy);
}

uint score_of(uint candidate) {
    const float dot = float(dots[candidate]);
    return dots[candidate] > 0 ? floatBitsToUint(dot*dot/float(energies[candidate])) : 0;
}

// turbo_is_better of turbo-quants-ref.h, of two with a positive dot
bool beats(uint candidate, uint best) {
    const uint a = make_float(uint(dots[candidate]), 0);
    const uint b = make_float(uint(dots[best]), 0);
    return multiply(multiply(a, a), make_float(uint(energies[best]), 0)) >
           multiply(multiply(b, b), make_float(uint(energies[candidate]), 0));
}

// The candidate that the reference finds. Those with about the best score decide among themselves, one after another, as the
// reference compares them. All others lose to the best one whatever the rounding: 31 comparisons can carry an error of
// 31 * 2^-22, which is half of what is kept. Some dot is positive: the peak's share outweighs that of values so near to
// zero that their entry has the other sign.
uint choose() {
    const uint tid = gl_LocalInvocationIndex;
    uint score = 0;
    if (tid < TURBO_SEARCH) {
        score = score_of(tid);
        atomicMax(best_score, score);
    }
    barrier();
    if (tid < TURBO_SEARCH && uintBitsToFloat(score) >= uintBitsToFloat(best_score)*(1.0f - 1.0f/65536)) {
        atomicOr(good, 1u << tid);
    }
    barrier();
    uint best = findLSB(good);
    for (uint rest = good & (good - 1u); rest != 0; rest &= rest - 1u) {
        const uint candidate = findLSB(rest);
        best = beats(candidate, best) ? candidate : best;
    }
    return best;
}

// ---- writing ----------------------------------------------------------------------------------------------------------

// bits of d
uint make_scale(uint peak, bool negative, uint candidate) {
    const uint ratio = divide(make_float(uint(dots[candidate]), 0), make_float(uint(energies[candidate]), 0));
    const uint scale = multiply(peak, ratio) - (7u << 23); // times 128/16384
    const int  book  = int(book_of(candidate));
    int bits = make_half(min(scale, HALF_MAX_BITS));
    bits = ((bits - book + 4) & -8) + book;
    bits = bits > 0x7bff ? bits - 8 : bits; // keep it finite
    return uint(bits) | (negative ? 0x8000u : 0u);
}

#if defined(DATA_A_TURBO3)
uint low_byte(uint i) {
    return (codes[i] & 3u) | (codes[16 + i] & 3u) << 2 | (codes[32 + i] & 3u) << 4 | (codes[48 + i] & 3u) << 6;
}

uint high_byte(uint i) {
    uint byte = 0;
    [[unroll]] for (uint k = 0; k < 8; ++k) {
        byte |= (codes[8*k + i] >> 2) << (4*(k >> 2) + 2*(k & 1u) + (k >> 1 & 1u)); // value 16*(k/2) + 8*(k%2) + i
    }
    return byte;
}

void write_codes(uint ib) {
    const uint i = gl_LocalInvocationIndex;
    if (i < 8) {
        data_d[ib].qs[i] = uint16_t(low_byte(2*i) | low_byte(2*i + 1) << 8);
    } else if (i < 12) {
        data_d[ib].qh[i - 8] = uint16_t(high_byte(2*(i - 8)) | high_byte(2*(i - 8) + 1) << 8);
    }
}
#else
void write_codes(uint ib) {
    const uint i = gl_LocalInvocationIndex;
    if (i < 16) {
        data_d[ib].qs[i] = uint16_t(codes[2*i] | codes[32 + 2*i] << 4 | codes[2*i + 1] << 8 | codes[33 + 2*i] << 12);
    }
}
#endif

// ---- a block ----------------------------------------------------------------------------------------------------------

// Thread i has value i of the block, as bits, i < 64; the others' v is not used.
void encode(uint v, uint ib) {
    const uint tid = gl_LocalInvocationIndex;

    if (tid < TURBO_SEARCH) {
        dots[tid]     = 0;
        energies[tid] = 0;
    }
    if (tid == 0) {
        peak_key   = 0;
        best_score = 0;
        good       = 0;
    }
    barrier();

    v = sanitize(v);
    if (tid < QK_TURBO) {
        atomicMax(peak_key, make_peak_key(v));
    }
    barrier();

    const uint peak     = peak_key >> 1;
    const bool negative = (peak_key & 1u) == 0;

    uint candidate = 0;
    if (peak < PEAK_MIN) {
        if (tid < QK_TURBO) {
            codes[tid] = 0;
        }
    } else {
        int mine = 0;
        if (tid < QK_TURBO) {
            const float turn = uintBitsToFloat(divide(Q_MAX_BITS, peak) | (negative ? 0x80000000u : 0u));
            mine = int(roundEven(uintBitsToFloat(v)*turn));
            q[tid/4][tid%4] = mine;
        }
        barrier();
        try_candidate();
        barrier();
        candidate = choose();
        if (tid < QK_TURBO) {
            const uint code = place_of(mine, candidate, middle_of(candidate))/TURBO_SEARCH;
            codes[tid] = flip_of(candidate) ? LEVELS - 1 - code : code;
        }
    }
    barrier();

    write_codes(ib);
    if (tid == 0) {
        data_d[ib].d = uint16_t(peak < PEAK_MIN ? 0 : make_scale(peak, negative != flip_of(candidate), candidate));
    }
}

// ---- what is encoded -------------------------------------------------------------------------------------------------

#if defined(SET_ROWS)

// SET_ROWS may have before it the product with a Hadamard matrix of param3 x param3, times param1, whose rows are blocks or
// heads: 64, 128 or 256; 0 for none. It is done for the block alone, though its input is the whole row. The sums are those
// of fwht.comp and in its order, but whether the first of them are rounded with the product by param1 or after it is the
// compiler's choice there and here.
shared float turning[256];

// the values of a row of the product that this thread has first
void load_row(uint row, out float x[8]) {
    const uint first = gl_LocalInvocationIndex*8;
    [[unroll]] for (uint k = 0; k < 8; ++k) {
        x[k] = first < uint(p.param3) ? uintBitsToFloat(data_a[row + first + k])*p.param1 : 0.0f;
    }
}

void add_eight(inout float x[8]) {
    [[unroll]] for (uint h = 1; h < 8; h *= 2) {
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            if ((k & h) == 0) {
                const float a = x[k];
                const float b = x[k + h];
                x[k]     = a + b;
                x[k + h] = a - b;
            }
        }
    }
}

// Value tid % 64 of block `part` of the row.
float turn_row(inout float x[8], uint part) {
    const uint tid    = gl_LocalInvocationIndex;
    const bool mine   = tid*8 < uint(p.param3);
    const uint column = tid/8*QK_TURBO + tid%8;
    add_eight(x);
    if (mine) {
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            turning[8*tid + k] = x[k];
        }
    }
    barrier();
    if (mine) {
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            x[k] = turning[column + 8*k];
        }
        add_eight(x);
        [[unroll]] for (uint k = 0; k < 8; ++k) {
            turning[column + 8*k] = x[k];
        }
    }
    barrier();
    float y[4];
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        y[j] = QK_TURBO*j < uint(p.param3) ? turning[QK_TURBO*j + tid%QK_TURBO] : 0.0f;
    }
    const float a = (part & 1u) == 0 ? y[0] + y[1] : y[0] - y[1];
    const float b = (part & 1u) == 0 ? y[2] + y[3] : y[2] - y[3];
    return (part & 2u) == 0 ? a + b : a - b;
}

#endif // defined(SET_ROWS)

void main() {
    const uint tid   = gl_LocalInvocationIndex;
    const uint count = gl_NumWorkGroups.x*gl_NumWorkGroups.y*gl_NumWorkGroups.z;
    bool fresh = true;
    for (uint block = gl_WorkGroupID.z*262144 + gl_WorkGroupID.y*512 + gl_WorkGroupID.x; block < p.ne/QK_TURBO; block += count) {
        const uint idx = block*QK_TURBO;
#if defined(SET_ROWS)
        uint i00, i01, i02, i03;
        get_indices(idx, i00, i01, i02, i03);
        const uint i1   = data_b[src1_idx(i01, fastmod(i02, p.ne11), fastmod(i03, p.ne12), 0) + get_boffset()] ROW_OF;
        const uint dst  = get_doffset() + dst_idx(i00/QK_TURBO, i1, i02, i03);
        const bool turn = p.param3 != 0;
        const uint part = turn ? i00%uint(p.param3)/QK_TURBO : 0;
        float x[8];
        uint v = 0;
        if (turn) {
            load_row(get_aoffset() + src0_idx(i00 - part*QK_TURBO, i01, i02, i03), x);
        } else {
            v = data_a[get_aoffset() + src0_idx(i00 + tid%QK_TURBO, i01, i02, i03)];
        }
#else
        uint v = data_a[get_aoffset() + src0_idx(idx + tid%QK_TURBO)];
        const uint dst = get_doffset() + dst_idx_quant(idx, QK_TURBO);
#endif
        if (fresh) { // while the values are on their way
            load_candidates();
            fresh = false;
        }
#if defined(SET_ROWS)
        if (turn) {
            v = floatBitsToUint(turn_row(x, part));
        }
#endif
        encode(v, dst);
        barrier();
    }
}
