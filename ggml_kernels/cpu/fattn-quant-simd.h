#pragma once

// The few vector operations that fattn-quant.cpp is written in, for AVX-512, AVX2, NEON and plain C++.
//
//   f32v   F32_N floats        i16v   I16_N int16 values
//   madd   products of int16 pairs added to int32, converted to F32_N floats per vector: exact, no saturation

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define FATTN_F32_N 16
#define FATTN_I16_N 32
typedef __m512  f32v;
typedef __m512i i16v;
typedef __m512i i32v;
static inline f32v f32v_zero()                        { return _mm512_setzero_ps(); }
static inline f32v f32v_set1(float x)                 { return _mm512_set1_ps(x); }
static inline f32v f32v_load(const float * p)         { return _mm512_loadu_ps(p); }
static inline void f32v_store(float * p, f32v x)      { _mm512_storeu_ps(p, x); }
static inline f32v f32v_mul(f32v a, f32v b)           { return _mm512_mul_ps(a, b); }
static inline f32v f32v_fma(f32v a, f32v b, f32v c)   { return _mm512_fmadd_ps(a, b, c); }
static inline float f32v_sum(f32v x)                  { return _mm512_reduce_add_ps(x); }
static inline f32v f32v_from_i8(const int8_t * p)     { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p))); }
static inline i16v i16v_load(const int16_t * p)       { return _mm512_loadu_si512(p); }
static inline i16v i16v_from_i8(const int8_t * p)     { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) p)); }
static inline i32v i32v_zero()                        { return _mm512_setzero_si512(); }
static inline f32v f32v_from_i32(i32v x)              { return _mm512_cvtepi32_ps(x); }
#if defined(__AVX512VNNI__)
static inline i32v i16v_madd(i16v a, i16v b, i32v c)  { return _mm512_dpwssd_epi32(c, a, b); }
#else
static inline i32v i16v_madd(i16v a, i16v b, i32v c)  { return _mm512_add_epi32(c, _mm512_madd_epi16(a, b)); }
#endif

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define FATTN_F32_N 8
#define FATTN_I16_N 16
typedef __m256  f32v;
typedef __m256i i16v;
typedef __m256i i32v;
static inline f32v f32v_zero()                        { return _mm256_setzero_ps(); }
static inline f32v f32v_set1(float x)                 { return _mm256_set1_ps(x); }
static inline f32v f32v_load(const float * p)         { return _mm256_loadu_ps(p); }
static inline void f32v_store(float * p, f32v x)      { _mm256_storeu_ps(p, x); }
static inline f32v f32v_mul(f32v a, f32v b)           { return _mm256_mul_ps(a, b); }
static inline f32v f32v_fma(f32v a, f32v b, f32v c)   { return _mm256_fmadd_ps(a, b, c); }
static inline float f32v_sum(f32v x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline f32v f32v_from_i8(const int8_t * p)     { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p))); }
static inline i16v i16v_load(const int16_t * p)       { return _mm256_loadu_si256((const __m256i *) p); }
static inline i16v i16v_from_i8(const int8_t * p)     { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) p)); }
static inline i32v i32v_zero()                        { return _mm256_setzero_si256(); }
static inline f32v f32v_from_i32(i32v x)              { return _mm256_cvtepi32_ps(x); }
static inline i32v i16v_madd(i16v a, i16v b, i32v c)  { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }

#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define FATTN_F32_N 4
#define FATTN_I16_N 8
typedef float32x4_t f32v;
typedef int16x8_t   i16v;
typedef int32x4_t   i32v;
static inline f32v f32v_zero()                        { return vdupq_n_f32(0); }
static inline f32v f32v_set1(float x)                 { return vdupq_n_f32(x); }
static inline f32v f32v_load(const float * p)         { return vld1q_f32(p); }
static inline void f32v_store(float * p, f32v x)      { vst1q_f32(p, x); }
static inline f32v f32v_mul(f32v a, f32v b)           { return vmulq_f32(a, b); }
static inline f32v f32v_fma(f32v a, f32v b, f32v c)   { return vfmaq_f32(c, a, b); }
static inline float f32v_sum(f32v x)                  { return vaddvq_f32(x); }
static inline f32v f32v_from_i8(const int8_t * p) {
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
}
static inline i16v i16v_load(const int16_t * p)       { return vld1q_s16(p); }
static inline i16v i16v_from_i8(const int8_t * p)     { return vmovl_s8(vld1_s8(p)); }
static inline i32v i32v_zero()                        { return vdupq_n_s32(0); }
static inline f32v f32v_from_i32(i32v x)              { return vcvtq_f32_s32(x); }
static inline i32v i16v_madd(i16v a, i16v b, i32v c)  { return vmlal_high_s16(vmlal_s16(c, vget_low_s16(a), vget_low_s16(b)), a, b); }

#else
#define FATTN_F32_N 1
#define FATTN_I16_N 1
typedef float   f32v;
typedef int16_t i16v;
typedef int32_t i32v;
static inline f32v f32v_zero()                        { return 0; }
static inline f32v f32v_set1(float x)                 { return x; }
static inline f32v f32v_load(const float * p)         { return *p; }
static inline void f32v_store(float * p, f32v x)      { *p = x; }
static inline f32v f32v_mul(f32v a, f32v b)           { return a * b; }
static inline f32v f32v_fma(f32v a, f32v b, f32v c)   { return a * b + c; }
static inline float f32v_sum(f32v x)                  { return x; }
static inline f32v f32v_from_i8(const int8_t * p)     { return *p; }
static inline i16v i16v_load(const int16_t * p)       { return *p; }
static inline i16v i16v_from_i8(const int8_t * p)     { return *p; }
static inline i32v i32v_zero()                        { return 0; }
static inline f32v f32v_from_i32(i32v x)              { return (float) x; }
static inline i32v i16v_madd(i16v a, i16v b, i32v c)  { return c + a * b; }
#endif

// C[M x N] += A[M x K] B[K x N], row-major with leading dimensions; NR rows and NV vectors are held in registers.
template <int NR, int NV>
static inline void gemm_kernel(float * C, int ldc, const float * A, int lda, const float * B, int ldb, int K) {
    f32v acc[NR][NV];
    for (int r = 0; r < NR; ++r) {
        for (int v = 0; v < NV; ++v) {
            acc[r][v] = f32v_load(C + r*ldc + v*FATTN_F32_N);
        }
    }
    for (int k = 0; k < K; ++k) {
        f32v b[NV];
        for (int v = 0; v < NV; ++v) {
            b[v] = f32v_load(B + (size_t) k*ldb + v*FATTN_F32_N);
        }
        for (int r = 0; r < NR; ++r) {
            const f32v a = f32v_set1(A[r*lda + k]);
            for (int v = 0; v < NV; ++v) {
                acc[r][v] = f32v_fma(a, b[v], acc[r][v]);
            }
        }
    }
    for (int r = 0; r < NR; ++r) {
        for (int v = 0; v < NV; ++v) {
            f32v_store(C + r*ldc + v*FATTN_F32_N, acc[r][v]);
        }
    }
}

template <int NR>
static inline void gemm_rows(float * C, int ldc, const float * A, int lda, const float * B, int ldb, int K, int N) {
#if FATTN_F32_N == 8
    constexpr int NV = 2; // 16 registers
#else
    constexpr int NV = 4;
#endif
    int n = 0;
    for (; n + NV*FATTN_F32_N <= N; n += NV*FATTN_F32_N) {
        gemm_kernel<NR, NV>(C + n, ldc, A, lda, B + n, ldb, K);
    }
    for (; n + FATTN_F32_N <= N; n += FATTN_F32_N) {
        gemm_kernel<NR, 1>(C + n, ldc, A, lda, B + n, ldb, K);
    }
    for (; n < N; ++n) {
        for (int r = 0; r < NR; ++r) {
            float sum = C[r*ldc + n];
            for (int k = 0; k < K; ++k) {
                sum += A[r*lda + k]*B[(size_t) k*ldb + n];
            }
            C[r*ldc + n] = sum;
        }
    }
}

static inline void gemm(float * C, int ldc, const float * A, int lda, const float * B, int ldb, int M, int K, int N) {
    int m = 0;
    for (; m + 4 <= M; m += 4) {
        gemm_rows<4>(C + (size_t) m*ldc, ldc, A + (size_t) m*lda, lda, B, ldb, K, N);
    }
    C += (size_t) m*ldc;
    A += (size_t) m*lda;
    switch (M - m) {
        case 3: gemm_rows<3>(C, ldc, A, lda, B, ldb, K, N); break;
        case 2: gemm_rows<2>(C, ldc, A, lda, B, ldb, K, N); break;
        case 1: gemm_rows<1>(C, ldc, A, lda, B, ldb, K, N); break;
        default: break;
    }
}

// y[cols x rows] = transpose of x[rows x cols]; 8 x 8 blocks in registers where there are 256-bit shuffles.
static inline void transpose(float * y, int ldy, const float * x, int ldx, int rows, int cols) {
    int c0 = 0;
#if FATTN_F32_N >= 8
    for (; c0 + 8 <= cols; c0 += 8) {
        int r0 = 0;
        for (; r0 + 8 <= rows; r0 += 8) {
            __m256 a[8], b[8];
            for (int i = 0; i < 8; ++i) {
                a[i] = _mm256_loadu_ps(x + (size_t) (r0 + i)*ldx + c0);
            }
            for (int i = 0; i < 8; i += 2) {
                b[i + 0] = _mm256_unpacklo_ps(a[i], a[i + 1]);
                b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
            }
            for (int i = 0; i < 8; i += 4) {
                a[i + 0] = _mm256_shuffle_ps(b[i + 0], b[i + 2], 0x44);
                a[i + 1] = _mm256_shuffle_ps(b[i + 0], b[i + 2], 0xee);
                a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
                a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
            }
            for (int i = 0; i < 4; ++i) {
                _mm256_storeu_ps(y + (size_t) (c0 + i    )*ldy + r0, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
                _mm256_storeu_ps(y + (size_t) (c0 + i + 4)*ldy + r0, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
            }
        }
        for (; r0 < rows; ++r0) {
            for (int i = 0; i < 8; ++i) {
                y[(size_t) (c0 + i)*ldy + r0] = x[(size_t) r0*ldx + c0 + i];
            }
        }
    }
#endif
    for (; c0 < cols; ++c0) {
        for (int r = 0; r < rows; ++r) {
            y[(size_t) c0*ldy + r] = x[(size_t) r*ldx + c0];
        }
    }
}
