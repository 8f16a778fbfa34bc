#pragma once

// Whole tensors to half precision, bfloat16 or float. Attention to a prompt does it to all of K and V, and at depth that is
// what it waits for: for memory, so a thread fetches several rows before it decodes the first.
//
// A format says what thread j of eight reads of 64 neighbouring values, of which it decodes 4j..4j+3 and 32+4j..32+4j+3.
// This file has those of turbo3 and turbo4, and needs what turbo-quants-decode.cuh needs.

#include "turbo-quants-decode.cuh"

#define CACHE_CONVERT_THREADS 128
#if defined(GGML_USE_HIP)
#define CACHE_CONVERT_BLOCKS 1
#else
#define CACHE_CONVERT_BLOCKS 8 // 64 registers a thread
#endif // GGML_USE_HIP
#define CACHE_CONVERT_ROWS    4
#define CACHE_CONVERT_RUN     64 // values

template <typename block_t> struct cache_format { // turbo3 and turbo4
    static constexpr int BLOCKS = 1; // of a run
    typedef turbo_packed<block_t> packed;
    static __device__ __forceinline__ packed load(const block_t * x, int j) { return turbo_load_packed(x, j); }
    template <typename dst_t> static __device__ __forceinline__ void decode(const packed & p, int j, dst_t * y) { turbo_decode_eighth(p, j, y); }
};

// ---- whole tensors ----------------------------------------------------------------------------------------------------

// Strides s0* in blocks; y is contiguous. blockIdx.y is the head, so that heads next to each other in memory, which
// share the sectors of their rows, are read at the same time.
template <typename block_t, typename dst_t>
static __global__ void __launch_bounds__(CACHE_CONVERT_THREADS, CACHE_CONVERT_BLOCKS) k_cache_convert(
        const block_t * __restrict__ x, dst_t * __restrict__ y, const int64_t runs, const int64_t ne01, const int64_t ne02,
        const int64_t ne03, const int64_t s01, const int64_t s02, const int64_t s03) {
    typedef cache_format<block_t> format;
    const int     j = threadIdx.x % 8;
    const int64_t i = (int64_t) blockIdx.x*(blockDim.x/8) + threadIdx.x/8;
    if (i >= runs) {
        return;
    }
    const int64_t step = blockDim.y, share = step*CACHE_CONVERT_ROWS;
    for (int64_t i03 = 0; i03 < ne03; ++i03) {
        for (int64_t i02 = blockIdx.y; i02 < ne02; i02 += gridDim.y) {
            const block_t * xi = x + i03*s03 + i02*s02 + i*format::BLOCKS;
            dst_t         * yi = y + ((i03*ne02 + i02)*ne01*runs + i)*CACHE_CONVERT_RUN;
            for (int64_t first = blockIdx.z*share + threadIdx.y; first < ne01; first += gridDim.z*share) {
                typename format::packed part[CACHE_CONVERT_ROWS];
#pragma unroll
                for (int r = 0; r < CACHE_CONVERT_ROWS; ++r) { // past the end, the first one again: a branch would wait for its loads
                    part[r] = format::load(xi + (first + r*step < ne01 ? first + r*step : first)*s01, j);
                }
#pragma unroll
                for (int r = 0; r < CACHE_CONVERT_ROWS; ++r) {
                    if (first + r*step < ne01) { format::decode(part[r], j, yi + (first + r*step)*runs*CACHE_CONVERT_RUN); }
                }
            }
        }
    }
}

template <typename block_t, typename dst_t>
static void cache_convert_cuda(const void * x, dst_t * y, const int64_t ne00, const int64_t ne01, const int64_t ne02,
        const int64_t ne03, const int64_t s01, const int64_t s02, const int64_t s03, cudaStream_t stream) {
    const int64_t runs = ne00/CACHE_CONVERT_RUN;
    if (runs == 0 || ne01 == 0 || ne02 == 0 || ne03 == 0) {
        return;
    }
    const int64_t limit   = 65535; // of a grid in y and z
    const int64_t across  = runs < CACHE_CONVERT_THREADS/8 ? runs : CACHE_CONVERT_THREADS/8;
    const int64_t rows    = CACHE_CONVERT_THREADS/8/across;
    const int64_t in_rows = (ne01 + rows*CACHE_CONVERT_ROWS - 1)/(rows*CACHE_CONVERT_ROWS);
    const dim3 threads((unsigned) (8*across), (unsigned) rows, 1);
    const dim3 grid((unsigned) ((runs + across - 1)/across), (unsigned) (ne02 < limit ? ne02 : limit),
                    (unsigned) (in_rows < limit ? in_rows : limit));
    k_cache_convert<block_t, dst_t><<<grid, threads, 0, stream>>>((const block_t *) x, y, runs, ne01, ne02, ne03, s01, s02, s03);
}

// bfloat16 goes under its own name here
template <typename T> struct cache_dst        { typedef turbo_bf16 type; };
template <>           struct cache_dst<half>  { typedef half       type; };
template <>           struct cache_dst<float> { typedef float      type; };

// to_t_nc_cuda_t and to_t_cuda_t of convert.cuh
template <typename block_t, typename dst_t>
static void convert_cache_cuda(const void * x, dst_t * y, int64_t ne00, int64_t ne01, int64_t ne02, int64_t ne03,
        int64_t s01, int64_t s02, int64_t s03, cudaStream_t stream) {
    typedef typename cache_dst<dst_t>::type store_t;
    static_assert(sizeof(store_t) == sizeof(dst_t), "float, half or bfloat16");
    cache_convert_cuda<block_t>(x, (store_t *) y, ne00, ne01, ne02, ne03, s01, s02, s03, stream);
}

template <typename block_t, typename dst_t>
static void convert_cache_cont_cuda(const void * x, dst_t * y, int64_t k, cudaStream_t stream) {
    // a run of values is a row
    convert_cache_cuda<block_t>(x, y, CACHE_CONVERT_RUN, k/CACHE_CONVERT_RUN, 1, 1, cache_format<block_t>::BLOCKS, 0, 0, stream);
}
