#pragma once

// turbo3 and turbo4 in the Vulkan backend: what ggml-vulkan.cpp asks about them, and the list of their pipelines. They are
// cache types, so there is no arithmetic for them but attention.

#include "ggml.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

static inline bool ggml_vk_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

// Shared memory of turbo_entries.glsl in attention.
static inline uint32_t ggml_vk_turbo_shmem(ggml_type k_type, ggml_type v_type, uint32_t float_type_size) {
    return (ggml_vk_is_turbo(k_type) || ggml_vk_is_turbo(v_type) ? 192 : 1) * float_type_size;
}

// Whether many queries read the cache from an f16 copy, of both K and V, where upstream's types are read in place: coopmat2
// unpacks a value for each tile of queries of each head anew, which costs more for these types than one pass over the cache.
// The opposite can be asked for, to be measured.
static inline bool ggml_vk_turbo_unpack_first(ggml_type k_type, ggml_type v_type) {
    static const bool in_place = getenv("GGML_VK_FA_TURBO_IN_PLACE") != nullptr;
    return (ggml_vk_is_turbo(k_type) || ggml_vk_is_turbo(v_type)) && !in_place;
}

// The path of attention (FaCodePath: 0 scalar, 1 coopmat1, 2 coopmat2) that reads these types, from the device's best one: a
// lesser one can be asked for, to be measured.
static inline int ggml_vk_turbo_fa_path(int best, ggml_type k_type, ggml_type v_type) {
    static const char * most = getenv("GGML_VK_FA_TURBO_PATH");
    return most && (ggml_vk_is_turbo(k_type) || ggml_vk_is_turbo(v_type)) ? std::min(best, atoi(most)) : best;
}

// Workgroups of copy_to_turbo.comp, which encode block after block: enough to fill a large GPU, and no more, for each
// begins with loading the tables of the search.
static inline uint32_t ggml_vk_turbo_encode_workgroups(int64_t ne) {
    return (uint32_t) std::min<int64_t>(ne / ggml_blck_size(GGML_TYPE_TURBO4), 2048);
}

// Inside of ggml_vk_load_shaders.
#define GGML_VK_CREATE_TURBO_PIPELINES(TYPE, name) \
    ggml_vk_create_pipeline(device, device->pipeline_set_rows_i32[0][TYPE], "set_rows_f32_" #name "_i32", set_rows_f32_ ## name ## _i32_len, set_rows_f32_ ## name ## _i32_data, "main", 3, sizeof(vk_op_binary_push_constants), {1, 1, 1}, {1}, 1, true); \
    ggml_vk_create_pipeline(device, device->pipeline_set_rows_i64[0][TYPE], "set_rows_f32_" #name "_i64", set_rows_f32_ ## name ## _i64_len, set_rows_f32_ ## name ## _i64_data, "main", 3, sizeof(vk_op_binary_push_constants), {1, 1, 1}, {1}, 1, true); \
    ggml_vk_create_pipeline(device, device->pipeline_cpy_f32_quant[TYPE], "cpy_f32_" #name, cpy_f32_ ## name ## _len, cpy_f32_ ## name ## _data, "main", 2, sizeof(vk_op_unary_push_constants), {1, 1, 1}, {}, 1); \
    ggml_vk_create_pipeline(device, device->pipeline_cpy_quant_f32[TYPE], "cpy_" #name "_f32", cpy_ ## name ## _f32_len, cpy_ ## name ## _f32_data, "main", 2, sizeof(vk_op_unary_push_constants), {(uint32_t) ggml_blck_size(TYPE), 1, 1}, {}, 1); \
    ggml_vk_create_pipeline(device, device->pipeline_get_rows[TYPE], "get_rows_" #name, get_rows_ ## name ## _len, get_rows_ ## name ## _data, "main", 3, sizeof(vk_op_binary_push_constants), {1024, 1, 1}, {}, 1); \
    ggml_vk_create_pipeline(device, device->pipeline_get_rows_f32[TYPE], "get_rows_" #name "_f32", get_rows_ ## name ## _f32_len, get_rows_ ## name ## _f32_data, "main", 3, sizeof(vk_op_binary_push_constants), {1024, 1, 1}, {}, 1);

#define GGML_VK_CREATE_TURBO_COPY_PIPELINE(TYPE, name) \
    ggml_vk_create_pipeline(device, device->pipeline_turbo_to_f16[TYPE], "turbo_" #name "_to_f16", turbo_ ## name ## _to_f16_len, turbo_ ## name ## _to_f16_data, "main", 2, 5 * sizeof(uint32_t), {256 * 8 * 8, 1, 1}, {}, 1);
#define GGML_VK_CREATE_TURBO_COPY_PIPELINES() \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_TURBO3, turbo3) \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_TURBO4, turbo4) \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_F16, f16) \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_Q8_0, q8_0) \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_Q5_0, q5_0) \
    GGML_VK_CREATE_TURBO_COPY_PIPELINE(GGML_TYPE_Q4_0, q4_0)
