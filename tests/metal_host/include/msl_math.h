// Metal's mathematical functions.
#pragma once

#include "msl_types.h"

namespace metal {

#define MSL_UNARY(f)                                                                                                   \
    inline float f(float x) { return std::f(x); }                                                                      \
    inline half  f(half x)  { return (half) std::f((float) x); }                                                       \
    template <class T, int N> vec<T, N> f(vec<T, N> x) {                                                               \
        for (int i = 0; i < N; ++i) { x.v[i] = (T) std::f((float) x.v[i]); }                                           \
        return x;                                                                                                      \
    }
MSL_UNARY(fabs)
MSL_UNARY(exp)
MSL_UNARY(log)
MSL_UNARY(sqrt)
MSL_UNARY(floor)
MSL_UNARY(ceil)
MSL_UNARY(round)
MSL_UNARY(rint)
MSL_UNARY(tanh)
#undef MSL_UNARY

inline float sign(float x)                  { return (float) ((x > 0) - (x < 0)); }
inline float pow(float a, float b)          { return std::pow(a, b); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline bool  isfinite(float x)              { return std::isfinite(x); }

namespace precise { using metal::tanh; }

template <class A, class B> using if_numbers = std::enable_if_t<is_number<A> && is_number<B>>;

template <class A, class B, class = if_numbers<A, B>> auto max(A a, B b) {
    typedef decltype(a + b) C;
    return (C) a > (C) b ? (C) a : (C) b;
}

template <class A, class B, class = if_numbers<A, B>> auto min(A a, B b) {
    typedef decltype(a + b) C;
    return (C) a < (C) b ? (C) a : (C) b;
}

template <class T> T clamp(T x, T low, T high) { return x < low ? low : x > high ? high : x; }

template <class T> T select(T if_false, T if_true, bool c) { return c ? if_true : if_false; }

template <class T, int N> T dot(vec<T, N> a, vec<T, N> b) {
    T s = 0;
    for (int i = 0; i < N; ++i) { s += a.v[i]*b.v[i]; }
    return s;
}

// ---- integers ----------------------------------------------------------------------------------------------------------

inline uint clz(uint x) { return x ? (uint) __builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? (uint) __builtin_ctz(x) : 32; }

template <class T> T extract_bits(T x, uint offset, uint bits) {
    typedef std::make_unsigned_t<T> U;
    const uint up = 8*sizeof(T) - bits;
    return (T) ((T) ((U) x >> offset << up) >> up);
}

} // namespace metal
