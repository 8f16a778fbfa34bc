// What the checks share: a result line each, inputs, and the cache types by name.
#pragma once

#include "reference.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace host {

inline int & failures() {
    static int n = 0;
    return n;
}

inline void report(const std::string & what, bool good, const std::string & detail) {
    printf("%s %s: %s\n", good ? "ok" : "WRONG", what.c_str(), detail.c_str());
    fflush(stdout);
    failures() += !good;
}

// The largest error, as a part of the largest value wanted.
inline void report_error(const std::string & what, const std::vector<double> & have, const std::vector<double> & want, double tolerance) {
    double peak = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        peak  = fmax(peak, fabs(want[i]));
        error = std::isfinite(have[i]) ? fmax(error, fabs(have[i] - want[i])) : INFINITY;
    }
    char detail[64];
    snprintf(detail, sizeof(detail), "%.2g", error/peak);
    report(what, error <= tolerance*peak, detail);
}

inline std::vector<float> normal_values(size_t n, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> v(n);
    for (float & x : v) {
        x = normal(random);
    }
    return v;
}

// A type of a cache: how a row gets into it, and what floats are in it then.
struct cache_type {
    const char * name;
    int          block_values;
    int          block_bytes;
    void (*quantize)(const float * x, void * y, int64_t k);
    void (*dequantize)(const void * x, float * y, int64_t k);

    size_t row_bytes(size_t values) const { return values/block_values*block_bytes; }
};

inline void quantize_f16(const float * x, void * y, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
        ((_Float16 *) y)[i] = (_Float16) x[i];
    }
}

inline void dequantize_f16(const void * x, float * y, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
        y[i] = (float) ((const _Float16 *) x)[i];
    }
}

struct q8_0 {
    _Float16 d;
    int8_t   qs[32];
};

inline void quantize_q8_0(const float * x, void * y, int64_t k) {
    for (int64_t ib = 0; ib < k/32; ++ib) {
        q8_0 & b = ((q8_0 *) y)[ib];
        float peak = 0.0f;
        for (int j = 0; j < 32; ++j) {
            peak = std::fmax(peak, std::fabs(x[32*ib + j]));
        }
        b.d = (_Float16) (peak/127.0f);
        for (int j = 0; j < 32; ++j) {
            b.qs[j] = (int8_t) std::lrint(peak == 0.0f ? 0.0f : x[32*ib + j]*127.0f/peak);
        }
    }
}

inline void dequantize_q8_0(const void * x, float * y, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
        const q8_0 & b = ((const q8_0 *) x)[i/32];
        y[i] = (float) b.d*b.qs[i % 32];
    }
}

inline const cache_type CACHE_TYPES[] = {
    { "f16",     1,  2, quantize_f16,              dequantize_f16              },
    { "q8_0",   32, 34, quantize_q8_0,             dequantize_q8_0             },
    { "turbo4", 64, 34, reference_quantize_turbo4, reference_dequantize_turbo4 },
    { "turbo3", 64, 26, reference_quantize_turbo3, reference_dequantize_turbo3 },
};

} // namespace host
