#pragma once

// The primitives of turbo-quants.c, once per instruction set; include turbo-tables.h first. Each set has
//   turbo_entries              the 64 codebook entries (int8) of a block, in the order of its values
//   turbo_lanes                a block of the scale search: 64 int16, as they are [0] and negated [1]
// and the functions on them that turbo-quants.c names.

#include "turbo-quants-ref.h"

#include <string.h>

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "turbo-quants-avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "turbo-quants-avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "turbo-quants-neon.h"
#endif
