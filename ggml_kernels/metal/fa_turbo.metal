#include "common.h"
#include "dequantize.h"
#include "turbo-dequantize.h"
#include "fa_common.metal"

// FLASH_ATTN_EXT for batches: every pair of f16, q8_0, turbo4 and turbo3 of which upstream has no kernel. The kernel is
// upstream's, which takes the types of K and V apart. The head sizes are those of which a rotated cache is made.

#define FA_TYPES \
    half,   half4,     simdgroup_half8x8,  \
    half,   half4x4,   simdgroup_half8x8,  \
    half,   half4x4,   simdgroup_half8x8,  \
    float,             simdgroup_float8x8, \
    float,  float2,    simdgroup_float8x8, \
    float,  float4,    simdgroup_float8x8

#define FA_F16    half4x4,      1, dequantize_f16
#define FA_Q8_0   block_q8_0,   2, dequantize_q8_0
#define FA_TURBO4 block_turbo4, 4, dequantize_turbo4
#define FA_TURBO3 block_turbo3, 4, dequantize_turbo3

typedef decltype(kernel_flash_attn_ext<FA_TYPES, FA_TURBO4, FA_TURBO4, 64, 64>) flash_attn_ext_turbo_t;

#define FA_INSTANCE(name, K, V, D) \
    template [[host_name("kernel_flash_attn_ext_" name "_dk" #D "_dv" #D)]] kernel flash_attn_ext_turbo_t kernel_flash_attn_ext<FA_TYPES, FA_##K, FA_##V, D, D>;

#define FA_PAIR(name, K, V) \
    FA_INSTANCE(name, K, V,  64) \
    FA_INSTANCE(name, K, V, 128) \
    FA_INSTANCE(name, K, V, 192) \
    FA_INSTANCE(name, K, V, 256) \
    FA_INSTANCE(name, K, V, 512)

FA_PAIR("turbo4",        TURBO4, TURBO4)
FA_PAIR("turbo3",        TURBO3, TURBO3)
FA_PAIR("turbo4_turbo3", TURBO4, TURBO3)
FA_PAIR("turbo3_turbo4", TURBO3, TURBO4)
FA_PAIR("f16_turbo4",    F16,    TURBO4)
FA_PAIR("f16_turbo3",    F16,    TURBO3)
FA_PAIR("turbo4_f16",    TURBO4, F16)
FA_PAIR("turbo3_f16",    TURBO3, F16)
FA_PAIR("q8_0_turbo4",   Q8_0,   TURBO4)
FA_PAIR("q8_0_turbo3",   Q8_0,   TURBO3)
FA_PAIR("turbo4_q8_0",   TURBO4, Q8_0)
FA_PAIR("turbo3_q8_0",   TURBO3, Q8_0)
FA_PAIR("f16_q8_0",      F16,    Q8_0)
FA_PAIR("q8_0_f16",      Q8_0,   F16)

#undef FA_PAIR
#undef FA_INSTANCE
#undef FA_F16
#undef FA_Q8_0
#undef FA_TURBO4
#undef FA_TURBO3
#undef FA_TYPES
