#pragma once

// O^T += V^T P: a warp's output, the maximum and the sum of its weights.

#include "fattn-decode-loaders.cuh"
#include "fattn-decode-params.cuh"

template <int D, typename LV> struct value_traits {
    // a block of V that covers all rows of a fragment lends its scale to P; smaller blocks are scaled value by value
    static constexpr bool SCALE_P = false;
    static constexpr int  SCALES  = 1;
};
template <int D> struct value_traits<D, load_turbo4> { static constexpr bool SCALE_P = true; static constexpr int SCALES = D/64; };
template <int D> struct value_traits<D, load_turbo3> { static constexpr bool SCALE_P = true; static constexpr int SCALES = D/64; };

template <int D, typename LV>
struct output {
    static constexpr int SCALES = value_traits<D, LV>::SCALES;

    float o[D/16][4];
    float sums[SCALES][4]; // of scaled P, by a product with ones: what the bias of V's bytes is multiplied by
    float m[2], l[2];      // of columns 2t, 2t + 1

    __device__ __forceinline__ void clear() {
        m[0] = m[1] = FATTN_DECODE_LOWEST;
        l[0] = l[1] = 0.0f;
#pragma unroll
        for (int b = 0; b < SCALES; ++b) { sums[b][0] = sums[b][1] = sums[b][2] = sums[b][3] = 0.0f; }
#pragma unroll
        for (int i = 0; i < D/16; ++i) { o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f; }
    }

    // to a maximum that is at least as high
    __device__ __forceinline__ void scale_to(float m0, float m1) {
        const float f0 = exp2f(m[0] - m0), f1 = exp2f(m[1] - m1);
        m[0] = m0; m[1] = m1;
        l[0] *= f0; l[1] *= f1;
#pragma unroll
        for (int b = 0; b < SCALES; ++b) { sums[b][0] *= f0; sums[b][1] *= f1; }
#pragma unroll
        for (int i = 0; i < D/16; ++i) { o[i][0] *= f0; o[i][1] *= f1; o[i][2] *= f0; o[i][3] *= f1; }
    }

    // all that is accumulated, number by number
    template <typename F> __device__ __forceinline__ void visit(const F & f) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            f(m[j]);
            f(l[j]);
#pragma unroll
            for (int b = 0; b < SCALES; ++b) { f(sums[b][j]); }
        }
#pragma unroll
        for (int i = 0; i < D/4; ++i) { f(o[i/4][i%4]); }
    }

    // the output over other positions, of the same columns
    __device__ __forceinline__ void add(output & other) {
        const float m0 = fmaxf(m[0], other.m[0]), m1 = fmaxf(m[1], other.m[1]);
        scale_to(m0, m1);
        other.scale_to(m0, m1);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            l[j] += other.l[j];
#pragma unroll
            for (int b = 0; b < SCALES; ++b) { sums[b][j] += other.sums[b][j]; }
        }
#pragma unroll
        for (int i = 0; i < D/4; ++i) { o[i/4][i%4] += other.o[i/4][i%4]; }
    }
};

// P of the scores s of 16 positions of V, whose rows start at row, as fragments of B: halves, times V's scales where SCALE_P
template <int D, typename LV>
static __device__ __forceinline__ void weigh(uint32_t (&p)[value_traits<D, LV>::SCALES][2], output<D, LV> & out, const float (&s)[4], const char * row, int stride) {
    constexpr bool SCALE_P = value_traits<D, LV>::SCALE_P;
    const int lane = threadIdx.x%32, g = lane/4;
    float e[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        e[i] = exp2f(s[i] - out.m[i & 1]);
        out.l[i & 1] += e[i];
    }
#pragma unroll
    for (int b = 0; b < value_traits<D, LV>::SCALES; ++b) {
        float d0 = 1.0f, d1 = 1.0f;
        if constexpr (SCALE_P) {
            d0 = block_scale<LV>(row + g*stride,       b);
            d1 = block_scale<LV>(row + (g + 8)*stride, b);
        }
        p[b][0] = transpose_8x8(pack_half2(e[0]*d0, e[1]*d0));
        p[b][1] = transpose_8x8(pack_half2(e[2]*d1, e[3]*d1));
        if (SCALE_P) {
            const uint32_t ones[4] = { 0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00 };
            mma_half(out.sums[b], ones, p[b][0], p[b][1]);
        }
    }
}

template <int D, typename LV, int NT>
static __device__ __forceinline__ void add_halves(output<D, LV> (&out)[NT], const uint32_t (&p)[NT][1][2], const char * row, int stride) {
    const int lane = threadIdx.x%32;
    const char * v = row + (lane%8 + lane/16*8)*stride + (lane/8 & 1)*16;
#pragma unroll
    for (int i = 0; i < D/16; ++i) {
        uint32_t a[4];
        load_matrices_transposed(a, v + i*32);
#pragma unroll
        for (int n = 0; n < NT; ++n) { mma_half(out[n].o[i], a, p[n][0][0], p[n][0][1]); }
    }
}

// Four bytes of each of four positions, x, to a fragment of A of halves: two of the values, the first or the second pair.
// d: V's scales of positions 0 and 1, 2 and 3, where they are not in P.
template <typename LV, bool SCALE_P>
static __device__ __forceinline__ void interleave(uint32_t (&a)[4], const uint32_t (&x)[4][2], int w, int pair, const half2 (&d)[2]) {
    const uint32_t y0 = byte_perm(x[0][w], x[1][w], pair ? 0x7362 : 0x5140); // v0[e], v1[e], v0[e+1], v1[e+1]
    const uint32_t y1 = byte_perm(x[2][w], x[3][w], pair ? 0x7362 : 0x5140);
    a[0] = byte_perm(y0, 0x64646464, 0x4140);
    a[1] = byte_perm(y0, 0x64646464, 0x4342);
    a[2] = byte_perm(y1, 0x64646464, 0x4140);
    a[3] = byte_perm(y1, 0x64646464, 0x4342);
    if constexpr (!SCALE_P) { // exact: small integers, then one rounding
        const half2 unbias = __float2half2_rn(-(1024.0f + LV::BIAS));
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            half2 & h = *(half2 *) &a[r];
            h = __hmul2(__hadd2(h, unbias), d[r/2]);
        }
    }
}

template <int D, typename LV, int NT>
static __device__ __forceinline__ void add_codes(output<D, LV> (&out)[NT], const uint32_t (&p)[NT][value_traits<D, LV>::SCALES][2], const char * row, int stride, const uint32_t * books, int par) {
    constexpr bool SCALE_P = value_traits<D, LV>::SCALE_P;
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    const char * v0 = row + 2*t*stride;
#pragma unroll
    for (int i = 0; i < D/64; ++i) {
        const int b = SCALE_P ? i : i*2 + (g >> 2), j = SCALE_P ? g : g & 3;
        uint32_t x[4][2]; // positions 2t, 2t + 1, 2t + 8, 2t + 9
        LV::template chunk<false>(v0,            par, b, j, books, x[0][0], x[0][1]);
        LV::template chunk<false>(v0 +   stride, par, b, j, books, x[1][0], x[1][1]);
        LV::template chunk<false>(v0 + 8*stride, par, b, j, books, x[2][0], x[2][1]);
        LV::template chunk<false>(v0 + 9*stride, par, b, j, books, x[3][0], x[3][1]);
        half2 d[2];
        if constexpr (!SCALE_P) {
            d[0] = __floats2half2_rn(block_scale<LV>(v0, b),            block_scale<LV>(v0 +   stride, b));
            d[1] = __floats2half2_rn(block_scale<LV>(v0 + 8*stride, b), block_scale<LV>(v0 + 9*stride, b));
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            uint32_t a[4];
            interleave<LV, SCALE_P>(a, x, k/2, k%2, d);
#pragma unroll
            for (int n = 0; n < NT; ++n) { mma_half(out[n].o[i*4 + k], a, p[n][SCALE_P ? i : 0][0], p[n][SCALE_P ? i : 0][1]); }
        }
    }
}

// out[n] += V^T of 16 positions, which start at row, times P of the scores s[n]. par: see row_parity
template <int D, typename LV, int NT>
static __device__ __forceinline__ void add_values(output<D, LV> (&out)[NT], const float (&s)[NT][4], const char * row, int stride, const uint32_t * books,
        int par = row_parity<D, LV>()) {
    uint32_t p[NT][value_traits<D, LV>::SCALES][2];
#pragma unroll
    for (int n = 0; n < NT; ++n) { weigh<D, LV>(p[n], out[n], s[n], row, stride); }
    if constexpr (LV::HALF) { add_halves<D, LV, NT>(out, p, row, stride); }
    else                    { add_codes <D, LV, NT>(out, p, row, stride, books, par); }
}

// this lane's of the D values of column j (of 2t, 2t + 1), to a row that is aligned to 16 bytes
template <int D, typename LV>
static __device__ __forceinline__ void store_output(const output<D, LV> & out, int j, float * row) {
    const int g = threadIdx.x%32/4;
    if constexpr (LV::HALF) {
#pragma unroll
        for (int i = 0; i < D/16; ++i) {
            row[i*16 + g]     = out.o[i][j];
            row[i*16 + g + 8] = out.o[i][j + 2];
        }
    } else {
        constexpr bool SCALE_P = value_traits<D, LV>::SCALE_P, TAKE_TURNS = LV::index(0, 0, 1) != 1;
        constexpr int  SECOND  = LV::index(0, 0, TAKE_TURNS ? 1 : 4); // a chunk is twice four values that neighbour each other
        static_assert(LV::index(0, 0, TAKE_TURNS ? 6 : 3) == 3 && LV::index(0, 0, 7) == SECOND + 3, "four values are stored at once");
        static_assert(SECOND % 4 == 0 && LV::index(0, 1, 0) % 4 == 0 && LV::index(0, 2, 0) % 4 == 0 && LV::index(0, 4, 0) % 4 == 0, "from where 16 bytes begin");
#pragma unroll
        for (int i = 0; i < D/64; ++i) {
            const float bias = SCALE_P ? out.sums[SCALE_P ? i : 0][j]*(1024.0f + LV::BIAS) : 0.0f;
            float x[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) { x[e] = (out.o[i*4 + e/2][j + e%2*2] - bias)*LV::UNIT; }
            float * to = row + LV::index(SCALE_P ? i : i*2 + (g >> 2), SCALE_P ? g : g & 3, 0);
            *(float4 *) to            = TAKE_TURNS ? make_float4(x[0], x[2], x[4], x[6]) : make_float4(x[0], x[1], x[2], x[3]);
            *(float4 *) (to + SECOND) = TAKE_TURNS ? make_float4(x[1], x[3], x[5], x[7]) : make_float4(x[4], x[5], x[6], x[7]);
        }
    }
}
