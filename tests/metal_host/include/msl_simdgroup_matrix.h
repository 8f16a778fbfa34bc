// The 8x8 matrices of a simdgroup. Here every thread holds all of a matrix and does all of its arithmetic.
#pragma once

#include "msl_threads.h"

namespace metal {

template <class T, int R, int C> struct simdgroup_matrix {
    T m[R][C];
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T s) {
        for (int i = 0; i < R; ++i) {
            for (int j = 0; j < C; ++j) { m[i][j] = i == j ? s : (T) 0; }
        }
    }
};

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half,  8, 8> simdgroup_half8x8;

template <class T, int N> simdgroup_matrix<T, N, N> make_filled_simdgroup_matrix(T v) {
    simdgroup_matrix<T, N, N> r;
    for (auto & row : r.m) {
        for (auto & e : row) { e = v; }
    }
    return r;
}

template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8> & d, const T * p, ulong stride = 8, ulong2 origin = 0, bool transpose = false) {
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
            (transpose ? d.m[j][i] : d.m[i][j]) = p[(origin.y + i)*stride + origin.x + j];
        }
    }
    host::wait_for_simdgroup(); // as on the GPU, no thread goes on to overwrite what another has yet to read
}

template <class T>
void simdgroup_store(const simdgroup_matrix<T, 8, 8> & d, T * p, ulong stride = 8, ulong2 origin = 0, bool transpose = false) {
    host::wait_for_simdgroup(); // all loads before are done
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
            p[(origin.y + i)*stride + origin.x + j] = transpose ? d.m[j][i] : d.m[i][j];
        }
    }
    host::wait_for_simdgroup();
}

// d = a*b + c, summed in float
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8> & d, const simdgroup_matrix<A, 8, 8> & a,
        const simdgroup_matrix<B, 8, 8> & b, const simdgroup_matrix<C, 8, 8> & c) {
    simdgroup_matrix<D, 8, 8> r;
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
            float s = (float) c.m[i][j];
            for (int k = 0; k < 8; ++k) { s += (float) a.m[i][k]*(float) b.m[k][j]; }
            r.m[i][j] = (D) s;
        }
    }
    d = r;
}

} // namespace metal
