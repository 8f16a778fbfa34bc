#version 450

// CPY of turbo3 and turbo4 to floats: a workgroup for each block, four values for each thread.

#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require

#define FLOAT_TYPE   float
#define FLOAT_TYPEV4 vec4
#define TURBO_USED   true

#include "turbo_entries.glsl"
#include "generic_unary_head.glsl"

layout(local_size_x = 16, local_size_y = 1, local_size_z = 1) in;

void main() {
    turbo_init_entries(gl_WorkGroupSize.x);

    const uint idx = gl_WorkGroupID.z*262144 + gl_WorkGroupID.y*512 + gl_WorkGroupID.x*QK_TURBO;
    if (idx >= p.ne) {
        return;
    }

    const uint ib = get_aoffset() + src0_idx_quant(idx, QK_TURBO);
    const uint il = gl_LocalInvocationID.x;
    const vec4 v  = TURBO_VALUES(data_a[ib], il);

    [[unroll]] for (uint t = 0; t < 4; ++t) {
        data_d[get_doffset() + dst_idx(idx + 4*il + t)] = D_TYPE(v[t]);
    }
}
