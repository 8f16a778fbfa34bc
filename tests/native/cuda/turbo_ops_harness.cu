// Checks and times turbo-quants-encode.cuh and -decode.cuh against the C reference: build with
//   nvcc -O3 -std=c++17 -arch=sm_90 -use_fast_math -I tests/native/shim -I ggml_kernels/common -I ggml_kernels/ref -I ggml_kernels/cuda tests/native/cuda/turbo_ops_harness.cu
// and run it; with --host it needs no GPU: the steps of the 32 threads are then taken one thread after another. Encoding has
// to give the reference's bytes, decoding its floats, and halves and bfloat16 have to be those floats rounded once.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define restrict __restrict__ // the shim is written for C
#include "turbo-quants-ref.h"
#include "cache-convert.cuh"
#include "turbo-quants-encode.cuh"

#include "turbo-quants-ref.c"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#define CHECK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

static int n_wrong = 0;

static void verdict(const std::string & what, int64_t differing, int64_t of, const std::string & more = "") {
    printf("%-5s %-46s %lld of %lld differ%s\n", differing ? "WRONG" : "ok", what.c_str(), (long long) differing, (long long) of, more.c_str());
    n_wrong += differing != 0;
}

// ---- the types --------------------------------------------------------------------------------------------------------

static const char * name_of(const block_turbo3 *) { return "turbo3"; }
static const char * name_of(const block_turbo4 *) { return "turbo4"; }
static void encode_ref(const float * x, block_turbo3 * y, int64_t k) { quantize_row_turbo3_ref(x, y, k); }
static void encode_ref(const float * x, block_turbo4 * y, int64_t k) { quantize_row_turbo4_ref(x, y, k); }
static void decode_ref(const block_turbo3 * x, float * y, int64_t k) { dequantize_row_turbo3(x, y, k); }
static void decode_ref(const block_turbo4 * x, float * y, int64_t k) { dequantize_row_turbo4(x, y, k); }
static const turbo_search_table< 8> & table_of(const block_turbo3 *) { return turbo3_search_table; }
static const turbo_search_table<16> & table_of(const block_turbo4 *) { return turbo4_search_table; }

// ---- input ------------------------------------------------------------------------------------------------------------

typedef std::vector<float> floats;

template <typename F> static void add_blocks(floats & x, int n, F value) {
    for (int i = 0; i < n*QK_TURBO; ++i) {
        x.push_back((float) value(i/QK_TURBO, i % QK_TURBO));
    }
}

static void add_extreme(floats & x) {
    const double inf = INFINITY, nan = NAN;
    const auto ramp = [](int j) { return -1.0 + 2.0*j/(QK_TURBO - 1); };
    for (double s : { 0.0, -0.0, 1.0, -1.0, 1e30, 3e38, -3e38, 1e-38, 1e-44, 9.5367431640625e-7, 9.5367425e-7, 4.76837158203125e-7,
                      1e-5, 64992.25, 64992.2, 65504.0, 1e5, 3.0517578125e-5, inf, -inf, nan }) {
        add_blocks(x, 1, [=](int, int j) { return s*ramp(j); });
        add_blocks(x, 1, [=](int, int) { return s; });
        add_blocks(x, 1, [=](int, int j) { return j % 2 ? s : -s; });
        add_blocks(x, 1, [=](int, int j) { return j == 17 ? s : 0.0; });
        add_blocks(x, 1, [=](int, int j) { return j == 63 ? s : ramp(j); });
        add_blocks(x, 1, [=](int, int j) { return j == 0 ? -s : j % 3 == 0 ? nan : ramp(j); });
        add_blocks(x, 1, [=](int, int j) { return s*pow(ramp(j), 3); });
        add_blocks(x, 1, [=](int, int j) { return s*pow(ramp(j), 15); });
        add_blocks(x, 1, [=](int, int j) { return s*fabs(ramp(j)); });
    }
}

static floats make_input(int n) {
    std::mt19937 rng(1);
    std::normal_distribution<double> gauss;
    std::uniform_real_distribution<double> even(-1, 1);
    floats x;
    add_blocks(x, n, [&](int, int) { return gauss(rng); });
    double s = 1;
    add_blocks(x, n/2, [&](int, int j) { if (j == 0) { s = pow(10, 5.5*even(rng) - 0.5); } return s*gauss(rng); });
    add_blocks(x, n/4, [&](int, int) { return even(rng); });
    add_blocks(x, n/4, [&](int, int) { const double g = gauss(rng); return g*g*g; });
    // few values, so that candidates tie; and whole q, so that values meet bounds
    add_blocks(x, n/4, [&](int b, int) { const int m = 1 + b % 9; return (int) (rng() % (2*m + 1)) - m; });
    add_blocks(x, n/4, [&](int, int j) { return j == 0 ? 16384.0 : (int) (rng() % 32769) - 16384; });
    add_blocks(x, n/4, [&](int, int j) { // on the bounds and next to them
        const int c = rng() % 32, off = (int) (rng() % 3) - 1;
        const int b = rng() % 2 ? turbo4_search_bounds[c][1 + rng() % 15] : turbo3_search_bounds[c][1 + rng() % 7];
        return j == 63 ? -16384.0 : rng() % 2 ? b + off : -b + off;
    });
    add_blocks(x, n/16, [&](int, int) { uint32_t u = rng(); float f; memcpy(&f, &u, 4); return f; }); // any bits
    add_extreme(x);
    return x;
}

// ---- encoding ---------------------------------------------------------------------------------------------------------

static void put_code(block_turbo3 * y, int j, int code) {
    y->qs[j % 16] |= (uint8_t) ((code & 3) << turbo3_low_shift(j));
    y->qh[j %  8] |= (uint8_t) ((code >> 2) << turbo3_high_shift(j));
}

static void put_code(block_turbo4 * y, int j, int code) { y->qs[j % 32] |= (uint8_t) (code << j/32*4); }

// turbo_encode, with loops for threads
template <typename block_t> static void encode_on_host(const float * x, block_t * y) {
    constexpr int LEVELS = turbo_traits<block_t>::LEVELS;
    const auto & table = table_of(y);
    uint32_t key = 0, best_score = 0;
    for (int j = 0; j < QK_TURBO; ++j) { key = std::max(key, turbo_peak_key(turbo_sanitize_bits(x[j]))); }
    const turbo_peak peak = turbo_make_peak(key);
    turbo_value value[QK_TURBO];
    for (int j = 0; j < QK_TURBO; ++j) { value[j] = turbo_make_value<LEVELS>(turbo_sanitize_bits(x[j]), peak); }
    turbo_sums sums[TURBO_LANES] = {};
    for (int c = 0; c < TURBO_LANES; ++c) {
        for (const turbo_value & v : value) {
            const int t = (int8_t) turbo_choose_entry(turbo_entry_at(table.cell, c, v.word), v.word);
            sums[c].dot    += v.q*t;
            sums[c].energy += t*t;
        }
        best_score = std::max(best_score, turbo_score(sums[c]));
    }
    turbo_sums best = { 0, 1 };
    int index = 0;
    for (int c = 0; c < TURBO_LANES; ++c) {
        if (turbo_score(sums[c]) >= turbo_near_score(best_score) && turbo_beats(sums[c], best)) {
            best  = sums[c];
            index = c;
        }
    }
    memset(y, 0, sizeof(*y));
    if (!peak.zero) {
        for (int j = 0; j < QK_TURBO; ++j) {
            put_code(y, j, turbo_code<LEVELS>(turbo_entry_at(table.cell, index, value[j].word), value[j].word, table.book[index] >> 3));
        }
        y->d = (uint16_t) turbo_make_scale(peak, best, table.book[index]);
    }
}

// rows of D values; PER_BLOCK warps share a block, or one has a row if it is 1
template <int D, int PER_BLOCK, typename block_t>
static __global__ void k_encode(const float * x, block_t * y, int n_rows) {
    constexpr int TEAM = PER_BLOCK == 1 ? 1 : turbo_team(D, PER_BLOCK), TEAMS = TEAM > 4 ? 1 : 2;
    __shared__ turbo_encode_shared<block_t, TEAM*TEAMS> shared;
    turbo_encode_prepare(shared);
    const int64_t row = min((int) (blockIdx.x*TEAMS + threadIdx.x/(TEAM*TURBO_LANES)), n_rows - 1);
    float v[D/32];
    for (int i = 0; i < D/32; ++i) { v[i] = x[row*D + row_index<D>(threadIdx.x % TURBO_LANES, i)]; }
    turbo_encode<D, TEAM>(shared, v, y + row*(D/QK_TURBO));
}

template <typename T> struct device_array {
    T * p = nullptr;
    explicit device_array(size_t n) { CHECK(cudaMalloc(&p, n*sizeof(T))); }
    device_array(const std::vector<T> & v) : device_array(v.size()) { CHECK(cudaMemcpy(p, v.data(), v.size()*sizeof(T), cudaMemcpyHostToDevice)); }
    device_array(const device_array &) = delete;
    ~device_array() { CHECK(cudaFree(p)); }
    std::vector<T> get(size_t n) const {
        std::vector<T> v(n);
        CHECK(cudaMemcpy(v.data(), p, n*sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
};

template <int D, int PER_BLOCK, typename block_t> static void encode_launch(const float * x, block_t * y, int n_blocks) {
    constexpr int TEAM = PER_BLOCK == 1 ? 1 : turbo_team(D, PER_BLOCK), TEAMS = TEAM > 4 ? 1 : 2;
    const int n_rows = n_blocks/(D/QK_TURBO);
    k_encode<D, PER_BLOCK><<<(n_rows + TEAMS - 1)/TEAMS, TEAMS*TEAM*TURBO_LANES>>>(x, y, n_rows);
}

template <int D, typename block_t> static void encode_launch(const float * x, block_t * y, int n_blocks, int per_block) {
    switch (per_block) {
        case 1:  encode_launch<D, 1>(x, y, n_blocks); break;
        case 2:  encode_launch<D, 2>(x, y, n_blocks); break;
        default: encode_launch<D, 4>(x, y, n_blocks); break;
    }
}

// NMSE of a block, of what the format can hold of it
template <typename block_t> static double nmse_of(const float * x, const block_t * y) {
    float z[QK_TURBO];
    decode_ref(y, z, QK_TURBO);
    double error = 0, energy = 1e-30;
    for (int j = 0; j < QK_TURBO; ++j) {
        const double v = turbo_sanitize(x[j]);
        error  += (v - z[j])*(v - z[j]);
        energy += v*v;
    }
    return error/energy;
}

// team: warps for a block, or 0: on the host
// rows of d values, each block by so many warps; 0: on the host
template <typename block_t> static void check_encode(const floats & x, int d, int per_block) {
    const int n = (int) (x.size()/d)*(d/QK_TURBO);
    std::vector<block_t> expected(n), made(n);
    encode_ref(x.data(), expected.data(), (int64_t) n*QK_TURBO);
    if (per_block == 0) {
        for (int i = 0; i < n; ++i) {
            encode_on_host(&x[(size_t) i*QK_TURBO], &made[i]);
        }
    } else {
        const device_array<float> dx(x);
        const device_array<block_t> dy(n);
        switch (d) {
            case  64: encode_launch< 64>(dx.p, dy.p, n, per_block); break;
            case 128: encode_launch<128>(dx.p, dy.p, n, per_block); break;
            default:  encode_launch<256>(dx.p, dy.p, n, per_block); break;
        }
        CHECK(cudaDeviceSynchronize());
        made = dy.get(n);
    }
    int64_t differing = 0;
    double error = 0, error_ref = 0;
    for (int i = 0; i < n; ++i) {
        if (memcmp(&made[i], &expected[i], sizeof(block_t)) != 0) {
            if (differing++ == 0) {
                printf("      first differing block: %d\n", i);
            }
            error     += nmse_of(&x[(size_t) i*QK_TURBO], &made[i]);
            error_ref += nmse_of(&x[(size_t) i*QK_TURBO], &expected[i]);
        }
    }
    const std::string more = differing ? "; their NMSE is the reference's times " + std::to_string(error/error_ref) : "";
    verdict(std::string(name_of(made.data())) + " encode, " + (per_block == 0 ? "host" : "rows of " + std::to_string(d) + ", warps for a block: " + std::to_string(per_block)), differing, n, more);
}

// ---- decoding ---------------------------------------------------------------------------------------------------------

// each finite half as the scale, so each book and sign, and random codes
template <typename block_t> static std::vector<block_t> every_scale() {
    std::mt19937 rng(2);
    std::vector<block_t> blocks;
    for (int d = 0; d < 1 << 16; ++d) {
        if ((d & 0x7c00) == 0x7c00) { continue; }
        block_t b;
        for (size_t i = 0; i < sizeof(b); ++i) { ((uint8_t *) &b)[i] = (uint8_t) rng(); }
        b.d = (uint16_t) d;
        blocks.push_back(b);
    }
    return blocks; // 63488: a multiple of 2048
}

// bits of a float as bits of the type that it is stored as
static uint32_t expected_bits(float v, float)         { return turbo_bits(v); }
static uint32_t expected_bits(float v, half)          { return (uint32_t) turbo_half_bits(v); }
static uint32_t expected_bits(float v, nv_bfloat16)   { const nv_bfloat16 b = __float2bfloat16(v); uint16_t u; memcpy(&u, &b, 2); return u; }
template <typename T> static uint32_t made_bits(const T & v) { uint32_t u = 0; memcpy(&u, &v, sizeof(v)); return u; }

template <typename T> static const char * dst_name() {
    return std::is_same<T, float>::value ? "f32" : std::is_same<T, half>::value ? "f16" : "bf16";
}

template <typename block_t> static void check_look_up() {
    const auto blocks = every_scale<block_t>();
    int64_t differing = 0;
    for (const auto & b : blocks) {
        const auto books = [](const block_t * x) {
            if constexpr (sizeof(block_t) == sizeof(block_turbo3)) { return turbo_make_books(kvalues_turbo3); } else { return turbo_make_books(kvalues_turbo4); }
        }(&b);
        typename turbo_traits<block_t>::book_t book;
        memcpy(&book, books.entry[b.d & 7], sizeof(book));
        float expected[QK_TURBO];
        decode_ref(&b, expected, QK_TURBO);
        bool same = true;
        for (int j = 0; j < 8; ++j) {
            uint32_t words[2];
            turbo_look_up(book, turbo_codes_of(turbo_load_packed(&b, j), j), words[0], words[1]);
            for (int i = 0; i < 8; ++i) {
                const float t = (float) ((int) (words[i/4] >> 8*(i % 4) & 0xff) - 128);
                same &= turbo_bits(shim_half_to_float(b.d)*TURBO_ENTRY_SCALE*t) == turbo_bits(expected[i/4*32 + 4*j + i % 4]);
            }
        }
        differing += !same;
    }
    verdict(std::string(name_of((block_t *) nullptr)) + " look-up (host)", differing, (int64_t) blocks.size());
}

template <typename block_t, typename dst_t> static void check_convert(const std::vector<block_t> & blocks, const floats & expected) {
    const device_array<block_t> dx(blocks);
    const int64_t n = (int64_t) blocks.size(), k = n*QK_TURBO;
    const std::string what = std::string(name_of(blocks.data())) + " to " + dst_name<dst_t>();
    for (int tail : { 0, 1, 37 }) { // also a row that is no multiple of the CTA
        const int64_t kt = k - tail*QK_TURBO;
        const device_array<dst_t> dy((size_t) k);
        CHECK(cudaMemset(dy.p, 0xff, (size_t) k*sizeof(dst_t)));
        convert_cache_cont_cuda<block_t>(dx.p, dy.p, kt, 0);
        CHECK(cudaDeviceSynchronize());
        const auto y = dy.get((size_t) k);
        int64_t differing = 0;
        for (int64_t i = 0; i < k; ++i) {
            differing += made_bits(y[i]) != (i < kt ? expected_bits(expected[i], dst_t()) : sizeof(dst_t) == 4 ? 0xffffffffu : 0xffffu);
        }
        verdict(what + (tail ? " (row less " + std::to_string(tail) + ")" : ""), differing, k);
    }
    // views as attention has them: [head size, positions, heads, sequences] of a cache [all heads, positions, sequences]
    for (int nb_row : { 1, 2, 3, 4, 40 }) {
        const int64_t heads = 7, seqs = 3, positions = n/(nb_row*heads*seqs);
        const int64_t size = nb_row*heads*seqs*positions*QK_TURBO;
        const device_array<dst_t> dy((size_t) size);
        convert_cache_cuda<block_t>(dx.p, dy.p, nb_row*QK_TURBO, positions, heads, seqs, nb_row*heads, nb_row, nb_row*heads*positions, 0);
        CHECK(cudaDeviceSynchronize());
        const auto y = dy.get((size_t) size);
        int64_t differing = 0;
        for (int64_t i = 0; i < size; ++i) {
            const int64_t b = i/QK_TURBO, ib = b % nb_row, i1 = b/nb_row % positions, i2 = b/nb_row/positions % heads, i3 = b/nb_row/positions/heads;
            const int64_t from = ((i3*positions + i1)*heads + i2)*nb_row + ib;
            differing += made_bits(y[i]) != expected_bits(expected[from*QK_TURBO + i % QK_TURBO], dst_t());
        }
        verdict(what + " (head of " + std::to_string(nb_row*QK_TURBO) + ")", differing, size);
    }
}

static __device__ void dequantize_pair(const block_turbo3 * x, int64_t ib, int iqs, float2 & v) { dequantize_turbo3(x, ib, iqs, v); }
static __device__ void dequantize_pair(const block_turbo4 * x, int64_t ib, int iqs, float2 & v) { dequantize_turbo4(x, ib, iqs, v); }

template <typename block_t> static __global__ void k_pairs(const block_t * x, float * y) {
    float2 v;
    dequantize_pair(x, blockIdx.x, threadIdx.x, v);
    y[(int64_t) blockIdx.x*QK_TURBO + threadIdx.x]      = v.x;
    y[(int64_t) blockIdx.x*QK_TURBO + threadIdx.x + 32] = v.y;
}

template <typename block_t> static void check_decode() {
    const auto blocks = every_scale<block_t>();
    floats expected(blocks.size()*QK_TURBO);
    decode_ref(blocks.data(), expected.data(), (int64_t) expected.size());
    check_convert<block_t, float>(blocks, expected);
    check_convert<block_t, half>(blocks, expected);
    check_convert<block_t, nv_bfloat16>(blocks, expected);
    const device_array<block_t> dx(blocks);
    const device_array<float> dy(expected.size());
    k_pairs<<<(unsigned) blocks.size(), 32>>>(dx.p, dy.p);
    CHECK(cudaDeviceSynchronize());
    const auto y = dy.get(expected.size());
    int64_t differing = 0;
    for (size_t i = 0; i < y.size(); ++i) {
        differing += turbo_bits(y[i]) != turbo_bits(expected[i]);
    }
    verdict(std::string(name_of(blocks.data())) + " in pairs (GET_ROWS)", differing, (int64_t) y.size());
}

// ---- timing -----------------------------------------------------------------------------------------------------------

// median time of a call, in us
static double time_us(const std::function<void()> & call) {
    cudaEvent_t a, b;
    CHECK(cudaEventCreate(&a));
    CHECK(cudaEventCreate(&b));
    std::vector<float> ms;
    for (int i = 0; i < 25; ++i) {
        CHECK(cudaEventRecord(a));
        for (int j = 0; j < 4; ++j) { call(); }
        CHECK(cudaEventRecord(b));
        CHECK(cudaEventSynchronize(b));
        float t;
        CHECK(cudaEventElapsedTime(&t, a, b));
        if (i >= 5) { ms.push_back(t/4); }
    }
    std::sort(ms.begin(), ms.end());
    return 1000.0*ms[ms.size()/2];
}

template <typename block_t> static void time_all() {
    const char * name = name_of((block_t *) nullptr);
    const int64_t heads = 8, nb_row = 2, most = 128*1024*heads*nb_row;
    const auto pattern = every_scale<block_t>();
    const device_array<block_t> dx((size_t) most);
    for (int64_t i = 0; i < most; i += (int64_t) pattern.size()) {
        CHECK(cudaMemcpy(dx.p + i, pattern.data(), std::min(pattern.size(), (size_t) (most - i))*sizeof(block_t), cudaMemcpyHostToDevice));
    }
    const device_array<half> dy((size_t) most*QK_TURBO);
    for (int64_t positions : { 8, 32, 128 }) {
        const int64_t n = positions*1024*heads*nb_row;
        const double bytes = (double) n*(sizeof(block_t) + QK_TURBO*sizeof(half));
        const double flat = time_us([&] { convert_cache_cuda<block_t>(dx.p, dy.p, 1024, positions*1024, 1, 1, nb_row*heads, 0, 0, 0); });
        const double view = time_us([&] { convert_cache_cuda<block_t>(dx.p, dy.p, 128, positions*1024, heads, 1, nb_row*heads, nb_row, n, 0); });
        const double copy = time_us([&] { CHECK(cudaMemcpyAsync(dy.p, dy.p + n*QK_TURBO/2, (size_t) n*QK_TURBO, cudaMemcpyDeviceToDevice)); });
        printf("      %s to f16, %dK x 1024: rows %.1f us (%.2f TB/s), heads apart %.1f us (%.2f TB/s); a copy moves %.2f TB/s\n", name, (int) positions,
               flat, bytes/flat*1e-6, view, bytes/view*1e-6, 2.0*n*QK_TURBO/copy*1e-6);
    }

    std::mt19937 rng(3);
    std::normal_distribution<float> gauss;
    for (int tokens : { 1, 512, 4096 }) {
        floats x((size_t) tokens*1024);
        for (auto & v : x) { v = gauss(rng); }
        const device_array<float> df(x);
        const int blocks = tokens*16;
        const double t = time_us([&] { // a prompt has many blocks, a token few
            encode_launch<128>(df.p, dx.p, blocks, tokens == 1 ? 4 : 1);
        });
        printf("      %s encode, %d x 1024: %.2f us, %.2f ns a block\n", name, tokens, t, 1000*t/blocks);
    }
}

template <typename block_t> static void check_all(const floats & x, bool host) {
    if (host) {
        check_encode<block_t>(x, QK_TURBO, 0);
        check_look_up<block_t>();
    } else {
        for (int d : { 64, 128, 256 }) {
            for (int per_block : { 1, 2, 4 }) { check_encode<block_t>(x, d, per_block); }
        }
        check_decode<block_t>();
    }
}

int main(int argc, char ** argv) {
    const bool host = argc == 2 && strcmp(argv[1], "--host") == 0;
    const floats x = make_input(host ? 40000 : 100000);
    check_all<block_turbo3>(x, host);
    check_all<block_turbo4>(x, host);
    if (!host) {
        time_all<block_turbo3>();
        time_all<block_turbo4>();
    }
    printf("%s\n", n_wrong ? "WRONG" : "all ok");
    return n_wrong != 0;
}
