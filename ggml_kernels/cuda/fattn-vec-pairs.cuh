#pragma once

// The vec kernel for the pairs of K and V types that fattn-vec-pairs.cmake had compiled beside upstream's list. Comes after
// fattn-vec.cuh, which can be included only once.

#if __has_include("fattn-vec-pairs.h")

#define FATTN_VEC_PAIR(TYPE_K, TYPE_V) \
    extern DECL_FATTN_VEC_CASE( 64, GGML_TYPE_##TYPE_K, GGML_TYPE_##TYPE_V); \
    extern DECL_FATTN_VEC_CASE(128, GGML_TYPE_##TYPE_K, GGML_TYPE_##TYPE_V); \
    extern DECL_FATTN_VEC_CASE(256, GGML_TYPE_##TYPE_K, GGML_TYPE_##TYPE_V);
#include "fattn-vec-pairs.h" // generated
#undef FATTN_VEC_PAIR

typedef void (* fattn_vec_pair_t)(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

template <ggml_type type_K, ggml_type type_V> static fattn_vec_pair_t ggml_cuda_fattn_vec_of_size(int64_t head_size) {
    switch (head_size) {
        case  64: return ggml_cuda_flash_attn_ext_vec_case< 64, type_K, type_V>;
        case 128: return ggml_cuda_flash_attn_ext_vec_case<128, type_K, type_V>;
        case 256: return ggml_cuda_flash_attn_ext_vec_case<256, type_K, type_V>;
        default:  return nullptr;
    }
}

// nullptr if the pair was not compiled
static fattn_vec_pair_t ggml_cuda_fattn_vec_pair(int64_t head_size, ggml_type type_K, ggml_type type_V) {
#define FATTN_VEC_PAIR(TYPE_K, TYPE_V) \
    if (type_K == GGML_TYPE_##TYPE_K && type_V == GGML_TYPE_##TYPE_V) { \
        return ggml_cuda_fattn_vec_of_size<GGML_TYPE_##TYPE_K, GGML_TYPE_##TYPE_V>(head_size); \
    }
#include "fattn-vec-pairs.h"
#undef FATTN_VEC_PAIR
    return nullptr;
}

#else

static std::nullptr_t ggml_cuda_fattn_vec_pair(int64_t, ggml_type, ggml_type) { return nullptr; }

#endif // __has_include("fattn-vec-pairs.h")
