// Stands in for ours of the same name, where kernels run on the CPU: what warps do together, by what PTX says of each instruction,
// and copies that arrive when it is hardest: at once (EARLY_COPIES), or when they are waited for and nobody can go on without them.
#pragma once

#include "common.cuh"

#define FATTN_DECODE_AVAILABLE

alignas(1024) inline char shared_memory[256*1024];

inline uint32_t shared_address(const void * p) { return (uint32_t) ((const char *) p - shared_memory); }

inline uint32_t pack_half2(float lo, float hi) {
    const half2 h = make_half2(lo, hi);
    uint32_t u;
    memcpy(&u, &h, 4);
    return u;
}

inline float half_at(const char * p) {
    half h;
    memcpy(&h, p, 2);
    return (float) h;
}

// ---- matrices -------------------------------------------------------------------------------------------------------------

struct fragment_a { uint32_t reg[4]; };
struct fragment_b { uint32_t reg[2]; };

// c += A*B, 16 by 8, of values of which PER are in a register
template <int PER, typename T, typename F> void multiply(T (&c)[4], const fragment_a & a, const fragment_b & b, F value) {
    fragment_a all_a[WARP_SIZE]; // of an exchange, no more than the next one may begin before it is read
    const auto x = host::exchange(a);
    for (int l = 0; l < WARP_SIZE; ++l) { all_a[l] = x.at(l); }
    const auto all_b = host::exchange(b);
    for (int i = 0; i < 4; ++i) {
        const int row = x.lane/4 + 8*(i/2), column = x.lane%4*2 + i%2;
        for (int k = 0; k < 8*PER; ++k) {
            const int lane = k%(4*PER)/PER, half = k/(4*PER);
            c[i] += value(all_a[row%8*4 + lane].reg[2*half + row/8], k%PER)*value(all_b.at(column*4 + lane).reg[half], k%PER);
        }
    }
}

inline void mma_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply<2>(c, { a[0], a[1], a[2], a[3] }, { b0, b1 }, [](uint32_t reg, int i) { return half_at((const char *) &reg + 2*i); });
}

inline void mma_int8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    multiply<4>(c, { a0, a1, a2, a3 }, { b0, b1 }, [](uint32_t reg, int i) { return (int) (int8_t) (reg >> 8*i); });
}

template <bool transposed> void load_four_matrices(uint32_t (&a)[4], uint32_t row) {
    if (row % 16 != 0) { host::fail("ldmatrix of an address that is not aligned", (int) row); }
    const auto rows = host::exchange(row);
    for (int m = 0; m < 4; ++m) {
        for (int i = 0; i < 2; ++i) {
            const int r = transposed ? rows.lane%4*2 + i : rows.lane/4, c = transposed ? rows.lane/4 : rows.lane%4*2 + i;
            memcpy((char *) &a[m] + 2*i, shared_memory + rows.at(8*m + r) + 2*c, 2);
        }
    }
}

inline void load_matrices(uint32_t (&a)[4], uint32_t row)            { load_four_matrices<false>(a, row); }
inline void load_matrices_transposed(uint32_t (&a)[4], uint32_t row) { load_four_matrices<true>(a, row); }

inline void load_matrices(uint32_t (&a)[4], const char * row)            { load_matrices(a, shared_address(row)); }
inline void load_matrices_transposed(uint32_t (&a)[4], const char * row) { load_matrices_transposed(a, shared_address(row)); }

inline uint32_t transpose_8x8(uint32_t v) {
    const auto x = host::exchange(v);
    uint32_t r = 0;
    for (int i = 0; i < 2; ++i) { r |= (x.at((x.lane%4*2 + i)*4 + x.lane/8) >> 16*(x.lane/4%2) & 0xffff) << 16*i; }
    return r;
}

inline uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

// ---- copies and their barriers --------------------------------------------------------------------------------------------

struct copy_barrier {
    uint32_t count, pending;
    int64_t  bytes; // announced and not there
    uint32_t phase;

    void step() {
        if (pending == 0 && bytes == 0) {
            phase ^= 1;
            pending = count;
        }
    }
    void arrive() {
        if (pending == 0) { host::fail("an arrival too many at a barrier of", (int) count); }
        --pending;
        step();
    }
};

typedef std::vector<std::function<void()>> things_to_do;

inline std::map<const uint64_t *, copy_barrier> barriers;
inline std::map<int, std::vector<things_to_do>> copies_of_thread; // in groups
inline things_to_do on_their_way;                                 // that no thread can wait for but by a barrier

inline std::function<void()> kernel_ahead;                       // what it stores, or nothing

inline void forget_block() {
    if (!on_their_way.empty()) { host::fail("copies that nobody waited for", (int) on_their_way.size()); }
    for (const auto & [id, state] : named_barriers) {
        if (state.first != 0) { host::fail("arrivals that nobody waited for, at barrier", id); }
    }
    barriers.clear();
    copies_of_thread.clear();
    host::arrivals = [] {
        things_to_do now;
        std::swap(now, on_their_way);
        if (now.empty() && kernel_ahead) { std::swap(now.emplace_back(), kernel_ahead); } // after copies that should have waited for it
        for (size_t i = now.size(); i-- > 0; ) { now[i](); } // the last first
        return !now.empty();
    };
}

inline things_to_do & copies_of_this_thread() {
    auto & groups = copies_of_thread[host::running->current];
    if (groups.empty()) { groups.emplace_back(); }
    return groups.back();
}

template <int BYTES> void copy_or_clear(uint32_t dst, const void * src, int there = BYTES) {
    if (dst % BYTES != 0 || (uintptr_t) src % BYTES != 0) { host::fail("a copy that is not aligned", (int) dst); }
    const auto copy = [=] {
        memcpy(shared_memory + dst, src, (size_t) there);
        memset(shared_memory + dst + there, 0, (size_t) (BYTES - there));
    };
#ifdef EARLY_COPIES
    copy();
#else
    copies_of_this_thread().push_back(copy);
#endif
}

template <int BYTES> void copy_or_clear(void * dst, const void * src, int there = BYTES) { copy_or_clear<BYTES>(shared_address(dst), src, there); }

inline void copy_16(uint32_t dst, const void * src) { copy_or_clear<16>(dst, src); }
inline void copy_16(void * dst, const void * src)   { copy_or_clear<16>(dst, src); }

inline void commit_copies() {
    copies_of_this_thread();
    copies_of_thread[host::running->current].emplace_back();
}

// the last of the groups is the one that is not committed
template <int N> void wait_for_copies() {
    auto & groups = copies_of_thread[host::running->current];
    while ((int) groups.size() > (N == 0 ? 0 : N + 1)) {
        for (const auto & copy : groups.front()) { copy(); }
        groups.erase(groups.begin());
    }
}

inline void barrier_init(uint64_t * b, uint32_t arrivals) { barriers[b] = { arrivals, arrivals, 0, 0 }; }

inline void barrier_arrive(uint64_t * b) { barriers.at(b).arrive(); }

inline void barrier_wait(uint64_t * b, uint32_t parity) {
    host::wait_until([=] { return barriers.at(b).phase != parity; });
}

inline void barrier_arrive_after_copies(uint64_t * b) {
    auto & groups = copies_of_thread[host::running->current];
    things_to_do mine;
    for (auto & group : groups) { mine.insert(mine.end(), group.begin(), group.end()); }
    groups.clear();
    const auto arrive = [=] {
        for (const auto & copy : mine) { copy(); }
        barrier_arrive(b);
    };
#ifdef EARLY_COPIES
    arrive();
#else
    on_their_way.push_back(arrive);
#endif
}

#ifdef BULK_COPIES
#define FATTN_DECODE_BULK_COPY
inline void barrier_expect(uint64_t * b, uint32_t bytes) {
    barriers.at(b).bytes += bytes;
    barriers.at(b).arrive();
}

inline void copy_bulk(void * dst, const void * src, uint32_t bytes, uint64_t * b) {
    if (shared_address(dst) % 16 != 0 || (uintptr_t) src % 16 != 0 || bytes % 16 != 0) { host::fail("a bulk copy that is not aligned", (int) bytes); }
    const auto copy = [=] {
        memcpy(dst, src, bytes);
        barriers.at(b).bytes -= bytes;
        barriers.at(b).step();
    };
#ifdef EARLY_COPIES
    copy();
#else
    on_their_way.push_back(copy);
#endif
}
#endif // BULK_COPIES

template <int THREADS> void wait_at_barrier(int id)   { named_barrier(id, THREADS); }
template <int THREADS> void arrive_at_barrier(int id) { named_barrier(id, THREADS, false); }

inline unsigned take_ticket(unsigned * tickets) { return (*tickets)++; } // blocks run one after another

// ---- kernels one after the other ------------------------------------------------------------------------------------------

inline void fattn_decode_wait_for_predecessor() {
    host::wait_until([] { return !kernel_ahead; });
}

inline void fattn_decode_let_successor_start() {}
