// turbo3 and turbo4 as K and V of flash attention: views of the bindings, and what dequantize4() of
// flash_attn_dequant.glsl does for them.

#define TURBO_USED (FaTypeK == GGML_TYPE_TURBO3 || FaTypeK == GGML_TYPE_TURBO4 || \
                    FaTypeV == GGML_TYPE_TURBO3 || FaTypeV == GGML_TYPE_TURBO4)

#include "turbo_entries.glsl"

layout (binding = 1) readonly buffer K_PACKED_TURBO3 { block_turbo3_packed16 data[]; } k_packed_turbo3;
layout (binding = 2) readonly buffer V_PACKED_TURBO3 { block_turbo3_packed16 data[]; } v_packed_turbo3;
layout (binding = 1) readonly buffer K_PACKED_TURBO4 { block_turbo4_packed16 data[]; } k_packed_turbo4;
layout (binding = 2) readonly buffer V_PACKED_TURBO4 { block_turbo4_packed16 data[]; } v_packed_turbo4;

#define FA_DEQUANT4_TURBO3(BUF) return TURBO3_VALUES(BUF.data[a_offset + ib], iqs/4);
#define FA_DEQUANT4_TURBO4(BUF) return TURBO4_VALUES(BUF.data[a_offset + ib], iqs/4);
