// Metal's scalar, vector and matrix types, and its address spaces, which are all the same here.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __METAL_VERSION__ 320

#define kernel
#define device
#define thread
#define threadgroup
#define constant const

typedef _Float16       half;
typedef unsigned char  uchar;
typedef unsigned short ushort;
typedef unsigned int   uint;
typedef unsigned long  ulong;

#define MAXHALF ((half) 65504.0f)
#define M_PI_F  3.14159265358979f

constexpr half operator""h(long double v)        { return (half) v; }
constexpr half operator""h(unsigned long long v) { return (half) v; }

namespace metal {

template <class A, class B> using is_same = std::is_same<A, B>;

template <class T> constexpr bool is_number = std::is_arithmetic<T>::value || std::is_same<T, half>::value;

// ---- vectors: aligned as Metal's, so that a wrong cast of a pointer reads the wrong bytes here, too --------------------

template <class T, int N> struct vec;

#define MSL_VEC_MEMBERS(N)                                                                                             \
    vec() = default;                                                                                                   \
    template <class S, class = std::enable_if_t<is_number<S>>> vec(S s) { for (int i = 0; i < N; ++i) v[i] = (T) s; }   \
    template <class S> explicit vec(const vec<S, N> & o) { for (int i = 0; i < N; ++i) v[i] = (T) o.v[i]; }             \
    T & operator[](int i) { return v[i]; }                                                                             \
    const T & operator[](int i) const { return v[i]; }

template <class T> struct alignas(2*sizeof(T)) vec<T, 2> {
    union { T v[2]; struct { T x, y; }; };
    MSL_VEC_MEMBERS(2)
    template <class A, class B> vec(A a, B b) { v[0] = (T) a; v[1] = (T) b; }
};

template <class T> struct alignas(4*sizeof(T)) vec<T, 3> {
    union { T v[3]; struct { T x, y, z; }; };
    MSL_VEC_MEMBERS(3)
    template <class A, class B, class C> vec(A a, B b, C c) { v[0] = (T) a; v[1] = (T) b; v[2] = (T) c; }
};

template <class T> struct alignas(4*sizeof(T)) vec<T, 4> {
    union { T v[4]; struct { T x, y, z, w; }; };
    MSL_VEC_MEMBERS(4)
    template <class A, class B, class C, class D> vec(A a, B b, C c, D d) {
        v[0] = (T) a; v[1] = (T) b; v[2] = (T) c; v[3] = (T) d;
    }
};

#undef MSL_VEC_MEMBERS

#define MSL_VEC_OPERATOR(op)                                                                                           \
    template <class T, int N> vec<T, N> operator op(vec<T, N> a, vec<T, N> b) {                                        \
        for (int i = 0; i < N; ++i) { a.v[i] = (T) (a.v[i] op b.v[i]); }                                               \
        return a;                                                                                                      \
    }                                                                                                                  \
    template <class T, int N, class S, class = std::enable_if_t<is_number<S>>>                                         \
    vec<T, N> operator op(vec<T, N> a, S s) { return a op vec<T, N>(s); }                                              \
    template <class T, int N, class S, class = std::enable_if_t<is_number<S>>>                                         \
    vec<T, N> operator op(S s, vec<T, N> a) { return vec<T, N>(s) op a; }                                              \
    template <class T, int N, class B> vec<T, N> & operator op##=(vec<T, N> & a, B b) { return a = a op b; }

MSL_VEC_OPERATOR(+)
MSL_VEC_OPERATOR(-)
MSL_VEC_OPERATOR(*)
MSL_VEC_OPERATOR(/)
MSL_VEC_OPERATOR(&)
MSL_VEC_OPERATOR(|)
MSL_VEC_OPERATOR(>>)
MSL_VEC_OPERATOR(<<)
#undef MSL_VEC_OPERATOR

#define MSL_VECTORS(T) typedef vec<T, 2> T##2; typedef vec<T, 3> T##3; typedef vec<T, 4> T##4;
MSL_VECTORS(half)
MSL_VECTORS(float)
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(ulong)
#undef MSL_VECTORS

struct packed_char4 {
    signed char v[4];
    template <class T> explicit operator vec<T, 4>() const { return vec<T, 4>(v[0], v[1], v[2], v[3]); }
};

// ---- matrices: C columns of R values -----------------------------------------------------------------------------------

template <class T, int C, int R> struct matrix {
    vec<T, R> c[C];
    matrix() = default;
    explicit matrix(T s) {
        for (int i = 0; i < C; ++i) {
            for (int j = 0; j < R; ++j) { c[i].v[j] = i == j ? s : (T) 0; }
        }
    }
    template <class S> explicit matrix(const matrix<S, C, R> & o) {
        for (int i = 0; i < C; ++i) { c[i] = vec<T, R>(o.c[i]); }
    }
    vec<T, R> & operator[](int i) { return c[i]; }
    const vec<T, R> & operator[](int i) const { return c[i]; }
};

typedef matrix<float, 4, 4> float4x4;
typedef matrix<half,  4, 4> half4x4;
typedef matrix<float, 2, 4> float2x4;
typedef matrix<half,  2, 4> half2x4;

template <class T, int C, int R, class S> matrix<T, C, R> operator*(matrix<T, C, R> a, S s) {
    for (int i = 0; i < C; ++i) { a.c[i] *= (T) s; }
    return a;
}

template <class D, class S> D as_type(S s) {
    static_assert(sizeof(D) == sizeof(S), "as_type does not change the size");
    D d;
    memcpy(&d, &s, sizeof(d));
    return d;
}

} // namespace metal
