#pragma once

// Decoding turbo3 and turbo4 (formats: turbo-blocks.h) on a GPU. Eight threads share a block: thread j decodes values
// 4j..4j+3 and 32+4j..32+4j+3, so that neighbours write neighbouring addresses. Every result is the reference's: d times
// an entry is exact in float, and a half or bfloat16 is that value rounded once.
//
// The includer has ggml_half and the CUDA or HIP headers; nothing else of ggml is needed. Functions marked TURBO_HD also
// run on the host, where a harness checks them without a GPU.

#include <stdint.h>

#include "turbo-blocks.h"

// the tables are compile-time constants: what the device needs is made of them below and in turbo-quants-encode.cuh
#define TURBO_TABLES_SEARCH
#define TURBO_TABLE(type, name) static constexpr type name
#include "turbo-tables.h"

#define TURBO_HD static __host__ __device__ __forceinline__

// ---- codebooks --------------------------------------------------------------------------------------------------------

template <typename block_t> struct turbo_traits;

template <> struct turbo_traits<block_turbo3> {
    static constexpr int LEVELS = 8;
    typedef uint2 book_t;
};

template <> struct turbo_traits<block_turbo4> {
    static constexpr int LEVELS = 16;
    typedef uint4 book_t;
};

// Entries plus 128: a byte u under the exponent 0x48 is the half 8 + u/128, so that halves come of a byte shuffle.
template <int LEVELS> struct alignas(16) turbo_books {
    uint8_t entry[TURBO_BOOKS][LEVELS];
};

template <int LEVELS> static constexpr turbo_books<LEVELS> turbo_make_books(const int8_t (&kvalues)[TURBO_BOOKS][LEVELS]) {
    turbo_books<LEVELS> books = {};
    for (int b = 0; b < TURBO_BOOKS; ++b) {
        for (int i = 0; i < LEVELS; ++i) {
            books.entry[b][i] = (uint8_t) (kvalues[b][i] + 128);
        }
    }
    return books;
}

// Not in constant memory: the blocks of a warp have different books, and divergent reads of it are served one by one.
static __device__ const turbo_books< 8> turbo3_books = turbo_make_books(kvalues_turbo3);
static __device__ const turbo_books<16> turbo4_books = turbo_make_books(kvalues_turbo4);

static __device__ __forceinline__ const turbo_books< 8> & turbo_books_of(const block_turbo3 *) { return turbo3_books; }
static __device__ __forceinline__ const turbo_books<16> & turbo_books_of(const block_turbo4 *) { return turbo4_books; }

template <typename block_t> static __device__ __forceinline__ uint16_t turbo_scale_bits(const block_t * x) {
    return *(const uint16_t *) x; // d is the first member
}

static __device__ __forceinline__ float turbo_scale(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

// ---- one value and the one 32 after it: dequantize_kernel_t, for the kernels that upstream has for all types -----------

static __device__ __forceinline__ void dequantize_turbo3(const void * vx, const int64_t ib, const int iqs, float2 & v) {
    const block_turbo3 * x = (const block_turbo3 *) vx + ib;
    const uint16_t bits = turbo_scale_bits(x);
    const uint8_t * entry = turbo3_books.entry[bits & (TURBO_BOOKS - 1)];
    const float d = turbo_scale(bits)*TURBO_ENTRY_SCALE;
    const int c = iqs >> 4;
    const int i = iqs & 15;
    const int low  = x->qs[i] >> 2*c;
    const int high = x->qh[i & 7] >> (2*(i >> 3) + c);
    v.x = d*(float) (entry[(low      & 3) | (high << 2 & 4)] - 128);
    v.y = d*(float) (entry[(low >> 4 & 3) | (high >> 2 & 4)] - 128);
}

static __device__ __forceinline__ void dequantize_turbo4(const void * vx, const int64_t ib, const int iqs, float2 & v) {
    const block_turbo4 * x = (const block_turbo4 *) vx + ib;
    const uint16_t bits = turbo_scale_bits(x);
    const uint8_t * entry = turbo4_books.entry[bits & (TURBO_BOOKS - 1)];
    const float d = turbo_scale(bits)*TURBO_ENTRY_SCALE;
    v.x = d*(float) (entry[x->qs[iqs] & 15] - 128);
    v.y = d*(float) (entry[x->qs[iqs] >> 4] - 128);
}

// ---- eight values a thread --------------------------------------------------------------------------------------------

// byte t of the result is the byte of b:a that nibble t of sel names; 3 bits count
TURBO_HD uint32_t turbo_byte_perm(uint32_t a, uint32_t b, uint32_t sel) {
#if defined(__CUDA_ARCH__)
    return __byte_perm(a, b, sel);
#else
    const uint64_t bytes = (uint64_t) b << 32 | a;
    uint32_t r = 0;
    for (int t = 0; t < 4; ++t) {
        r |= (uint32_t) (bytes >> 8*(sel >> 4*t & 7) & 0xff) << 8*t;
    }
    return r;
#endif // defined(__CUDA_ARCH__)
}

// Byte t of `first` and `second` becomes the entry that the low and the high nibble of byte t of `codes` choose.
TURBO_HD void turbo_look_up(uint2 book, uint32_t codes, uint32_t & first, uint32_t & second) {
#if defined(GGML_USE_HIP) && defined(__HIP_DEVICE_COMPILE__)
    first  = __builtin_amdgcn_perm(book.y, book.x, codes      & 0x07070707);
    second = __builtin_amdgcn_perm(book.y, book.x, codes >> 4 & 0x07070707);
#else
    const uint32_t sel = codes & 0x77777777;
    const uint32_t v01 = turbo_byte_perm(book.x, book.y, sel);
    const uint32_t v23 = turbo_byte_perm(book.x, book.y, sel >> 16);
    first  = turbo_byte_perm(v01, v23, 0x6420);
    second = turbo_byte_perm(v01, v23, 0x7531);
#endif // AMD has selectors of whole bytes
}

// a shuffle sees three bits of a code, the fourth chooses between two shuffles
TURBO_HD void turbo_look_up(uint4 book, uint32_t codes, uint32_t & first, uint32_t & second) {
#if defined(GGML_USE_HIP) && defined(__HIP_DEVICE_COMPILE__)
    uint32_t low[2], high[2];
    turbo_look_up(make_uint2(book.x, book.y), codes, low[0],  low[1]);
    turbo_look_up(make_uint2(book.z, book.w), codes, high[0], high[1]);
    first  = __builtin_amdgcn_perm(high[0], low[0], (codes >> 1 & 0x04040404) | 0x03020100);
    second = __builtin_amdgcn_perm(high[1], low[1], (codes >> 5 & 0x04040404) | 0x03020100);
#else
    const uint32_t sel  = codes & 0x77777777;
    const uint32_t half = (codes >> 1 & 0x44444444) | 0x32103210;
    const uint32_t v01 = turbo_byte_perm(turbo_byte_perm(book.x, book.y, sel),       turbo_byte_perm(book.z, book.w, sel),       half);
    const uint32_t v23 = turbo_byte_perm(turbo_byte_perm(book.x, book.y, sel >> 16), turbo_byte_perm(book.z, book.w, sel >> 16), half >> 16);
    first  = turbo_byte_perm(v01, v23, 0x6420);
    second = turbo_byte_perm(v01, v23, 0x7531);
#endif // AMD has selectors of whole bytes
}

// blocks start at even addresses
TURBO_HD uint32_t turbo_load_word(const uint8_t * p, int i) {
    const uint16_t * h = (const uint16_t *) p + 2*i;
    return h[0] | (uint32_t) h[1] << 16;
}

// what thread j of 8 reads of a block, and the codes in it: two steps, so that several blocks can be on their way
template <typename block_t> struct turbo_packed {
    uint32_t low, high; // high: turbo3
    uint16_t scale;
};

TURBO_HD turbo_packed<block_turbo3> turbo_load_packed(const block_turbo3 * x, int j) {
    return { turbo_load_word(x->qs, j & 3), turbo_load_word(x->qh, j & 1), *(const uint16_t *) x }; // d is the first member
}

TURBO_HD turbo_packed<block_turbo4> turbo_load_packed(const block_turbo4 * x, int j) {
    return { turbo_load_word(x->qs, j), 0, *(const uint16_t *) x };
}

TURBO_HD uint32_t turbo_codes_of(const turbo_packed<block_turbo3> & x, int j) {
    const int odd = j >> 2;
    return (x.low >> 2*odd & 0x33333333) | (x.high >> 2*(j >> 1 & 1) << (2 - odd) & 0x44444444);
}

TURBO_HD uint32_t turbo_codes_of(const turbo_packed<block_turbo4> & x, int) { return x.low; }

#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 600 && __CUDA_ARCH__ != 610)
#define TURBO_FAST_HALF // as FAST_FP16_AVAILABLE of common.cuh
#endif

// bytes 2i and 2i + 1 of four under an exponent, as halves: 0x64 makes 1024 + u of a byte u, 0x48 makes 8 + u/128
static __device__ __forceinline__ half2 turbo_bytes_as_halves(uint32_t bytes, uint32_t exponent, int i) {
#if defined(GGML_USE_HIP)
    const uint32_t u = __builtin_amdgcn_perm(exponent, bytes, i == 0 ? 0x04010400 : 0x04030402);
#else
    const uint32_t u = __byte_perm(bytes, exponent, i == 0 ? 0x4140 : 0x4342);
#endif // defined(GGML_USE_HIP)
    return *(const half2 *) &u;
}

// entries 2i and 2i + 1 of four bytes, as fractions of 128
static __device__ __forceinline__ half2 turbo_entry_halves(uint32_t bytes, int i) {
    return __hsub2(turbo_bytes_as_halves(bytes, 0x48, i), __float2half2_rn(9.0f)); // exact
}

static __device__ __forceinline__ float turbo_entry_float(uint32_t bytes, int i) {
    return (float) ((int) (bytes >> 8*i & 0xff) - 128);
}

static __device__ __forceinline__ void turbo_store4(float * y, uint32_t bytes, uint16_t scale) {
    const float d = turbo_scale(scale)*TURBO_ENTRY_SCALE;
    *(float4 *) y = make_float4(d*turbo_entry_float(bytes, 0), d*turbo_entry_float(bytes, 1),
                                d*turbo_entry_float(bytes, 2), d*turbo_entry_float(bytes, 3));
}

// floats of a tensor that may begin anywhere; the others are aligned as the memory pool aligns
struct turbo_f32 { float v; };

static __device__ __forceinline__ void turbo_store4(turbo_f32 * y, uint32_t bytes, uint16_t scale) {
    const float d = turbo_scale(scale)*TURBO_ENTRY_SCALE;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        y[i].v = d*turbo_entry_float(bytes, i);
    }
}

static __device__ __forceinline__ void turbo_store4(half * y, uint32_t bytes, uint16_t scale) {
    half2 h[2];
#ifdef TURBO_FAST_HALF
    const half2 d = __half2half2(__ushort_as_half(scale));
    h[0] = __hmul2(d, turbo_entry_halves(bytes, 0));
    h[1] = __hmul2(d, turbo_entry_halves(bytes, 1));
#else
    const float d = turbo_scale(scale)*TURBO_ENTRY_SCALE;
    h[0] = __floats2half2_rn(d*turbo_entry_float(bytes, 0), d*turbo_entry_float(bytes, 1));
    h[1] = __floats2half2_rn(d*turbo_entry_float(bytes, 2), d*turbo_entry_float(bytes, 3));
#endif // TURBO_FAST_HALF
    *(uint2 *) y = *(const uint2 *) h;
}

// bfloat16, without a name for it: the vendors' headers differ. The value has 18 significant bits and is never NaN.
struct alignas(2) turbo_bf16 { uint16_t bits; };

static __device__ __forceinline__ uint32_t turbo_round_bf16(float v) {
    const uint32_t u = __float_as_uint(v);
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

static __device__ __forceinline__ void turbo_store4(turbo_bf16 * y, uint32_t bytes, uint16_t scale) {
    const float d = turbo_scale(scale)*TURBO_ENTRY_SCALE;
    uint32_t b[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        b[i] = turbo_round_bf16(d*turbo_entry_float(bytes, i));
    }
    *(uint2 *) y = make_uint2(b[0] | b[1] << 16, b[2] | b[3] << 16);
}

// thread j of 8 writes its values of a block to y, which is the block's place
template <typename block_t, typename dst_t>
static __device__ __forceinline__ void turbo_decode_eighth(const turbo_packed<block_t> & x, int j, dst_t * y) {
    typedef typename turbo_traits<block_t>::book_t book_t;
    const book_t book = ((const book_t *) turbo_books_of((const block_t *) nullptr).entry)[x.scale & (TURBO_BOOKS - 1)];
    uint32_t first, second;
    turbo_look_up(book, turbo_codes_of(x, j), first, second);
    turbo_store4(y + 4*j,              first,  x.scale);
    turbo_store4(y + 4*j + QK_TURBO/2, second, x.scale);
}
