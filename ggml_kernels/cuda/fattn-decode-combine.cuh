#pragma once

// What becomes of the output of the warps: parts in global memory, which a second kernel combines.

#include "fattn-decode-place.cuh"
#include "fattn-decode-ptx.cuh"
#include "fattn-decode-query.cuh"
#include "fattn-decode-values.cuh"

static __device__ __forceinline__ float sum_of_columns(float l) {
#pragma unroll
    for (int w = 4; w < 32; w *= 2) { l += __shfl_xor_sync(~0u, l, w); }
    return l;
}

// the Hadamard matrix of 64 values times y[lane], y[lane + 32] of a warp
static __device__ __forceinline__ void hadamard_64(float (&y)[2], int lane) {
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float other = __shfl_xor_sync(~0u, y[i], bit);
            y[i] = lane & bit ? other - y[i] : y[i] + other;
        }
    }
    const float a = y[0], b = y[1];
    y[0] = (a + b)*0.125f;
    y[1] = (a - b)*0.125f;
}

// y[lane], y[lane + 32] of a row: over the sum of all weights, and rotated back
static __device__ __forceinline__ void finish_row(float (&y)[2], float sum, bool rotate, int lane) {
    const float inv = sum > 0.0f ? 1.0f/sum : 0.0f;
    y[0] *= inv;
    y[1] *= inv;
    if (rotate) { hadamard_64(y, lane); }
}

// Adds what the warps of a head did with their runs of positions: what is left is with those of the first. Heads of 64 have twice to four times
// as many parts as blocks, and a second kernel that reads as many takes longer for it. at: shared memory that nobody uses any more
template <typename S, int D, typename LV, int NT>
static __device__ __forceinline__ void add_parts(output<D, LV> (&out)[S::PER_WARP][NT], const warp_place & place, float * at) {
    constexpr int HEADS = S::PER_WARP, WARPS = S::n_heads/HEADS, NUMBERS = HEADS*NT*(D/4 + 2*output<D, LV>::SCALES + 4)*32; // of a warp
    static_assert(S::n_parts/2*WARPS*NUMBERS*sizeof(float) <= S::n_stages*S::tile*(S::stride_k + S::stride_v), "the stages have room for them");
    at += place.lane;
#pragma unroll
    for (int n = S::n_parts/2; n > 0; n /= 2) {
        float * slot = at + (place.warp - (place.part < n ? 0 : n*WARPS))*NUMBERS;
        if (place.part >= n && place.part < 2*n) {
#pragma unroll
            for (int i = 0; i < HEADS*NT; ++i) { out[i/NT][i%NT].visit([&](float x) { *slot = x; slot += 32; }); }
        }
        __syncthreads();
        if (place.part < n) {
#pragma unroll
            for (int i = 0; i < HEADS*NT; ++i) {
                output<D, LV> other;
                other.visit([&](float & x) { x = *slot; slot += 32; });
                out[i/NT][i%NT].add(other);
            }
        }
        if (n > 1) { __syncthreads(); }
    }
}

template <int D, typename LV, int NT>
static __device__ __forceinline__ void write_parts(const fattn_decode_params & p, const warp_place & place, int n_parts, const output<D, LV> (&out)[NT]) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float l = sum_of_columns(out[n].l[j]);
            const int col = place.col0 + n*8 + 2*place.t + j;
            if (col >= place.n_cols) { continue; }
            const int64_t row = (((int64_t) place.seq*p.n_head + place.head_kv*p.gqa + col%p.gqa)*p.n_q + col/p.gqa)*p.n_splits*n_parts + place.split*n_parts + place.part;
            store_output<D, LV>(out[n], j, p.part + row*D);
            if (place.g == 0) { p.meta[row] = make_float2(out[n].m[j], l); }
        }
    }
}

// ---- the second kernel --------------------------------------------------------------------------------------------------

// 64 values of the parts of a row: 16 lanes read a part, five of them ahead, so that 1024 threads have at once all 264 parts that two blocks on
// each multiprocessor of an H200 leave
template <int D>
struct part_reader {
    static constexpr int LANES = 16, AHEAD = 5;

    const float * part;
    int n_parts, n_groups, group, lane;
    float4 x[AHEAD];

    __device__ __forceinline__ part_reader(const float * part, int n_parts) :
        part(part), n_parts(n_parts), n_groups(blockDim.x/LANES), group(threadIdx.x/LANES), lane(threadIdx.x%LANES) {}

    __device__ __forceinline__ void fetch(int base) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (base + i*n_groups < n_parts) { x[i] = ((const float4 *) (part + (int64_t) (base + i*n_groups)*D))[lane]; }
        }
    }

    // of all the group's parts; the first are fetched already
    __device__ __forceinline__ float4 weighted_sum(const float * weights) {
        float4 acc = make_float4(0, 0, 0, 0);
        for (int base = group; base < n_parts; base += AHEAD*n_groups) {
            if (base != group) { fetch(base); }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (base + i*n_groups < n_parts) {
                    const float w = weights[base + i*n_groups];
                    acc.x += w*x[i].x; acc.y += w*x[i].y; acc.z += w*x[i].z; acc.w += w*x[i].w;
                }
            }
        }
        acc.x += __shfl_xor_sync(~0u, acc.x, LANES);
        acc.y += __shfl_xor_sync(~0u, acc.y, LANES);
        acc.z += __shfl_xor_sync(~0u, acc.z, LANES);
        acc.w += __shfl_xor_sync(~0u, acc.w, LANES);
        return acc;
    }
};

// over all parts and the sink; of_warps: one for each warp
static __device__ __forceinline__ float max_of_parts(const float2 * meta, int n_parts, float sink, float * of_warps) {
    const int n_warps = blockDim.x/32, warp = threadIdx.x/32, lane = threadIdx.x%32;
    float mx = sink;
    for (int i = threadIdx.x; i < n_parts; i += blockDim.x) { mx = fmaxf(mx, meta[i].x); }
    mx = max_of_warp(mx);
    if (lane == 0) { of_warps[warp] = mx; }
    __syncthreads();
    return max_of_warp(of_warps[min(lane, n_warps - 1)]);
}

// the weights of all parts; of_warps: for each warp, the sum of what it did
static __device__ __forceinline__ void weigh_parts(float * weights, float * of_warps, const float2 * meta, int n_parts, float mx) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n_parts; i += blockDim.x) {
        const float2 ml = meta[i];
        const float w = exp2f(ml.x - mx);
        weights[i] = w;
        sum += w*ml.y;
    }
    sum = sum_of_warp(sum);
    if (threadIdx.x%32 == 0) { of_warps[threadIdx.x/32] = sum; }
    __syncthreads();
}

// grid (rows [seq][head][q], D/64): 64 of the values of a row, from all its parts. rotate: undo the rotation of V.
// It is mostly waiting, so the first parts are fetched before anything is known about their weights.
template <int D>
__global__ void __launch_bounds__(1024) fattn_decode_combine(
        const float * part, const float2 * meta, float * dst, const float * sinks, int n_parts, int n_head, int n_q, bool rotate) {
    constexpr int LANES = part_reader<D>::LANES, MAX_WARPS = 32;
    const int row = blockIdx.x, iq = row%n_q, head = row/n_q%n_head, seq = row/n_q/n_head;
    const int n_warps = blockDim.x/32, warp = threadIdx.x/32, lane = threadIdx.x%32;

    extern __shared__ float weights[]; // [n_parts]
    __shared__ float  s_max[MAX_WARPS], s_sum[MAX_WARPS];
    __shared__ float4 s_acc[MAX_WARPS][LANES];

    fattn_decode_wait_for_predecessor();
    fattn_decode_let_successor_start();
    meta += (int64_t) row*n_parts;
    part_reader<D> reader(part + (int64_t) row*n_parts*D + blockIdx.y*64, n_parts);
    reader.fetch(reader.group);

    const float sink = sinks ? sinks[head]*FATTN_DECODE_LOG2E : FATTN_DECODE_LOWEST;
    const float mx = max_of_parts(meta, n_parts, sink, s_max);
    weigh_parts(weights, s_sum, meta, n_parts, mx);
    const float4 acc = reader.weighted_sum(weights);
    if (lane < LANES) { s_acc[warp][lane] = acc; }
    __syncthreads();
    if (warp > 0) {
        return;
    }
    float y[2] = { 0.0f, 0.0f };
#pragma unroll 8
    for (int i = 0; i < n_warps; ++i) {
        y[0] += ((const float *) s_acc[i])[lane];
        y[1] += ((const float *) s_acc[i])[lane + 32];
    }
    const float sum = sum_of_warp(lane < n_warps ? s_sum[lane] : 0.0f) + (sinks ? exp2f(sink - mx) : 0.0f);
    finish_row(y, sum, rotate, lane);
    dst += (((int64_t) seq*n_q + iq)*n_head + head)*D + blockIdx.y*64;
    dst[lane]      = y[0];
    dst[lane + 32] = y[1];
}
