#pragma once

// The block formats turbo3, turbo4 and turbo3t: 64 values, a scale and 3- or 4-bit codes into an int8 codebook.
// Plain enough for C, C++, CUDA, HIP and Metal. Needs ggml_half and static_assert (ggml-common.h has both).
// turbo3 and turbo4 (turbo3t: turbo-trellis-ref.h):
//
//   value[v] = d * kvalues[book][code[v]] / 128,   book = bits(d) & 7
//
// - d may be negative: a mirrored book, for a sign bit that fp16 has anyway.
// - The three lowest mantissa bits of d choose one of eight codebooks. d keeps 7 mantissa bits, which costs
//   5e-6 of NMSE where the choice gains 12 to 14 %. d is used as it is, book bits and all: nothing is masked off.
// - The 1/128 is not folded into d, so that blocks keep full precision down to magnitudes of 1e-4 without fp16
//   denormals. It is a power of two: fold it once into the other operand of a dot product (q's scale), or read an
//   entry as a fraction of 128 when making halves of it (0x4800 | u8 is 8 + u8/128).
//
// Layout. Each plane byte belongs to one lane i, so that one load, shift and mask serve all values of a lane group:
// turbo4: qs[i], i < 32:  low nibble = value i, high nibble = value 32 + i. The nibbles are the two Q8_0 blocks.
//         GPU: word j gives values 4j..4j+3 and 32+4j..32+4j+3.
// turbo3: qs[i], i < 16:  bits 2c, 2c+1 = code bits 0 and 1 of value 16c + i, c < 4.
//         qh[i & 7]:      bit 4*(c >> 1) + 2*(i >> 3) + (c & 1) = code bit 2 of that value.
//         SIMD: broadcast the 8 bytes qh, test one bit per lane. GPU: with w = word j of qs and h = word (j & 1) of qh
//         >> 2*(j >> 1), ((w & 0x33333333) | (h << 2 & 0x44444444)) holds in byte t the codes of values 4j+t (low
//         nibble) and 32+4j+t (high nibble), and (((w >> 2) & 0x33333333) | (h << 1 & 0x44444444)) those of values
//         16+4j+t and 48+4j+t: selectors for __byte_perm on the eight bytes of the book.

#define QK_TURBO    64
#define TURBO_BOOKS 8

// exact in float, and in half
#define TURBO_ENTRY_SCALE 0.0078125f

typedef struct {
    ggml_half d;                 // signed scale; its 3 lowest bits are the book
    uint8_t qs[QK_TURBO / 4];    // code bits 0 and 1
    uint8_t qh[QK_TURBO / 8];    // code bit 2
} block_turbo3;
static_assert(sizeof(block_turbo3) == sizeof(ggml_half) + QK_TURBO*3/8, "wrong turbo3 block size/padding");

typedef struct {
    ggml_half d;                 // signed scale; its 3 lowest bits are the book
    uint8_t qs[QK_TURBO / 2];    // nibbles
} block_turbo4;
static_assert(sizeof(block_turbo4) == sizeof(ggml_half) + QK_TURBO/2, "wrong turbo4 block size/padding");

typedef struct {
    uint16_t ds;                    // ten bits of the scale, and the six of the start state
    uint8_t qs[3][QK_TURBO / 8];    // plane k: bit k of each symbol
} block_turbo3t;
static_assert(sizeof(block_turbo3t) == sizeof(block_turbo3), "turbo3t takes the bytes of turbo3");
