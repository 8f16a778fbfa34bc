#include "cache-convert-q.cuh"
#include "cache-to-fp16.cuh"

// a row has to be whole runs of 64 values
static bool has_own_format(const ggml_tensor * t) { return t->ne[0] % CACHE_CONVERT_RUN == 0; }

to_fp16_cuda_t ggml_cuda_cache_to_fp16(const ggml_tensor * t) {
    switch (has_own_format(t) ? t->type : GGML_TYPE_COUNT) {
        case GGML_TYPE_Q8_0: return convert_cache_cont_cuda<block_q8_0>;
        case GGML_TYPE_Q5_0: return convert_cache_cont_cuda<block_q5_0>;
        case GGML_TYPE_Q4_0: return convert_cache_cont_cuda<block_q4_0>;
        default:             return ggml_get_to_fp16_cuda(t->type);
    }
}

to_fp16_nc_cuda_t ggml_cuda_cache_to_fp16_nc(const ggml_tensor * t) {
    switch (has_own_format(t) ? t->type : GGML_TYPE_COUNT) {
        case GGML_TYPE_Q8_0: return convert_cache_cuda<block_q8_0>;
        case GGML_TYPE_Q5_0: return convert_cache_cuda<block_q5_0>;
        case GGML_TYPE_Q4_0: return convert_cache_cuda<block_q4_0>;
        default:             return ggml_get_to_fp16_nc_cuda(t->type);
    }
}
