// All codebooks in shared memory, as fractions: turbo3's 8 books of 8 entries, then turbo4's 8 of 16. The threads of a
// subgroup look up different entries, for which constant memory is slow. FLOAT_TYPE and FLOAT_TYPEV4 are the including
// shader's; TURBO_USED, a specialization constant perhaps, says whether there is to be a table at all.
//
// Needs to be kept up to date in ggml-vulkan-turbo.h: the shared memory taken.

#include "turbo_blocks.glsl"
#include "turbo_tables.glsl"

#define TURBO3_ENTRIES 0u
#define TURBO4_ENTRIES 64u
#define TURBO_ENTRIES  192u

shared FLOAT_TYPE turbo_entries[TURBO_USED ? TURBO_ENTRIES : 1u];

// by all threads of a workgroup; their number is an argument because glslc 2026 refuses gl_WorkGroupSize before a shader has
// given its local_size
void turbo_init_entries(const uint n_threads) {
    if (!TURBO_USED) {
        return;
    }
    for (uint i = gl_LocalInvocationIndex; i < TURBO_ENTRIES; i += n_threads) {
        const int entry = bitfieldExtract(int(turbo_books[i/4]), int(8*(i % 4)), 8);
        turbo_entries[i] = FLOAT_TYPE(float(entry)/128.0f);
    }
    barrier();
}

FLOAT_TYPEV4 turbo_lookup(uint book, uint codes) {
    return FLOAT_TYPEV4(turbo_entries[book + (codes & 0xffu)], turbo_entries[book + (codes >> 8 & 0xffu)],
                        turbo_entries[book + (codes >> 16 & 0xffu)], turbo_entries[book + (codes >> 24)]);
}

// where the book of a block begins; d: its bits
uint turbo3_book(uint d) { return TURBO3_ENTRIES +  8*(d & 7u); }
uint turbo4_book(uint d) { return TURBO4_ENTRIES + 16*(d & 7u); }

#define TURBO3_VALUES(BLOCK, IL) \
    (FLOAT_TYPE(turbo_scale(uint((BLOCK).d)))*turbo_lookup(turbo3_book(uint((BLOCK).d)), TURBO3_CODES(BLOCK, IL)))

#define TURBO4_VALUES(BLOCK, IL) \
    (FLOAT_TYPE(turbo_scale(uint((BLOCK).d)))*turbo_lookup(turbo4_book(uint((BLOCK).d)), TURBO4_CODES(BLOCK, IL)))

#if defined(DATA_A_TURBO3)
#define A_TYPE block_turbo3_packed16
#define TURBO_VALUES TURBO3_VALUES
#elif defined(DATA_A_TURBO4)
#define A_TYPE block_turbo4_packed16
#define TURBO_VALUES TURBO4_VALUES
#endif
