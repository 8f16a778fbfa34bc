#pragma once

// A CUDA graph like a token's of the Qwen3-8B shape: kernels that stream a layer's weights through the L2, and attention among them.

#include "cache_formats.cuh" // CHECK

#include <algorithm>
#include <vector>

// a product as far as memory is concerned; leaves `out`, for what comes next
static __global__ void stream_weights(const uint4 * weights, size_t n, const float * in, float * out, int n_out) {
    const size_t thread = (size_t) blockIdx.x*blockDim.x + threadIdx.x, all = (size_t) gridDim.x*blockDim.x;
    fattn_decode_wait_for_predecessor();
    uint32_t sum = 0;
    for (size_t i = thread; i < n; i += all) { sum += weights[i].x ^ weights[i].w; }
    if (thread < n_out) { out[thread] = in[thread] + (sum == 0x12345678 ? 1e-9f : 0.0f); }
}

static __global__ void nothing(const float * in, float * out) {
    fattn_decode_let_successor_start();
    fattn_decode_wait_for_predecessor();
    out[threadIdx.x] = in[threadIdx.x];
}

template <typename... T, typename... A> static void launch(cudaStream_t stream, void (*kernel)(T...), dim3 grid, int threads, size_t smem, A... args) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&config, kernel, T(args)...));
}

constexpr int    LAYERS = 36;
constexpr size_t MB = 1 << 20, PRODUCTS[] = { 14*MB, 9*MB, 56*MB, 28*MB }; // Q K V; output; gate and up; down: Q4_0

// microseconds a layer, of the median of some graphs
template <typename F> static double time_layers(char * weights, float * in, float * qkv, float * scratch, int n_qkv, F attention) {
    cudaStream_t stream; CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int layer = 0; layer < LAYERS; ++layer) {
        char * at = weights + layer*(PRODUCTS[0] + PRODUCTS[1] + PRODUCTS[2] + PRODUCTS[3]);
        for (int i = 0; i < 4; ++i) {
            launch(stream, nothing, 1, 128, 0, in, scratch);
            launch(stream, stream_weights, 132*8, 256, 0, (const uint4 *) at, PRODUCTS[i]/16, in, i == 0 ? qkv : scratch, i == 0 ? n_qkv : 128);
            at += PRODUCTS[i];
            if (i == 0) { attention(stream, layer); }
        }
    }
    cudaGraph_t graph; CHECK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t exec; CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b; cudaEventCreate(&a); cudaEventCreate(&b);
    std::vector<float> times;
    for (int rep = 0; rep < 40; ++rep) {
        cudaEventRecord(a, stream);
        CHECK(cudaGraphLaunch(exec, stream));
        cudaEventRecord(b, stream);
        CHECK(cudaEventSynchronize(b));
        float ms; cudaEventElapsedTime(&ms, a, b); times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    CHECK(cudaGraphExecDestroy(exec)); CHECK(cudaGraphDestroy(graph)); CHECK(cudaStreamDestroy(stream));
    return times[times.size()/2]*1e3/LAYERS;
}
