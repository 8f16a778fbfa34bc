#version 450

// GET_ROWS of turbo3 and turbo4: four values for each thread.

#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require

#define FLOAT_TYPE   float
#define FLOAT_TYPEV4 vec4
#define TURBO_USED   true

#include "turbo_entries.glsl"
#include "generic_binary_head.glsl"

layout(local_size_x = 256, local_size_y = 1, local_size_z = 1) in;

void main() {
    turbo_init_entries(gl_WorkGroupSize.x);

    const uint i00 = gl_GlobalInvocationID.x*4;
    if (i00 >= p.ne00) {
        return;
    }

    for (uint z = gl_GlobalInvocationID.z; z < p.ne11*p.ne12; z += gl_NumWorkGroups.z) {
        const uint i11 = z/p.ne12;
        const uint i12 = z%p.ne12;
        for (uint i10 = gl_GlobalInvocationID.y; i10 < p.ne10; i10 += gl_NumWorkGroups.y) {
            const uint i01 = data_b[get_boffset() + i10*p.nb10 + i11*p.nb11 + i12*p.nb12];

            const uint ib = get_aoffset() + i01*p.nb01 + i11*p.nb02 + i12*p.nb03 + i00/QK_TURBO;
            const uint to = get_doffset() + i10*p.nb21 + i11*p.nb22 + i12*p.nb23 + i00;
            const vec4 v  = TURBO_VALUES(data_a[ib], i00%QK_TURBO/4);

            [[unroll]] for (uint t = 0; t < 4; ++t) {
                data_d[to + t] = D_TYPE(v[t]);
            }
        }
    }
}
