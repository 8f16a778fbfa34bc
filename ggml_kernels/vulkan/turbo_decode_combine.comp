#version 450

// The splits of turbo_decode.comp together: a workgroup makes 64 values of a query's output. Sixteen threads have the values
// of a split, and there are 16 such teams, so a few splits remain for each. Where the product with a Hadamard matrix of
// 64 x 64 follows, which turns the values of V back, it is done here.

#extension GL_EXT_control_flow_attributes : require

#define THREADS 256
#define VALUES  16 // threads for 64 values
#define TEAMS   (THREADS/VALUES)

layout (local_size_x = THREADS, local_size_y = 1, local_size_z = 1) in;

layout (binding = 0) readonly  buffer A { float a_data[]; };
layout (binding = 0) readonly  buffer A4 { vec4 a_data4[]; };
layout (binding = 1) readonly  buffer S { float sink_data[]; };
layout (binding = 2) writeonly buffer O { vec4 o_data[]; };

layout (push_constant) uniform parameter {
    uint D, heads, tokens, sequences, splits, sinks, rotate;
} p;

shared float tops[THREADS];
shared float sums[THREADS];
shared vec4  outs[THREADS];

// the product of all teams' values, which are the same, with the Hadamard matrix
vec4 rotated(vec4 v, const uint tid) {
    v *= 0.125f;
    v = vec4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    v = vec4(v.xy + v.zw, v.xy - v.zw);
    [[unroll]] for (uint n = 1; n < VALUES; n *= 2) {
        barrier();
        outs[tid] = v;
        barrier();
        const vec4 other = outs[tid ^ n];
        v = (tid & n) == 0 ? v + other : other - v;
    }
    return v;
}

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
    const float all = sums[tid % VALUES] + (p.sinks != 0 ? exp(sink_data[head] - top) : 0.0f);
    vec4 v = all == 0.0f ? vec4(0.0f) : outs[tid % VALUES]/all;
    if (p.rotate != 0) {
        v = rotated(v, tid);
    }
    if (tid < VALUES) {
        o_data[p.D/4u*(head + p.heads*z) + d4] = v;
    }
}
