// Rows of K and V for turbo_decode.comp, as items of 16 values: what a thread loads, and its values one by one.
//
// load_item() only loads, so that many loads can be on their way at once; open_item() makes of them what value_of() reads:
// for types of up to 5 bits two words of nibbles, of which the turbo types' are indices into their table. Item i of a row
// has the values value_index(type, i, 0..15).

#define GGML_TYPE_F16_ID  1u
#define GGML_TYPE_Q4_0_ID 2u
#define GGML_TYPE_Q5_0_ID 6u
#define GGML_TYPE_Q8_0_ID 8u

#define ITEM 16

layout (binding = 1) readonly buffer K16 { uint16_t k16[]; };
layout (binding = 1) readonly buffer K32 { uint     k32[]; };
layout (binding = 2) readonly buffer V16 { uint16_t v16[]; };
layout (binding = 2) readonly buffer V32 { uint     v32[]; };

// Tables of entries: a copy for each of 32 banks of shared memory, so that threads of a subgroup do not wait for each other.
#define TABLE_BANKS  32u
#define TURBO4_TABLE (128u*TABLE_BANKS)
#define TURBO3_TABLE (64u*TABLE_BANKS)

const bool USES_TURBO4 = TYPE_K == GGML_TYPE_TURBO4 || TYPE_V == GGML_TYPE_TURBO4;
const bool USES_TURBO3 = TYPE_K == GGML_TYPE_TURBO3 || TYPE_V == GGML_TYPE_TURBO3;
const uint TURBO3_AT   = USES_TURBO4 ? TURBO4_TABLE : 0u;
const uint TABLE_SIZE  = TURBO3_AT + (USES_TURBO3 ? TURBO3_TABLE : 0u);

struct loaded_item { uint r[9]; };

struct open_item_t {
    uint  w[8];
    uint  base; // of the book, in this thread's bank
    float scale;
};

uint half_at(const bool of_v, uint at) { return of_v ? uint(v16[at]) : uint(k16[at]); }
uint word_at(const bool of_v, uint at) { return of_v ? v32[at] : k32[at]; }

// row: in 16-bit words
loaded_item load_item(const bool of_v, const uint type, uint row, uint i) {
    loaded_item x;
    if (type == GGML_TYPE_TURBO3) {
        const uint at = row + (i >> 2)*13u, j = i & 3u;
        x.r[0] = half_at(of_v, at);
        x.r[1] = half_at(of_v, at + 1u + 2u*j);
        x.r[2] = half_at(of_v, at + 2u + 2u*j);
        x.r[3] = half_at(of_v, at + 9u + 2u*(j & 1u));
        x.r[4] = half_at(of_v, at + 10u + 2u*(j & 1u));
    } else if (type == GGML_TYPE_TURBO4) {
        const uint at = row + (i >> 2)*17u;
        x.r[0] = half_at(of_v, at);
        [[unroll]] for (uint t = 0; t < 4; ++t) { x.r[1 + t] = half_at(of_v, at + 1u + 4u*(i & 3u) + t); }
    } else if (type == GGML_TYPE_Q8_0_ID) {
        const uint at = row + (i >> 1)*17u;
        x.r[0] = half_at(of_v, at);
        [[unroll]] for (uint t = 0; t < 8; ++t) { x.r[1 + t] = half_at(of_v, at + 1u + 8u*(i & 1u) + t); }
    } else if (type == GGML_TYPE_Q5_0_ID) {
        const uint at = row + (i >> 1)*11u;
        x.r[0] = half_at(of_v, at);
        [[unroll]] for (uint t = 0; t < 4; ++t) { x.r[1 + t] = half_at(of_v, at + 3u + 4u*(i & 1u) + t); }
        x.r[5] = half_at(of_v, at + 1u);
        x.r[6] = half_at(of_v, at + 2u);
    } else if (type == GGML_TYPE_Q4_0_ID) {
        const uint at = row + (i >> 1)*9u;
        x.r[0] = half_at(of_v, at);
        [[unroll]] for (uint t = 0; t < 4; ++t) { x.r[1 + t] = half_at(of_v, at + 1u + 4u*(i & 1u) + t); }
    } else {
        [[unroll]] for (uint t = 0; t < 8; ++t) { x.r[t] = word_at(of_v, row/2u + 8u*i + t); }
    }
    return x;
}

open_item_t open_item(const uint type, loaded_item x, uint i, uint bank) {
    open_item_t y;
    y.scale = type == GGML_TYPE_F16_ID ? 1.0f : turbo_scale(x.r[0]);
    if (type == GGML_TYPE_F16_ID) {
        [[unroll]] for (uint t = 0; t < 8; ++t) { y.w[t] = x.r[t]; }
        return y;
    }
    if (type == GGML_TYPE_Q8_0_ID) {
        [[unroll]] for (uint t = 0; t < 4; ++t) { y.w[t] = (x.r[1 + 2*t] | x.r[2 + 2*t] << 16) ^ 0x80808080u; }
        return y;
    }
    const uint w0 = x.r[1] | x.r[2] << 16;
    const uint w1 = x.r[3] | x.r[4] << 16;
    if (type == GGML_TYPE_TURBO3) {
        const uint h = w1 >> (i & 2u);
        y.w[0] = (w0      & 0x33333333u) | (h << 2 & 0x44444444u);
        y.w[1] = (w0 >> 2 & 0x33333333u) | (h << 1 & 0x44444444u);
        y.base = TURBO3_AT + (x.r[0] & 7u)*(8u*TABLE_BANKS) + bank;
    } else {
        y.w[0] = w0;
        y.w[1] = w1;
        y.base = (x.r[0] & 7u)*(16u*TABLE_BANKS) + bank;
    }
    if (type == GGML_TYPE_Q5_0_ID) {
        y.w[2] = (x.r[5] | x.r[6] << 16) >> 8*(i & 1u); // the fifth bits of values 8*(i & 1) on
    }
    return y;
}

// 2^23 + v as a float has v in its lowest bits
float unsigned_float(uint v, float bias) { return uintBitsToFloat(0x4b000000u | v) - (8388608.0f + bias); }

// value e of an item without its block's scale; e is a constant after unrolling
float value_of(const uint type, open_item_t y, const uint e) {
    if (type == GGML_TYPE_F16_ID) {
        const vec2 two = unpackHalf2x16(y.w[e/2]);
        return (e & 1u) == 0 ? two.x : two.y;
    }
    if (type == GGML_TYPE_Q8_0_ID) {
        return unsigned_float(y.w[e/4] >> 8*(e % 4) & 0xffu, 128.0f);
    }
    const uint word = y.w[e/8], at = 4*(e % 8);
    if (type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4) {
        const uint mask = type == GGML_TYPE_TURBO3 ? 7u*TABLE_BANKS : 15u*TABLE_BANKS;
        return table[(at < 5 ? word << (5 - at) : word >> (at - 5)) & mask | y.base];
    }
    const uint code = word >> at & 15u;
    if (type == GGML_TYPE_Q5_0_ID) {
        const uint v = 4*(e/8) + e % 8/2 + 16*(e & 1u);
        return unsigned_float(code | (y.w[2] >> v & 1u) << 4, 16.0f);
    }
    return unsigned_float(code, 8.0f);
}

// where value e of item i is in its row
uint value_index(const uint type, uint i, const uint e) {
    const uint a = e/8, t = e % 8/2, upper = e & 1u;
    if (type == GGML_TYPE_TURBO3) {
        return (i >> 2)*QK_TURBO + 4*(i & 3u) + 16*a + t + 32*upper;
    }
    if (type == GGML_TYPE_TURBO4) {
        return (i >> 2)*QK_TURBO + 8*(i & 3u) + 4*a + t + 32*upper;
    }
    if (type == GGML_TYPE_Q5_0_ID || type == GGML_TYPE_Q4_0_ID) {
        return (i >> 1)*32 + 8*(i & 1u) + 4*a + t + 16*upper;
    }
    return i*ITEM + e;
}
