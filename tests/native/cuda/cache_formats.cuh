#pragma once

// What the harnesses of the attention kernels share: random packed K and V, the value of an element, float64 transforms.

#include "fattn-decode-loaders.cuh"
#include "turbo-tables.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#define CHECK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

static std::mt19937 rng(1);

static float half_to_float(const uint8_t * p) { half x; memcpy(&x, p, 2); return __half2float(x); }

template <typename L> struct format { static constexpr int BLOCK = L::BLOCK, BYTES = L::BYTES; static const char * name(); static float scale(); };
template <> struct format<load_f16> { static constexpr int BLOCK = 1, BYTES = 2; static const char * name() { return "f16"; } static float scale() { return 1.0f; } };
template <> const char * format<load_q8_0>::name() { return "q8_0"; }
template <> const char * format<load_q5_0>::name() { return "q5_0"; }
template <> const char * format<load_q4_0>::name() { return "q4_0"; }
template <> const char * format<load_turbo4>::name() { return "turbo4"; }
template <> const char * format<load_turbo3>::name() { return "turbo3"; }
template <> float format<load_q8_0>::scale() { return 1.0f/64; }
template <> float format<load_q5_0>::scale() { return 1.0f/8; }
template <> float format<load_q4_0>::scale() { return 1.0f/4; }
template <> float format<load_turbo4>::scale() { return 2.0f; }
template <> float format<load_turbo3>::scale() { return 2.0f; }

template <typename L> static std::vector<uint8_t> random_blocks(size_t bytes) {
    std::vector<uint8_t> data(bytes);
    constexpr int n = format<L>::BYTES;
    for (auto & b : data) { b = (uint8_t) rng(); }
    for (size_t i = 0; i + n <= bytes; i += n) {
        float f = format<L>::scale()*(0.5f + (rng() % 1000)/1000.0f);
        if ((n == 2 || format<L>::BLOCK == 64) && rng() % 2) { f = -f; }
        const half h = __float2half(f); // its low bits choose a random book
        memcpy(&data[i], &h, 2);
    }
    return data;
}

template <typename L> static double value(const uint8_t * row, int i) {
    const uint8_t * b = row + i/format<L>::BLOCK*format<L>::BYTES;
    const double d = half_to_float(b);
    uint16_t bits; memcpy(&bits, b, 2);
    const int j = i%format<L>::BLOCK, k = j%16;
    if (std::is_same_v<L, load_f16>)  { return d; }
    if (std::is_same_v<L, load_q8_0>) { return d*(int8_t) b[2 + j]; }
    if (std::is_same_v<L, load_q4_0>) { return d*((j < 16 ? b[2 + j] & 15 : b[2 + j - 16] >> 4) - 8); }
    if (std::is_same_v<L, load_q5_0>) { return d*(((j < 16 ? b[6 + j] & 15 : b[6 + j - 16] >> 4) | (b[2 + j/8] >> j%8 & 1) << 4) - 16); }
    if (std::is_same_v<L, load_turbo4>) { return d/128*kvalues_turbo4[bits & 7][j < 32 ? b[2 + j] & 15 : b[2 + j - 32] >> 4]; }
    const int c = j/16, high = b[18 + (k & 7)] >> (4*(c >> 1) + 2*(k >> 3) + (c & 1)) & 1;
    return d/128*kvalues_turbo3[bits & 7][(b[2 + k] >> 2*c & 3) | high << 2];
}

template <typename T> static T * upload(const std::vector<T> & v) {
    T * d; CHECK(cudaMalloc(&d, v.size()*sizeof(T) + 256));
    CHECK(cudaMemcpy(d, v.data(), v.size()*sizeof(T), cudaMemcpyHostToDevice));
    return d;
}

// the orthonormal Hadamard matrix of n values
static void hadamard(double * x, int n) {
    for (int h = 1; h < n; h *= 2) {
        for (int i = 0; i < n; ++i) {
            if (!(i & h)) { const double a = x[i], b = x[i | h]; x[i] = a + b; x[i | h] = a - b; }
        }
    }
    for (int i = 0; i < n; ++i) { x[i] /= sqrt((double) n); }
}
