// What the harnesses of tests/native/cuda call of CUDA: one device with the host's memory, that runs a block after another.
#pragma once

#include "fattn-decode-ptx.cuh"

typedef int cudaError_t;
constexpr int cudaSuccess = 0;
inline const char * cudaGetErrorString(int) { return ""; }
inline int cudaGetLastError()               { return 0; }
inline int cudaDeviceSynchronize()          { return 0; }

template <typename T> int cudaMalloc(T ** p, size_t n) { return *p = (T *) aligned_alloc(256, (n + 255)/256*256), *p ? 0 : 1; }
inline int cudaFree(void * p)               { return free(p), 0; }
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline int cudaMemcpy(void * to, const void * from, size_t n, int) { return memcpy(to, from, n), 0; }
inline int cudaMemset(void * to, int value, size_t n)              { return memset(to, value, n), 0; }

struct cudaFuncAttributes { int numRegs; size_t localSizeBytes; };
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount, cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename K> int cudaFuncGetAttributes(cudaFuncAttributes * a, K)     { return *a = {}, 0; }
template <typename K> int cudaFuncSetAttribute(K, int, int)                    { return 0; }
inline int cudaDeviceGetAttribute(int * v, int what, int)                      { return *v = what == cudaDevAttrMultiProcessorCount ? 2 : (int) sizeof(shared_memory), 0; }
template <typename K> int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int * n, K, int, size_t) { return *n = 2, 0; }

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline void host_launch(const std::function<void()> & kernel, dim3 grid, dim3 block, size_t shared = 0) {
    gridDim  = { grid.x, grid.y, grid.z };
    blockDim = { block.x, block.y, block.z };
    if (shared > sizeof(shared_memory)) { host::fail("so much shared memory:", (int) shared); }
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                memset(shared_memory, 0xff, sizeof(shared_memory)); // NaN: a GPU does not clear it
                forget_block();
                host::launch(metal::uint3(1, 1, 1), metal::uint3(block.x, block.y, block.z), 16, [&](const host::thread_place &) { kernel(); });
            }
        }
    }
}

enum { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
    int id;
    struct { int programmaticStreamSerializationAllowed; } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaLaunchAttribute * attrs;
    int numAttrs;
};
template <typename... P, typename... A> int cudaLaunchKernelEx(const cudaLaunchConfig_t * c, void (* kernel)(P...), A... args) {
    host_launch([&] { kernel(args...); }, c->gridDim, c->blockDim, c->dynamicSmemBytes);
    return 0;
}

typedef int cudaEvent_t;
inline int cudaEventCreate(int *)                   { return 0; }
inline int cudaEventRecord(int)                     { return 0; }
inline int cudaEventSynchronize(int)                { return 0; }
inline int cudaEventElapsedTime(float * t, int, int) { return *t = 1.0f, 0; }
