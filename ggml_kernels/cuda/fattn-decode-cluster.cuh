#pragma once

// Parts combined within a cluster of blocks, by way of their shared memory, where a context is too short for a second kernel.

#include "fattn-decode-combine.cuh"

#ifdef FATTN_DECODE_BULK_COPY
// The blocks of a cluster are consecutive splits. Each combines every cluster-th of their (column, head) rows: the others write
// their parts of them into its mailbox, which is faster than to let it fetch them. All sizes are powers of two, or known at
// compile time: in a kernel of a few microseconds, a division is a twentieth of one.
struct cluster_mail {
    float * rows;   // [row/cluster][source][D]
    int n_sources;  // part s % n_parts of block s / n_parts; at most 32, a power of two
    int n_heads, n_columns;
    int log2, rank; // of the cluster's size; of this block

    __device__ __forceinline__ int block_of(int i) const { return i & ((1 << log2) - 1); }
    template <int D> __device__ __forceinline__ float * row(int i, int source) const { return rows + ((i >> log2)*n_sources + source)*D; }
    template <int D> __device__ __forceinline__ float2 * meta(int i, int source) const {
        const int rows_here = (n_heads*n_columns + (1 << log2) - 1) >> log2;
        return (float2 *) (rows + rows_here*n_sources*D) + (i >> log2)*n_sources + source;
    }
};

// staging: of the block, free. Rows are sent whole: single values take ten times as long.
template <int D, typename LV, int NT>
static __device__ __forceinline__ void send_parts(const cluster_mail & mail, const output<D, LV> (&out)[NT], float * staging, int head, int source) {
    constexpr int STRIDE = D + 4; // against bank conflicts
    const int lane = threadIdx.x%32, g = lane/4, t = lane%4;
    staging += threadIdx.x/32*mail.n_columns*STRIDE;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float l = sum_of_columns(out[n].l[j]);
            const int r = n*8 + 2*t + j, i = r*mail.n_heads + head;
            if (r < mail.n_columns) {
                put_output<D, LV>(out[n], j, [&](int at, float x) { staging[r*STRIDE + at] = x; });
                if (g == 0) { store_remote(remote_address(mail.meta<D>(i, source), mail.block_of(i)), make_float2(out[n].m[j], l)); }
            }
        }
    }
    __syncwarp();
    for (int r = 0; r < mail.n_columns; ++r) {
        const int i = r*mail.n_heads + head;
        const uint32_t row = remote_address(mail.row<D>(i, source), mail.block_of(i));
        for (int at = lane*4; at < D; at += 128) { store_remote(row + at*sizeof(float), *(const float4 *) (staging + r*STRIDE + at)); }
    }
}

// a warp takes 64 values of a row: into one part, or the output, if there is no other cluster
template <int D>
static __device__ __forceinline__ void combine_mail(const fattn_decode_params & p, const cluster_mail & mail, int head_kv0, int col0) {
    const int warp = threadIdx.x/32, lane = threadIdx.x%32;
    const int  n_clusters = p.n_splits >> mail.log2;
    const bool last = n_clusters == 1;
    for (int task = warp; ; task += blockDim.x/32) {
        const int i = (task/(D/64) << mail.log2) + mail.rank, first = task%(D/64)*64 + lane;
        if (i >= mail.n_heads*mail.n_columns) {
            return;
        }
        const int col = col0 + i/mail.n_heads, iq = p.n_q == 1 ? 0 : col/p.gqa, h = (head_kv0 + i%mail.n_heads)*p.gqa + col - iq*p.gqa;
        const float sink = last && p.sinks ? p.sinks[h]*FATTN_DECODE_LOG2E : FATTN_DECODE_LOWEST;
        const float2 ml = *mail.meta<D>(i, lane & (mail.n_sources - 1));
        float mx = fmaxf(ml.x, sink);
        for (int w = 1; w < mail.n_sources; w *= 2) { mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, w)); }
        const float weight = exp2f(ml.x - mx);
        float sum = weight*ml.y;
        for (int w = 1; w < mail.n_sources; w *= 2) { sum += __shfl_xor_sync(~0u, sum, w); }
        float y[2] = { 0.0f, 0.0f };
#pragma unroll 4
        for (int s = 0; s < mail.n_sources; ++s) {
            const float ws = __shfl_sync(~0u, weight, s);
            const float * row = mail.row<D>(i, s) + first;
            y[0] += ws*row[0];
            y[1] += ws*row[32];
        }
        float * dst = p.dst + (((int64_t) blockIdx.z*p.n_q + iq)*p.n_head + h)*D;
        if (last) {
            sum += p.sinks ? exp2f(sink - mx) : 0.0f;
            finish_row(y, sum, p.rotate_dst, lane);
        } else {
            const int64_t at = (((int64_t) blockIdx.z*p.n_head + h)*p.n_q + iq)*n_clusters + (blockIdx.x >> mail.log2);
            if (first == 0) { p.meta[at] = make_float2(mx, sum); }
            dst = p.part + at*D;
        }
        dst[first]      = y[0];
        dst[first + 32] = y[1];
    }
}

// stages: of the block, which nobody needs any more
template <int D, typename LV, int NT>
static __device__ __forceinline__ void combine_in_cluster(const fattn_decode_params & p, const warp_place & place, int n_heads, int n_parts, const output<D, LV> (&out)[NT], char * stages) {
    const int rank = place.split & (p.cluster - 1);
    const cluster_mail mail = { (float *) (stages + p.mailbox), p.cluster*n_parts, n_heads, place.n_rows, p.cluster_log2, rank };
    __syncthreads(); // nobody reads the tiles any more
    cluster_wait();  // for the others to exist
    send_parts<D, LV, NT>(mail, out, (float *) stages, place.head, rank*n_parts + place.part);
    cluster_arrive();
    cluster_wait();  // for all mail
    combine_mail<D>(p, mail, place.group*n_heads, place.col0);
}
#endif
