#pragma once

// The instructions that fattn-decode-kernel.cuh needs and CUDA C++ has no word for. Ampere and newer.

#include <cuda_fp16.h>
#include <stdint.h>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define FATTN_DECODE_AVAILABLE // elsewhere the kernels are empty, and the host launches none
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FATTN_DECODE_BULK_COPY
#endif

// __byte_perm clears the sign bits of the selector first, an instruction each time; here they are clear by construction
static __device__ __forceinline__ uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t sel) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sel));
    return d;
}

static __device__ __forceinline__ uint32_t shared_address(const void * p) { return (uint32_t) __cvta_generic_to_shared(p); }

static __device__ __forceinline__ uint32_t pack_half2(float lo, float hi) {
    const half2 h = __floats2half2_rn(lo, hi);
    return *(const uint32_t *) &h;
}

// ---- tensor cores -------------------------------------------------------------------------------------------------------

static __device__ __forceinline__ void mma_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_int8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// row: an address in shared memory
static __device__ __forceinline__ void load_matrices(uint32_t (&a)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(row));
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&a)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(row));
}

static __device__ __forceinline__ void load_matrices(uint32_t (&a)[4], const char * row) { load_matrices(a, shared_address(row)); }

static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&a)[4], const char * row) { load_matrices_transposed(a, shared_address(row)); }

// ---- asynchronous copies and their barriers -----------------------------------------------------------------------------

static __device__ __forceinline__ void barrier_init(uint64_t * b, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(shared_address(b)), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t * b) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" :: "r"(shared_address(b)) : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint64_t * b, uint32_t phase) {
#ifdef FATTN_DECODE_BULK_COPY
    asm volatile("{ .reg .pred p; WAIT_%=: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra DONE_%=; bra WAIT_%=; DONE_%=: }"
        :: "r"(shared_address(b)), "r"(phase) : "memory");
#else // waiting without asking again came with Hopper
    asm volatile("{ .reg .pred p; WAIT_%=: mbarrier.test_wait.parity.shared.b64 p, [%0], %1; @p bra DONE_%=; bra WAIT_%=; DONE_%=: }"
        :: "r"(shared_address(b)), "r"(phase) : "memory");
#endif
}

static __device__ __forceinline__ void copy_16(uint32_t dst, const void * src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(dst), "l"(src) : "memory");
}

static __device__ __forceinline__ void copy_16(void * dst, const void * src) { copy_16(shared_address(dst), src); }

// BYTES (4, 8 or 16), of which all but the first `there` become zeros
template <int BYTES> static __device__ __forceinline__ void copy_or_clear(void * dst, const void * src, int there = BYTES) {
    if constexpr (BYTES == 16) { // .cg, past the first-level cache, takes no other size
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(dst)), "l"(src), "r"(there) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" :: "r"(shared_address(dst)), "l"(src), "r"(there), "n"(BYTES) : "memory");
    }
}

static __device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// until no more than the last N groups are on their way
template <int N> static __device__ __forceinline__ void wait_for_copies() {
    if (N == 0) { asm volatile("cp.async.wait_all;" ::: "memory"); }
    else        { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
}

// arrives when the copies that this thread has issued are there
static __device__ __forceinline__ void barrier_arrive_after_copies(uint64_t * b) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" :: "r"(shared_address(b)) : "memory");
}

#ifdef FATTN_DECODE_BULK_COPY
// bytes that copies to come will bring; counts as an arrival
static __device__ __forceinline__ void barrier_expect(uint64_t * b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"(shared_address(b)), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void copy_bulk(void * dst, const void * src, uint32_t bytes, uint64_t * b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :: "r"(shared_address(dst)), "l"(src), "r"(bytes), "r"(shared_address(b)) : "memory");
}
#endif

// Barriers of THREADS threads, whole warps, of which some may arrive without waiting for the others. id: 1 to 15, for 0 is __syncthreads'
template <int THREADS> static __device__ __forceinline__ void wait_at_barrier(int id) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "n"(THREADS) : "memory");
}

template <int THREADS> static __device__ __forceinline__ void arrive_at_barrier(int id) {
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "n"(THREADS) : "memory");
}

// Takes the next of some numbers, for a whole block: by one thread, between two barriers. What the block stored before can be read afterwards by the
// blocks that get later numbers.
static __device__ __forceinline__ unsigned take_ticket(unsigned * next) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(next) : "memory");
    return before;
}

// ---- kernels one after the other ----------------------------------------------------------------------------------------

static __device__ __forceinline__ void fattn_decode_wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void fattn_decode_let_successor_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
