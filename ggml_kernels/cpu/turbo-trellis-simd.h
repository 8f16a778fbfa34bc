#pragma once

// The primitives of turbo-trellis.c, once per instruction set; include turbo-trellis-tables.h and turbo-quants-simd.h first.
// Each set has
//   turbo3t_entries        the 64 table entries (int8) of a block, in the order of its values
//   turbo3t_load           a block as integers, the largest magnitude at TURBO3T_Q_MAX
//   turbo3t_forward        the forward pass of the four tries of a block at once
//
// The forward pass. A state is a row and a column: the symbol before the last one, and the last. A window is
// (oldest, row, column), comes from state (oldest, row) and leads to state (row, column); its entry depends on its row and on
// x = column ^ turbo3t_turn(oldest) alone. So with vectors along the rows, all windows of one `oldest` are its states as they
// are stored, plus one of eight vectors of distances: 64 states cost an addition and a minimum for each of 512 windows, and one
// transposition. The four lanes of 128 bits are the four tries.
//
// A cost is eight times that of the reference, and its low three bits are the row of its state, which is the `oldest` of
// the windows that leave it. So the minimum over windows is the least cost, of equal ones that of the lowest `oldest`, and
// tells which it was.

#include "turbo-trellis-ref.h"

#include <string.h>

#define TURBO3T_TRIES   4
#define TURBO3T_STATES  64
#define TURBO3T_WINDOWS 512

static inline int turbo3t_turn(int oldest) {
    return turbo3t_maps[2][oldest] >> 3;
}

// what turbo3t_forward leaves: for each value and state reached (at turbo3t_place), by try, the oldest symbol of the window
struct turbo3t_paths {
    uint8_t came[QK_TURBO][TURBO3T_STATES][TURBO3T_TRIES]; // in the low three bits
    int     last[TURBO3T_TRIES];                           // the state after the last symbol
};

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "turbo-trellis-avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "turbo-trellis-avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "turbo-trellis-neon.h"
#endif
