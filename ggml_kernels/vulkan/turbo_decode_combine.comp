#version 450

// The splits of turbo_decode.comp together: a workgroup makes 32 values of a query's output. Eight threads have the values
// of a split, and there are 32 such teams, so a few splits remain for each.

#extension GL_EXT_control_flow_attributes : require

#define THREADS 256
#define VALUES  8  // threads for 32 values
#define TEAMS   (THREADS/VALUES)

layout (local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

layout (binding = 0) readonly  buffer A { float a_data[]; };
layout (binding = 0) readonly  buffer A4 { vec4 a_data4[]; };
layout (binding = 1) readonly  buffer S { float sink_data[]; };
layout (binding = 2) writeonly buffer O { vec4 o_data[]; };

layout (push_constant) uniform parameter {
    uint D, heads, tokens, sequences, splits, sinks;
} p;

shared float tops[THREADS];
shared float sums[THREADS];
shared vec4  outs[THREADS];

void main() {
    const uint tid  = gl_LocalInvocationIndex;
    const uint head = gl_WorkGroupID.x;
    const uint z    = gl_WorkGroupID.z; // token and sequence
    const uint d4   = gl_WorkGroupID.y*VALUES + tid % VALUES;
    const uint ends = p.D*p.heads*p.splits*p.tokens*p.sequences + p.heads*2u*p.splits*z + head; // the sums; then the maxima

    float top = p.sinks != 0 ? sink_data[head] : -1e30f;
    for (uint k = tid; k < p.splits; k += THREADS) {
        top = max(top, a_data[ends + p.heads*(2u*k + 1u)]);
    }
    tops[tid] = top;
    barrier();
    [[unroll]] for (uint n = THREADS/2; n > 0; n /= 2) {
        if (tid < n) {
            tops[tid] = max(tops[tid], tops[tid + n]);
        }
        barrier();
    }
    top = tops[0];

    float sum = 0.0f;
    vec4  out4 = vec4(0.0f);
    for (uint k = tid/VALUES; k < p.splits; k += TEAMS) {
        const float factor = exp(a_data[ends + p.heads*(2u*k + 1u)] - top);
        sum  += factor*a_data[ends + p.heads*2u*k];
        out4 += factor*a_data4[p.D/4u*(head + p.heads*(k + p.splits*z)) + d4];
    }
    sums[tid] = sum;
    outs[tid] = out4;
    barrier();
    [[unroll]] for (uint n = THREADS/2; n >= VALUES; n /= 2) {
        if (tid < n) {
            sums[tid] += sums[tid + n];
            outs[tid] += outs[tid + n];
        }
        barrier();
    }
    if (tid < VALUES) {
        const float all = sums[tid] + (p.sinks != 0 ? exp(sink_data[head] - top) : 0.0f);
        o_data[p.D/4u*(head + p.heads*z) + d4] = all == 0.0f ? vec4(0.0f) : outs[tid]/all;
    }
}
