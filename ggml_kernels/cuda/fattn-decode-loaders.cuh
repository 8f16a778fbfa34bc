#pragma once

// One loader per cache type: how codes of a row in shared memory become the bytes or halves that tensor cores take.
// A new type is one loader here and its name in fattn-decode.cmake and fattn-decode.cu.
//
//   BLOCK     values under one scale
//   HALF      the row holds halves, and needs no decoding; the members below do not exist then
//   BYTES     the size of a block, at whose start its scale is, an fp16
//   BIAS      what makes an entry the unsigned byte that V uses; K_BIAS the same for the signed byte that K uses
//   UNIT      the value of one step of an entry
//   chunk()   chunk j of block b: eight values of a row as 2 x 4 bytes, unsigned if SIGNED is false
//   index()   which value of the row the e-th value of a chunk is: every bit of (b, j, e) is one bit of it, and the lowest two are bits of e

#include "fattn-decode-ptx.cuh"
#include "turbo-quants-decode.cuh"

// The word at p, shifted right by shift, or left if that is negative; what is shifted in is garbage, for the caller to mask.
// PAR is the parity of the address in half words: 0 or 2, or anything else if it is known only at run time
static __device__ __forceinline__ uint32_t smem_u32(const char * p, int par, int shift = 0) {
    if (par == 0) {
        const uint32_t w = *(const uint32_t *) p;
        return __funnelshift_r(w, w, shift);
    }
    const int q = par == 2 ? 2 : (int) shared_address(p) & 2;
    const uint32_t * w = (const uint32_t *) (p - q);
    if (par == 2) {
        return __funnelshift_r(w[0], w[1], 16 + shift);
    }
    const uint32_t joined = __funnelshift_r(w[0], w[1], q*8);
    return __funnelshift_r(joined, joined, shift);
}

// the parity of row + off, where the row's is known
static __device__ __forceinline__ constexpr int parity(int row_par, int off) { return row_par < 0 ? -1 : (row_par + off) & 2; }

// The parity of the rows of head h among heads of d values, where the first of them is aligned; -1: it is known only at run time
template <int D, typename L> static __host__ __device__ constexpr int row_parity(int h = -1) {
    if constexpr (L::HALF) {
        return -1; // read as matrices
    } else {
        return L::BLOCK != 64 ? -1 : h >= 0 ? h*L::row_bytes(D) & 2 : L::row_bytes(D)%4 == 0 ? 0 : -1;
    }
}

struct load_f16 {
    static constexpr bool HALF = true;
    static constexpr int BLOCK = 1;
    static __host__ __device__ constexpr int row_bytes(int d) { return d*2; }
};

template <typename L> struct load_codes {
    static constexpr bool HALF = false;
    static __host__ __device__ constexpr int row_bytes(int d) { return d/L::BLOCK*L::BYTES; }
    static __device__ __forceinline__ void fill_books(uint32_t *, int, bool) {}
};

struct load_q4_0 : load_codes<load_q4_0> {
    static constexpr int BLOCK = 32, BYTES = 18, BIAS = 8, K_BIAS = 8;
    static constexpr float UNIT = 1.0f;
    template <bool SIGNED> static __device__ __forceinline__ void chunk(const char * row, int, int b, int j, const uint32_t *, uint32_t & lo, uint32_t & hi) {
        const uint32_t w = smem_u32(row + b*BYTES + 2 + j*4, -1);
        lo = w & 0x0f0f0f0f;
        hi = (w >> 4) & 0x0f0f0f0f;
    }
    static __device__ constexpr int index(int b, int j, int e) { return b*32 + j*4 + (e & 3) + (e >> 2)*16; }
};

struct load_q5_0 : load_codes<load_q5_0> {
    static constexpr int BLOCK = 32, BYTES = 22, BIAS = 16, K_BIAS = 16;
    static constexpr float UNIT = 1.0f;
    // bits 0 to 3 of x as bit 4 of four bytes
    static __device__ __forceinline__ uint32_t fifth_bits(uint32_t x) { return ((x & 15)*0x00204081 & 0x01010101) << 4; }
    template <bool SIGNED> static __device__ __forceinline__ void chunk(const char * row, int, int b, int j, const uint32_t *, uint32_t & lo, uint32_t & hi) {
        const uint32_t w = smem_u32(row + b*BYTES + 6 + j*4, -1);
        const uint32_t h = smem_u32(row + b*BYTES + 2, -1) >> 4*j;
        lo = (w & 0x0f0f0f0f) | fifth_bits(h);
        hi = ((w >> 4) & 0x0f0f0f0f) | fifth_bits(h >> 16);
    }
    static __device__ constexpr int index(int b, int j, int e) { return b*32 + j*4 + (e & 3) + (e >> 2)*16; }
};

struct load_q8_0 : load_codes<load_q8_0> {
    static constexpr int BLOCK = 32, BYTES = 34, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = 1.0f;
    template <bool SIGNED> static __device__ __forceinline__ void chunk(const char * row, int, int b, int j, const uint32_t *, uint32_t & lo, uint32_t & hi) {
        const char * p = row + b*BYTES + 2 + j*8;
        const int par = (int) shared_address(p) & 2;
        const uint32_t * w = (const uint32_t *) (p - par);
        const uint32_t w1 = w[1];
        lo = __funnelshift_r(w[0], w1, par*8) ^ (SIGNED ? 0 : 0x80808080);
        hi = __funnelshift_r(w1, w[2], par*8) ^ (SIGNED ? 0 : 0x80808080); // the last word may lie past the row, not past the tile
    }
    static __device__ constexpr int index(int b, int j, int e) { return b*32 + j*8 + e; }
};

// The books lie in shared memory, 8 x 16 bytes or 8 x 8: one row of banks. V's hold entries + 128, as they come.
template <int N> static __device__ __forceinline__ void fill_turbo_books(uint32_t * books, const turbo_books<N> & from, int i, bool is_signed) {
    if (i < TURBO_BOOKS*N/4) { books[i] = ((const uint32_t *) from.entry)[i] ^ (is_signed ? 0x80808080 : 0); }
}

struct load_turbo4 : load_codes<load_turbo4> {
    static constexpr int BLOCK = 64, BYTES = 34, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = TURBO_ENTRY_SCALE;
    static __device__ __forceinline__ void fill_books(uint32_t * books, int i, bool is_signed) { fill_turbo_books(books, turbo4_books, i, is_signed); }
    template <bool SIGNED> static __device__ __forceinline__ void chunk(const char * row, int row_par, int b, int j, const uint32_t * books, uint32_t & lo, uint32_t & hi) {
        const uint4    t = ((const uint4 *) books)[*(const uint16_t *) (row + b*BYTES) & 7];
        const uint32_t w = smem_u32(row + b*BYTES + 2 + j*4, parity(row_par, b*BYTES + 2));
        const uint32_t sel  = w & 0x77777777;
        const uint32_t half = ((w >> 1) & 0x44444444) | 0x32103210;
        lo = byte_perm(byte_perm(t.x, t.y, sel),       byte_perm(t.z, t.w, sel),       half);
        hi = byte_perm(byte_perm(t.x, t.y, sel >> 16), byte_perm(t.z, t.w, sel >> 16), half >> 16);
    }
    static __device__ constexpr int index(int b, int j, int e) { return b*64 + j*4 + (e >> 1) + (e & 1)*32; }
};

struct load_turbo3 : load_codes<load_turbo3> {
    static constexpr int BLOCK = 64, BYTES = 26, BIAS = 128, K_BIAS = 0;
    static constexpr float UNIT = TURBO_ENTRY_SCALE;
    static __device__ __forceinline__ void fill_books(uint32_t * books, int i, bool is_signed) { fill_turbo_books(books, turbo3_books, i, is_signed); }
    template <bool SIGNED> static __device__ __forceinline__ void chunk(const char * row, int row_par, int b, int j, const uint32_t * books, uint32_t & lo, uint32_t & hi) {
        const uint2 t = ((const uint2 *) books)[*(const uint16_t *) (row + b*BYTES) & 7];
        const int k = j >> 1, odd = j & 1;
        const uint32_t w = smem_u32(row + b*BYTES + 2 + k*4, parity(row_par, b*BYTES + 2), 2*odd);
        const uint32_t h = smem_u32(row + b*BYTES + 18 + (k & 1)*4, parity(row_par, b*BYTES + 18), (k & 2) - 2 + odd);
        const uint32_t sel = (w & 0x33333333) | (h & 0x44444444);
        lo = byte_perm(t.x, t.y, sel);
        hi = byte_perm(t.x, t.y, sel >> 16);
    }
    static __device__ constexpr int index(int b, int j, int e) { return b*64 + (j >> 1)*4 + (j & 1)*16 + (e >> 1) + (e & 1)*32; }
};

template <typename L> static __device__ __forceinline__ float block_scale(const char * row, int b) {
    return __half2float(*(const half *) (row + b*L::BYTES));
}
