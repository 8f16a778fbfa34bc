#pragma once

// Values on their way from a projection to attention: RMS norm times a weight, RoPE, less a center, each of them optional. A warp takes
// (part of) a head of a token, and any thread of it any values: the other one of a RoPE pair is read again, which the
// first-level cache makes cheap. Arithmetic and its order are those of upstream's rope.cu and norm.cu.

#include "common.cuh"

struct attention_source {
    const float   * x;            // [token][head][value] without gaps
    const float   * weight;       // of the norm, [value]; null: no norm
    float           eps;
    const int32_t * pos;          // [token]; null: no RoPE
    const float   * freq_factors; // [pair], or null
    const float   * center;       // [head of a token][value], or null
    int   head_size, n_dims;      // n_dims: the first ones of a head, that RoPE turns
    bool  neox;                   // the pair of value i is i + n_dims/2, and not i + 1
    float theta_scale, freq_scale, ext_factor, magnitude, corr_low, corr_high;
    uint3 heads;                  // of a token, for fast division
};

// N values of a head in a thread
template <int N> struct attention_values {
    int   at[N], other[N]; // in the head; of the RoPE pair
    float cos[N], sin[N], weight[N], weight_other[N], center[N];
    float position;

    // head: counted over all tokens. Weights, centers and positions are inputs of the graph: no kernel ahead has to be waited for.
    __device__ __forceinline__ void prepare(const attention_source & s, uint32_t head) {
        position = s.pos ? (float) s.pos[fastdiv(head, s.heads)] : 0.0f;
#pragma unroll
        for (int i = 0; i < N; ++i) { other[i] = s.pos ? partner(s, at[i]) : at[i]; }
        if (s.weight) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                weight[i]       = s.weight[at[i]];
                weight_other[i] = s.weight[other[i]];
            }
        }
        if (s.center) {
            const float * row = s.center + fastmodulo(head, s.heads)*s.head_size;
#pragma unroll
            for (int i = 0; i < N; ++i) { center[i] = row[at[i]]; }
        }
    }

    // all lanes of the warp, which share the head; WHOLE: and have all of it
    template <bool WHOLE = false> __device__ __forceinline__ void load(const attention_source & s, uint32_t head, int lane, float (&x)[N]) {
        const float * row = s.x + (int64_t) head*s.head_size;
        float pair[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            x[i]    = row[at[i]];
            pair[i] = row[other[i]];
        }
        float sum = 0.0f;
        if (s.weight && !WHOLE) {
            for (int i = lane; i < s.head_size; i += 32) { sum += row[i]*row[i]; }
        }
        if (s.pos) { // while the values are on their way
#pragma unroll
            for (int i = 0; i < N; ++i) { turn(s, i); }
        }
        if (s.weight) {
#pragma unroll
            for (int i = 0; i < N && WHOLE; ++i) { sum += x[i]*x[i]; }
#pragma unroll
            for (int w = 16; w > 0; w /= 2) { sum += __shfl_xor_sync(0xffffffff, sum, w, 32); }
            const float scale = rsqrtf(sum/s.head_size + s.eps);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                x[i]    = scale*x[i]*weight[i];
                pair[i] = scale*pair[i]*weight_other[i];
            }
        }
        if (s.pos) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if (at[i] < s.n_dims) { x[i] = x[i]*cos[i] + pair[i]*sin[i]; }
            }
        }
        if (s.center) {
#pragma unroll
            for (int i = 0; i < N; ++i) { x[i] -= center[i]; }
        }
    }

private:
    static __device__ __forceinline__ bool is_first(const attention_source & s, int at) { return s.neox ? at < s.n_dims/2 : at%2 == 0; }

    static __device__ __forceinline__ int partner(const attention_source & s, int at) {
        const int step = s.neox ? s.n_dims/2 : 1;
        return at >= s.n_dims ? at : is_first(s, at) ? at + step : at - step;
    }

    // YaRN as in rope_yarn; values past n_dims get some angle that load does not use
    __device__ __forceinline__ void turn(const attention_source & s, int i) {
        const bool first = is_first(s, at[i]);
        const int  low   = min(at[i], other[i]), index = s.neox ? low : low/2;
        const float extrapolated = position*powf(s.theta_scale, (float) index)/(s.freq_factors && at[i] < s.n_dims ? s.freq_factors[index] : 1.0f);
        float theta = s.freq_scale*extrapolated;
        if (s.ext_factor != 0.0f) {
            const float ramp = (1.0f - fminf(1.0f, fmaxf(0.0f, (index - s.corr_low)/fmaxf(0.001f, s.corr_high - s.corr_low))))*s.ext_factor;
            theta = theta*(1.0f - ramp) + extrapolated*ramp;
        }
        cos[i] = cosf(theta)*s.magnitude;
        sin[i] = sinf(theta)*(first ? -s.magnitude : s.magnitude);
    }
};
