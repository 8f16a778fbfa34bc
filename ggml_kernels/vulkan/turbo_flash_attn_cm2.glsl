// turbo3 and turbo4 for flash_attn_cm2.comp, where the driver calls back for a value, or for four in a row.

#define TURBO_USED (FaTypeK == GGML_TYPE_TURBO3 || FaTypeK == GGML_TYPE_TURBO4 || \
                    FaTypeV == GGML_TYPE_TURBO3 || FaTypeV == GGML_TYPE_TURBO4)

#include "turbo_entries.glsl"

layout(buffer_reference, std430, buffer_reference_align = 2) buffer decodeBufTURBO3 {
   block_turbo3_packed16 block;
};

layout(buffer_reference, std430, buffer_reference_align = 2) buffer decodeBufTURBO4 {
   block_turbo4_packed16 block;
};

float16_t dequantFuncTURBO3(const in decodeBufTURBO3 bl, const in uint blockCoords[2], const in uint coordInBlock[2])
{
    const uint d = uint(bl.block.d);
    const uint c = coordInBlock[1] >> 4;
    const uint i = coordInBlock[1] & 15u;
    const uint low  = uint(bl.block.qs[i >> 1]) >> (8*(i & 1u) + 2*c) & 3u;
    const uint high = uint(bl.block.qh[i >> 1 & 3u]) >> (8*(i & 1u) + 4*(c >> 1) + 2*(i >> 3) + (c & 1u)) & 1u;
    return float16_t(turbo_scale(d))*turbo_entries[turbo3_book(d) + (low | high << 2)];
}

float16_t dequantFuncTURBO4(const in decodeBufTURBO4 bl, const in uint blockCoords[2], const in uint coordInBlock[2])
{
    const uint d = uint(bl.block.d);
    const uint i = coordInBlock[1] & 31u;
    const uint code = uint(bl.block.qs[i >> 1]) >> (8*(i & 1u) + 4*(coordInBlock[1] >> 5)) & 15u;
    return float16_t(turbo_scale(d))*turbo_entries[turbo4_book(d) + code];
}

f16vec4 dequantFuncTURBO3_v(const in decodeBufTURBO3 bl, const in uint blockCoords[2], const in uint coordInBlock[2])
{
    return TURBO3_VALUES(bl.block, coordInBlock[1]/4);
}

f16vec4 dequantFuncTURBO4_v(const in decodeBufTURBO4 bl, const in uint blockCoords[2], const in uint coordInBlock[2])
{
    return TURBO4_VALUES(bl.block, coordInBlock[1]/4);
}
