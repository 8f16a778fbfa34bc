#version 450

// A cache of turbo3, turbo4, or another type beside one of them, as f16, for attention of many queries: reads [HS, NH, KV, NS], writes
// [HS, KV, NH, NS], as DEQUANT_TRANSPOSE of dequant_q8_0.comp. A thread writes eight values, which are 16 bytes, at a time, and its
// neighbours the next ones. A workgroup makes its table once for STEPS times that, and a thread divides only for the first.

#include "dequant_head.glsl"

#define THREADS 256
#define EIGHT   8
#define STEPS   8 // THREADS*EIGHT*STEPS values of a workgroup: 256*8*8 in ggml-vulkan-turbo.h
#define STRIDE  (THREADS*EIGHT)

layout(local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

layout (binding = 1) writeonly buffer D {uvec4 data_d[];}; // halves

#if defined(DATA_A_F16)

layout (binding = 0) readonly buffer A {uvec4 data_a[];};

void prepare() {}

uvec4 eight_halves(uint first) { return data_a[first/EIGHT]; }

#elif defined(DATA_A_Q4_0) || defined(DATA_A_Q5_0)

layout (binding = 0) readonly buffer A {A_TYPE_PACKED16 data_a[];};

void prepare() {}

uvec4 eight_halves(uint first) {
    const uint  ib = first/32, value = first%32, at = value%16/2, nibble = value/16*4;
    const float d  = float(data_a[ib].d);
#if defined(DATA_A_Q5_0)
    const float zero  = 16.0f;
    const uint  fifth = (uint(data_a[ib].qh[0]) | uint(data_a[ib].qh[1]) << 16) >> value;
#else
    const float zero  = 8.0f;
    const uint  fifth = 0;
#endif
    uvec4 halves;
    [[unroll]] for (uint t = 0; t < 4; ++t) {
        const uint two   = uint(data_a[ib].qs[at + t]) >> nibble;
        const uint above = fifth >> 2*t;
        halves[t] = packHalf2x16(d*(vec2((two & 15u) | (above & 1u) << 4, (two >> 8 & 15u) | (above & 2u) << 3) - zero));
    }
    return halves;
}

#elif defined(DATA_A_Q8_0)

layout (binding = 0) readonly buffer A {block_q8_0_packed16 data_a[];};

void prepare() {}

uvec4 eight_halves(uint first) {
    const uint  ib = first/32, at = first%32/2;
    const float d  = float(data_a[ib].d);
    uvec4 halves;
    [[unroll]] for (uint t = 0; t < 4; ++t) {
        const int two = int(data_a[ib].qs[at + t]);
        halves[t] = packHalf2x16(d*vec2(bitfieldExtract(two, 0, 8), bitfieldExtract(two, 8, 8)));
    }
    return halves;
}

#else

#define FLOAT_TYPE   float
#define FLOAT_TYPEV4 vec4
#define TURBO_USED   true

#include "turbo_entries.glsl"

layout (binding = 0) readonly buffer A {A_TYPE data_a[];};

void prepare() { turbo_init_entries(THREADS); }

uvec4 eight_halves(uint first) {
    const uint ib = first/QK_TURBO, il = first%QK_TURBO/4;
    const vec4 v  = TURBO_VALUES(data_a[ib], il);
    const vec4 w  = TURBO_VALUES(data_a[ib], il + 1);
    return uvec4(packHalf2x16(v.xy), packHalf2x16(v.zw), packHalf2x16(w.xy), packHalf2x16(w.zw));
}

#endif

void main() {
    prepare();

    const uint HS = p.M, NH = p.K, KV = p.stride_a;
    uint first  = gl_WorkGroupID.x*(STEPS*STRIDE) + gl_LocalInvocationID.x*EIGHT;
    uint in_row = first%HS;
    uint head   = first/HS%NH;
    uint pos    = first/HS/NH; // of all sequences
    uint seq    = pos/KV;
    pos -= seq*KV;

    const uint more_values    = STRIDE%HS;
    const uint more_heads     = STRIDE/HS%NH;
    const uint more_positions = STRIDE/HS/NH;

    [[dont_unroll]] for (uint i = 0; i < STEPS && first < p.nel; ++i) {
        const uint to = ((seq*NH + head)*KV + pos)*HS + in_row;
        data_d[to/EIGHT] = eight_halves(first);

        first  += STRIDE;
        in_row += more_values;
        head   += more_heads;
        pos    += more_positions;
        if (in_row >= HS) {
            in_row -= HS;
            head   += 1;
        }
        if (head >= NH) { // below 2*NH
            head -= NH;
            pos  += 1;
        }
        while (pos >= KV) {
            pos -= KV;
            seq += 1;
        }
    }
}
