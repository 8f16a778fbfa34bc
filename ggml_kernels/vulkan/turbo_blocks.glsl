// turbo3 and turbo4 as a shader sees them: blocks of 64 values in 16-bit words, and their codes four at a time.
// The format is described in turbo-blocks.h. Nothing here needs 8-bit storage or 16-bit arithmetic.

#if !defined(TURBO_BLOCKS_GLSL)
#define TURBO_BLOCKS_GLSL

#define QK_TURBO 64

#define GGML_TYPE_TURBO3 96u
#define GGML_TYPE_TURBO4 97u

struct block_turbo3_packed16
{
    uint16_t d; // half; its three lowest bits are the book
    uint16_t qs[QK_TURBO/4/2];
    uint16_t qh[QK_TURBO/8/2];
};

struct block_turbo4_packed16
{
    uint16_t d;
    uint16_t qs[QK_TURBO/2/2];
};

#define TURBO_WORD(PLANE, I) (uint((PLANE)[2*(I)]) | uint((PLANE)[2*(I) + 1]) << 16)

// Byte t of the result is the code of value 4*IL + t, IL < 16. Macros, for a block in a buffer cannot be handed to a function.
#define TURBO3_CODES(BLOCK, IL) \
    ((TURBO_WORD((BLOCK).qs, (IL) & 3u) >> (2*((IL) >> 2)) & 0x03030303u) | \
     (TURBO_WORD((BLOCK).qh, (IL) & 1u) >> (4*((IL) >> 3) + 2*((IL) >> 1 & 1u) + ((IL) >> 2 & 1u)) & 0x01010101u) << 2)

#define TURBO4_CODES(BLOCK, IL) (TURBO_WORD((BLOCK).qs, (IL) & 7u) >> (4*((IL) >> 3)) & 0x0f0f0f0fu)

float turbo_scale(uint d) {
    return unpackHalf2x16(d).x;
}

#endif // !defined(TURBO_BLOCKS_GLSL)
