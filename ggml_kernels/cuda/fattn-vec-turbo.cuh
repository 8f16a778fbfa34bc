#pragma once

// turbo3 and turbo4 as K and V of upstream's vec kernel (fattn-vec.cuh), for GPUs that the decode kernel is not made for.
// A thread works on quads: four neighbouring values, whose codebook entries one byte shuffle puts into an int for dp4a.

#include "turbo-quants-decode.cuh"

#define TURBO_QUADS (QK_TURBO/4) // of a block

// the codes of quad r, one a byte
TURBO_HD uint32_t turbo_quad_codes(const block_turbo3 * x, int r) {
    const uint32_t low  = turbo_load_word(x->qs, r & 3) >> 2*(r >> 2);
    const uint32_t high = turbo_load_word(x->qh, r & 1) >> (4*(r >> 3) + 2*(r >> 1 & 1) + (r >> 2 & 1));
    return (low & 0x03030303) | (high << 2 & 0x04040404);
}

TURBO_HD uint32_t turbo_quad_codes(const block_turbo4 * x, int r) {
    return turbo_load_word(x->qs, r & 7) >> (r >> 3)*4 & 0x0F0F0F0F;
}

// their entries, plus 128
template <typename book_t> TURBO_HD uint32_t turbo_quad_entries(book_t book, uint32_t codes) {
    uint32_t entries, unused;
    turbo_look_up(book, codes, entries, unused);
    return entries;
}

template <typename block_t> static __device__ __forceinline__ uint32_t turbo_quad(const block_t * x, uint16_t scale, int r) {
    typedef typename turbo_traits<block_t>::book_t book_t;
    const book_t book = ((const book_t *) turbo_books_of((const block_t *) nullptr).entry)[scale & (TURBO_BOOKS - 1)];
    return turbo_quad_entries(book, turbo_quad_codes(x, r));
}

// vec_dot_KQ_t: thread `lane` of nthreads has quads lane, lane + nthreads .. of Q as q8_1, and takes those of K
template <typename block_t, int D, int nthreads>
static __device__ __forceinline__ float vec_dot_fattn_vec_KQ_turbo(
        const char * __restrict__ K_c, const void * __restrict__ Q_v, const int * __restrict__ Q_q8, const void * __restrict__ Q_ds_v) {
    constexpr int scale_quads = 8; // share a scale of Q
    constexpr int per_scale   = nthreads < scale_quads ? scale_quads/nthreads : 1;
    const block_t * K    = (const block_t *) K_c;
    const float2  * Q_ds = (const float2  *) Q_ds_v;
    const int       lane = nthreads == WARP_SIZE ? threadIdx.x : threadIdx.x % nthreads;
    GGML_UNUSED(Q_v);

    float sum = 0.0f;
#pragma unroll
    for (int i0 = 0; i0 < D/4/nthreads; i0 += per_scale) {
        // which block it is does not depend on the lane if a few threads share it: its scale and book are then read once
        const int first = i0*nthreads;
        const block_t * x = K + (nthreads < TURBO_QUADS ? first : first + lane)/TURBO_QUADS;
        const uint16_t scale = turbo_scale_bits(x);
        int sumi = 0;
#pragma unroll
        for (int i = 0; i < per_scale; ++i) {
            const int r = (first + i*nthreads + lane) % TURBO_QUADS;
            const int v = (int) (turbo_quad(x, scale, r) ^ 0x80808080);
            sumi = ggml_cuda_dp4a(v, Q_q8[i0 + i], sumi);
        }
        sum += turbo_scale(scale)*(sumi*Q_ds[i0].x);
    }
    return sum*TURBO_ENTRY_SCALE;
}

// dequantize_V_t: values i0 .. i0 + 3
template <typename block_t, typename T, int ne>
static __device__ __forceinline__ void dequantize_V_turbo(const void * __restrict__ vx, void * __restrict__ dst, const int64_t i0) {
    static_assert(ne == 4, "a quad");
    int offset = (int) (i0/QK_TURBO*sizeof(block_t));
#if defined(GGML_USE_HIP)
    // Else the addresses of all 32 rows of the unrolled loop are kept from turn to turn: 256 registers and spills, not 130.
    asm volatile("" : "+v"(offset));
#endif // defined(GGML_USE_HIP)
    const block_t * x = (const block_t *) ((const char *) vx + offset);
    const uint16_t scale   = turbo_scale_bits(x);
    const uint32_t entries = turbo_quad(x, scale, i0 % QK_TURBO / 4);
    if constexpr (std::is_same_v<T, float>) {
        const float d = turbo_scale(scale)*TURBO_ENTRY_SCALE;
#pragma unroll
        for (int l = 0; l < ne; ++l) {
            ((float *) dst)[l] = d*turbo_entry_float(entries, l);
        }
    } else {
        static_assert(std::is_same_v<T, half>, "bad type");
        const half2 d = __half2half2(__ushort_as_half(scale));
        ((half2 *) dst)[0] = __hmul2(d, turbo_entry_halves(entries, 0));
        ((half2 *) dst)[1] = __hmul2(d, turbo_entry_halves(entries, 1));
    }
}
