// Nothing is timed on a CPU.
#pragma once

#include "cuda_runtime.h"

typedef int cudaStream_t;
constexpr int    LAYERS = 1;
constexpr size_t PRODUCTS[4] = {};

template <typename... T, typename... A> void launch(cudaStream_t, void (* kernel)(T...), dim3 grid, int threads, size_t smem, A... args) {
    host_launch([&] { kernel(T(args)...); }, grid, dim3(threads), smem);
}

template <typename... A> double time_layers(A...) { return 0.0; }
