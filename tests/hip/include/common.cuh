// Stands in for upstream's common.cuh, so that clang compiles kernels for AMD GPUs as C++: each thread is a fiber of
// tests/metal_host. A wave is 32 lanes wide here, as upstream's kernels see it on every AMD GPU. What is an instruction on
// one is a function here: v_perm_b32, v_dot4, v_dot2, half arithmetic.
#pragma once

#include "ggml.h"

#define GGML_COMMON_DECL_HIP
#include "ggml-common.h"

#include "msl_threads.h"
#undef kernel
#undef device
#undef thread
#undef threadgroup
#undef constant

#include <algorithm>
#include <cfloat>

#define GGML_USE_HIP
#define __HIP_DEVICE_COMPILE__ 1
#define FLASH_ATTN_AVAILABLE
#define FP16_AVAILABLE
#define WARP_SIZE 32

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__      static // one block runs at a time
#define __align__(n)    __attribute__((aligned(n)))
#define GGML_CUDA_RESTRICT
#define GGML_UNUSED_VARS(...)
#define NO_DEVICE_CODE  abort()

struct dim { unsigned x, y, z; };
inline dim blockIdx, gridDim;
inline dim thread_place() {
    const unsigned t = (unsigned) host::running->current;
    return { t % WARP_SIZE, t/WARP_SIZE, 0 };
}
#define threadIdx (thread_place())

inline void __syncthreads()         { host::wait_for_threadgroup(); }
inline void ggml_cuda_syncwarp()    { host::wait_for_simdgroup(); }
inline void ggml_cuda_pdl_lc()      {}
inline void ggml_cuda_pdl_sync()    {}

template <typename T> T __shfl_xor_sync(unsigned, T v, int mask, int width = WARP_SIZE) {
    const auto x = host::exchange(v);
    const int at = (x.lane & ~(width - 1)) | ((x.lane ^ mask) & (width - 1));
    if (!x.has(at)) { host::fail("a lane reads one that is not there", at); }
    return x.at(at);
}

template <int width = WARP_SIZE> float warp_reduce_sum(float v) {
    for (int offset = width/2; offset > 0; offset /= 2) { v += __shfl_xor_sync(~0u, v, offset, width); }
    return v;
}

template <int width = WARP_SIZE> float warp_reduce_max(float v) {
    for (int offset = width/2; offset > 0; offset /= 2) { v = fmaxf(v, __shfl_xor_sync(~0u, v, offset, width)); }
    return v;
}

// ---- vectors and halves -----------------------------------------------------------------------------------------------

struct uint2 { uint32_t x, y; };
struct uint3 { uint32_t x, y, z; };
struct uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline uint2  make_uint2(uint32_t x, uint32_t y)                     { return { x, y }; }
inline float2 make_float2(float x, float y)                          { return { x, y }; }
inline float4 make_float4(float x, float y, float z, float w)        { return { x, y, z, w }; }
inline half2  make_half2(float x, float y)                           { return { (half) x, (half) y }; }

inline half2 operator*(half2 a, half2 b)                             { return { (half) (a.x*b.x), (half) (a.y*b.y) }; }
inline half2 operator+(half2 a, half2 b)                             { return { (half) (a.x + b.x), (half) (a.y + b.y) }; }
inline half2 & operator*=(half2 & a, half2 b)                        { return a = a*b; }
inline half2 & operator+=(half2 & a, half2 b)                        { return a = a + b; }

inline float  __half2float(half x)                                   { return (float) x; }
inline half   __float2half(float x)                                  { return (half) x; }
inline half2  __half2half2(half x)                                   { return { x, x }; }
inline half2  __float2half2_rn(float x)                              { return make_half2(x, x); }
inline half2  __floats2half2_rn(float x, float y)                    { return make_half2(x, y); }
inline float2 __half22float2(half2 x)                                { return { (float) x.x, (float) x.y }; }
inline half2  __float22half2_rn(float2 x)                            { return make_half2(x.x, x.y); }
inline half   __low2half(half2 x)                                    { return x.x; }
inline half   __high2half(half2 x)                                   { return x.y; }
inline half2  __hmul2(half2 a, half2 b)                              { return a*b; }
inline half2  __hsub2(half2 a, half2 b)                              { return { (half) (a.x - b.x), (half) (a.y - b.y) }; }
inline half   __ushort_as_half(uint16_t x)                           { half h; memcpy(&h, &x, 2); return h; }
inline uint32_t __float_as_uint(float x)                             { uint32_t u; memcpy(&u, &x, 4); return u; }

struct nv_bfloat16  { uint16_t bits; };
struct nv_bfloat162 { nv_bfloat16 x, y; };
template <typename T> T ggml_cuda_cast(nv_bfloat162) { abort(); } // no check has bf16

// ---- instructions -----------------------------------------------------------------------------------------------------

// v_perm_b32 as far as it is used: selector bytes 0 to 3 are of the second operand, 4 to 7 of the first
inline uint32_t amd_perm(uint32_t first, uint32_t second, uint32_t selector) {
    const uint64_t bytes = (uint64_t) first << 32 | second;
    uint32_t r = 0;
    for (int i = 0; i < 4; ++i) {
        const int at = selector >> 8*i & 0xff;
        if (at > 7) { host::fail("a selector of v_perm_b32 that has another meaning", at); }
        r |= (uint32_t) (bytes >> 8*at & 0xff) << 8*i;
    }
    return r;
}
#define __builtin_amdgcn_perm amd_perm
#define __builtin_amdgcn_sched_group_barrier(...)

inline int ggml_cuda_dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) { c += (int8_t) (a >> 8*i)*(int8_t) (b >> 8*i); }
    return c;
}

inline int __vsub4(int a, int b) {
    uint32_t r = 0;
    for (int i = 0; i < 4; ++i) { r |= ((uint32_t) a >> 8*i & 0xff) - ((uint32_t) b >> 8*i & 0xff) << 8*i & 0xffu << 8*i; }
    return (int) r;
}

inline void ggml_cuda_mad(float & acc, float2 v, float2 u) { acc += v.x*u.x; acc += v.y*u.y; }
inline void ggml_cuda_mad(float & acc, half2 v, half2 u)   { ggml_cuda_mad(acc, __half22float2(v), __half22float2(u)); }

constexpr int ggml_cuda_get_max_cpy_bytes() { return 16; }

template <int nbytes, int alignment = 0> void ggml_cuda_memcpy_1(void * dst, const void * src) { memcpy(dst, src, nbytes); }

inline float get_alibi_slope(float, uint32_t, uint32_t, float, float) { return 1.0f; } // no check has ALiBi

template <typename T, int vdr> T vec_dot_q8_0_q8_1_impl(const int * v, const int * u, const T & d_k, const T & d_q) {
    int sum = 0;
    for (int i = 0; i < vdr; ++i) { sum = ggml_cuda_dp4a(v[i], u[i], sum); }
    return d_k*d_q*(T) sum;
}
