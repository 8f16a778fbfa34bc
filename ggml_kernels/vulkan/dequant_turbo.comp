#version 450

// A cache of turbo3 or turbo4 as f16, for attention of many queries: reads [HS, NH, KV, NS], writes [HS, KV, NH, NS], as
// DEQUANT_TRANSPOSE of dequant_q8_0.comp. Sixteen values for each thread.

#include "dequant_head.glsl"

#define FLOAT_TYPE   float
#define FLOAT_TYPEV4 vec4
#define TURBO_USED   true

#include "turbo_entries.glsl"

layout(local_size_x = 256, local_size_y = 1, local_size_z = 1) in;

layout (binding = 0) readonly  buffer A {A_TYPE data_a[];};
layout (binding = 1) writeonly buffer D {D_TYPE data_b[];};

void main() {
    turbo_init_entries(gl_WorkGroupSize.x);

    const uint first = gl_GlobalInvocationID.x*16;
    if (first >= p.nel) {
        return;
    }

    const uint HS = p.M, NH = p.K, KV = p.stride_a;
    const uint row  = first/HS; // head, position and sequence
    const uint head = row%NH;
    const uint pos  = row/NH%KV;
    const uint seq  = row/NH/KV;
    const uint to   = ((seq*NH + head)*KV + pos)*HS + first%HS;

    [[unroll]] for (uint i = 0; i < 4; ++i) {
        const vec4 v = TURBO_VALUES(data_a[first/QK_TURBO], first%QK_TURBO/4 + i);
        [[unroll]] for (uint t = 0; t < 4; ++t) {
            data_b[to + 4*i + t] = D_TYPE(v[t]);
        }
    }
}
