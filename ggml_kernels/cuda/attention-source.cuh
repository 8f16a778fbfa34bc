#pragma once

// Values on their way from a projection to attention: RMS norm times a weight, RoPE, less a center, each of them optional. A warp takes
// a head of a token or a run of it, as rows of attention-row.cuh; the other one of a RoPE pair is read again, which the
// first-level cache makes cheap. Arithmetic and its order are those of upstream's rope.cu and norm.cu.

#include "common.cuh" // first: the other has no headers of CUDA or HIP
#include "attention-row.cuh"

// All pointers but freq_factors' are aligned to 16 bytes.
struct attention_source {
    const float   * x;            // [token][head][value] without gaps
    const float   * weight;       // of the norm, [value]; null: no norm
    float           eps;
    const int32_t * pos;          // [token]; null: no RoPE
    const float   * freq_factors; // [pair], or null
    const float   * center;       // [head of a token][value], or null
    int   head_size, n_dims;      // n_dims: the first ones of a head, that RoPE turns; half of them is a multiple of 4
    bool  neox;                   // the pair of value i is i + n_dims/2, and not i + 1
    float theta_scale, freq_scale, ext_factor, magnitude, corr_low, corr_high;
    uint3 heads;                  // of a token, for fast division
};

// D values of heads of one token, from value `first` of each. Nothing uses what is loaded before finish(), so that all loads are one wait.
template <int D> struct attention_values {
    static constexpr int N = D/32, RUN = row_run<D>();

    // Weights and positions are inputs of the graph: no kernel ahead has to be waited for.
    __device__ __forceinline__ void prepare(const attention_source & s, uint32_t head, int first, int lane) {
        position = s.pos ? s.pos[fastdiv(head, s.heads)] : 0;
#pragma unroll
        for (int i = 0; i < N; i += RUN) {
            at[i/RUN] = first + row_index<D>(lane, i);
            if (s.weight) { load_pair(s, s.weight, i, weight, weight_pair); }
        }
    }

    // starts to load a head of this token
    __device__ __forceinline__ void fetch(const attention_source & s, uint32_t head) {
        row = s.x + (int64_t) head*s.head_size;
#pragma unroll
        for (int i = 0; i < N; i += RUN) {
            load_pair(s, row, i, own, pair);
            if (s.center) { load_run<RUN>(center + i, s.center + fastmodulo(head, s.heads)*s.head_size + at[i/RUN]); }
        }
    }

    // what was fetched, of the first head of this token or not; WHOLE: it is all of a head
    template <bool WHOLE = false> __device__ __forceinline__ void finish(const attention_source & s, bool is_first, int lane, float (&x)[N]) {
        float sum = 0.0f;
        if (s.weight && !WHOLE && s.head_size != D) {
            for (int i = lane; i < s.head_size; i += 32) { sum += row[i]*row[i]; }
        }
        if (s.pos && is_first) { // while the values are on their way
#pragma unroll
            for (int i = 0; i < N; ++i) { turn(s, i); }
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            x[i] = own[i];
            if (!s.neox) {
                pair[i]        = own[i ^ 1];
                weight_pair[i] = weight[i ^ 1]; // nobody's, without a norm
            }
        }
        if (s.weight) {
#pragma unroll
            for (int i = 0; i < N && (WHOLE || s.head_size == D); ++i) { sum += x[i]*x[i]; }
            const float scale = rsqrtf(sum_of_warp(sum)/s.head_size + s.eps);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                x[i]    = scale*x[i]*weight[i];
                pair[i] = scale*pair[i]*weight_pair[i];
            }
        }
        if (s.pos) {
#pragma unroll
            for (int i = 0; i < N; ++i) { x[i] = x[i]*cos[i] + pair[i]*sin[i]; }
        }
        if (s.center) {
#pragma unroll
            for (int i = 0; i < N; ++i) { x[i] -= center[i]; }
        }
    }

private:
    int   at[N/RUN]; // of each run, in the head
    float cos[N], sin[N], weight[N], weight_pair[N], own[N], pair[N], center[N];
    int   position;
    const float * row;

    // a run of a row, and what RoPE pairs it with, if that is not its neighbour
    __device__ __forceinline__ void load_pair(const attention_source & s, const float * from, int i, float (&x)[N], float (&partners)[N]) const {
        load_run<RUN>(x + i, from + at[i/RUN]);
        if (s.neox) { load_run<RUN>(partners + i, from + partner(s, at[i/RUN])); }
    }

    static __device__ __forceinline__ int partner(const attention_source & s, int run) {
        return run >= s.n_dims ? run : run < s.n_dims/2 ? run + s.n_dims/2 : run - s.n_dims/2;
    }

    // YaRN as in rope_yarn
    __device__ __forceinline__ void turn(const attention_source & s, int i) {
        const int  run = at[i/RUN], value = run + i%RUN;
        const bool first = s.neox ? value < s.n_dims/2 : i%2 == 0;
        const int  index = s.neox ? (first ? value : value - s.n_dims/2) : value/2;
        if (value >= s.n_dims) {
            cos[i] = 1.0f;
            sin[i] = 0.0f;
            return;
        }
        const float extrapolated = (float) position*powf(s.theta_scale, (float) index)/(s.freq_factors ? s.freq_factors[index] : 1.0f);
        float theta = s.freq_scale*extrapolated;
        if (s.ext_factor != 0.0f) {
            const float ramp = (1.0f - fminf(1.0f, fmaxf(0.0f, (index - s.corr_low)/fmaxf(0.001f, s.corr_high - s.corr_low))))*s.ext_factor;
            theta = theta*(1.0f - ramp) + extrapolated*ramp;
        }
        cos[i] = cosf(theta)*s.magnitude;
        sin[i] = sinf(theta)*(first ? -s.magnitude : s.magnitude);
    }
};
