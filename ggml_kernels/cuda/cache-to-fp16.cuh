#pragma once

#include "convert.cuh"

// How attention converts its K or V to half precision: by cache-convert.cuh if that knows the type, else as upstream.
to_fp16_cuda_t    ggml_cuda_cache_to_fp16   (const ggml_tensor * t); // contiguous
to_fp16_nc_cuda_t ggml_cuda_cache_to_fp16_nc(const ggml_tensor * t);
