#pragma once

// Reading turbo3 and turbo4 in a Metal kernel: the counterparts of what dequantize.h has for upstream's types, for a
// type that is dequantized 16 values (4x4) or 4 values (_t4) at a time. The floats are those of turbo-quants-ref.c.
//
// A look-up in constant memory per value is what M1 to M3 are slow at, for the threads of a simdgroup then read many
// addresses. So a book is read once per call, as two or four words, and its entries are selected in registers.

#include "common.h"
#include "dequantize.h"

// read as vectors, so aligned as those are
#define TURBO_TABLE(type, name) alignas(16) static const constant type name
#define TURBO_TABLES_SEARCH

#include "turbo-blocks.h"
#include "turbo-tables.h"

// ---- books in registers -----------------------------------------------------------------------------------------------

static inline uint2 turbo_load_book(device const block_turbo3 *, uint book) {
    return ((constant uint2 *) kvalues_turbo3)[book];
}

static inline uint4 turbo_load_book(device const block_turbo4 *, uint book) {
    return ((constant uint4 *) kvalues_turbo4)[book];
}

// Only the lowest bits of code are used: 3 of them with 8 entries, 4 with 16.
static inline int turbo_entry(uint2 book, uint code) {
    return extract_bits((int) (code & 4 ? book.y : book.x), 8*(code & 3), 8u);
}

static inline int turbo_entry(uint4 book, uint code) {
    return turbo_entry(code & 8 ? uint2(book.z, book.w) : uint2(book.x, book.y), code);
}

template <typename block_t>
static inline uint turbo_book_of(device const block_t * xb) {
    return as_type<ushort>(xb->d) & (TURBO_BOOKS - 1);
}

// ---- codes ------------------------------------------------------------------------------------------------------------

// Four bytes at p + 4*i; a block begins at an even address, not at a multiple of four.
static inline uint turbo_load_word(device const uint8_t * p, short i) {
    device const ushort * u = (device const ushort *) p + 2*i;
    return u[0] | (uint) u[1] << 16;
}

// Byte t of the result ends in the code of value 4*il + t; what is above it is not cleared.
static inline uint turbo_codes(device const block_turbo4 * xb, short il) {
    return turbo_load_word(xb->qs, il & 7) >> 4*(il >> 3);
}

static inline uint turbo_codes(device const block_turbo3 * xb, short il) {
    const short c = il >> 2; // 16 values each, turbo-blocks.h
    const short j = il &  3;
    const uint low  = turbo_load_word(xb->qs, j) >> 2*c;
    const uint high = turbo_load_word(xb->qh, j & 1) >> (4*(c >> 1) + 2*(j >> 1) + (c & 1));
    return (low & 0x03030303) | (high & 0x01010101) << 2;
}

template <typename book_t>
static inline float4 turbo_entries(book_t book, uint codes) {
    return float4(turbo_entry(book, codes), turbo_entry(book, codes >> 8), turbo_entry(book, codes >> 16), turbo_entry(book, codes >> 24));
}

// ---- values -----------------------------------------------------------------------------------------------------------

template <typename block_t, typename type4x4>
static inline void turbo_dequantize(device const block_t * xb, short il, thread type4x4 & reg) {
    const auto  book = turbo_load_book(xb, turbo_book_of(xb));
    const float d    = (float) xb->d * TURBO_ENTRY_SCALE;

    float4x4 reg_f;

    for (short i = 0; i < 4; ++i) {
        reg_f[i] = turbo_entries(book, turbo_codes(xb, 4*il + i)) * d;
    }

    reg = (type4x4) reg_f;
}

template <typename block_t, typename type4>
static inline void turbo_dequantize_t4(device const block_t * xb, short il, thread type4 & reg) {
    const auto  book = turbo_load_book(xb, turbo_book_of(xb));
    const float d    = (float) xb->d * TURBO_ENTRY_SCALE;

    reg = (type4) (turbo_entries(book, turbo_codes(xb, il)) * d);
}

template <typename type4x4>
void dequantize_turbo3(device const block_turbo3 * xb, short il, thread type4x4 & reg) {
    turbo_dequantize(xb, il, reg);
}

template <typename type4>
void dequantize_turbo3_t4(device const block_turbo3 * xb, short il, thread type4 & reg) {
    turbo_dequantize_t4(xb, il, reg);
}

template <typename type4x4>
void dequantize_turbo4(device const block_turbo4 * xb, short il, thread type4x4 & reg) {
    turbo_dequantize(xb, il, reg);
}

template <typename type4>
void dequantize_turbo4_t4(device const block_turbo4 * xb, short il, thread type4 & reg) {
    turbo_dequantize_t4(xb, il, reg);
}
