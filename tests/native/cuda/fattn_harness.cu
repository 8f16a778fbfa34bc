// Checks and times fattn-decode.cuh alone, on random packed K/V: build with
//   nvcc -O3 -std=c++17 -arch=sm_90 -I ggml_kernels/common -I ggml_kernels/cuda tests/native/cuda/fattn_harness.cu
// The check is against float64 on the host; the timing rotates over more caches than the L2 holds.

#include "fattn-decode.cuh"

#define ggml_half uint16_t
#include "turbo-blocks.h"
#include "turbo-tables.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <algorithm>

#define CHECK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

static std::mt19937 rng(1);
static float half_to_float(uint16_t h) { half x; memcpy(&x, &h, 2); return __half2float(x); }

enum Type { Q8_0, Q4_0, TURBO4, TURBO3 };
static const char * type_names[] = { "q8_0", "q4_0", "turbo4", "turbo3" };
static int block_of(Type t) { return t < TURBO4 ? 32 : 64; }
static int bytes_of(Type t) { return t == Q8_0 ? 34 : t == Q4_0 ? 18 : t == TURBO4 ? 34 : 26; }
static float scale_of(Type t) { return t == Q8_0 ? 1.0f/64 : t == Q4_0 ? 1.0f/4 : 2.0f; }

static void random_blocks(Type t, std::vector<uint8_t> & data) {
    const int n = bytes_of(t);
    for (auto & b : data) { b = (uint8_t) rng(); }
    for (size_t i = 0; i + n <= data.size(); i += n) {
        float f = scale_of(t)*(0.5f + (rng() % 1000)/1000.0f);
        if (t >= TURBO4 && rng() % 2) { f = -f; }
        half h = __float2half(f); // its low bits choose a random book
        memcpy(&data[i], &h, 2);
    }
}

static double value(Type t, const uint8_t * row, int i) {
    const uint8_t * b = row + i/block_of(t)*bytes_of(t);
    uint16_t d; memcpy(&d, b, 2);
    const int j = i%block_of(t);
    switch (t) {
        case Q8_0: return half_to_float(d)*(int8_t) b[2 + j];
        case Q4_0: return half_to_float(d)*((j < 16 ? b[2 + j] & 15 : b[2 + j - 16] >> 4) - 8);
        case TURBO4: return half_to_float(d)/128*kvalues_turbo4[d & 7][j < 32 ? b[2 + j] & 15 : b[2 + j - 32] >> 4];
        case TURBO3: {
            const int c = j/16, k = j%16;
            const int high = b[18 + (k & 7)] >> (4*(c >> 1) + 2*(k >> 3) + (c & 1)) & 1;
            return half_to_float(d)/128*kvalues_turbo3[d & 7][(b[2 + k] >> 2*c & 3) | high << 2];
        }
    }
    return 0;
}

template <typename L> struct type_of;
template <> struct type_of<load_q8_0>   { static constexpr Type T = Q8_0; };
template <> struct type_of<load_q4_0>   { static constexpr Type T = Q4_0; };
template <> struct type_of<load_turbo4> { static constexpr Type T = TURBO4; };
template <> struct type_of<load_turbo3> { static constexpr Type T = TURBO3; };

static uint4 * upload_books(Type t, int bias) {
    uint8_t b[128] = {0};
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 16; ++j) {
            if (t == TURBO4) { b[16*i + j] = (uint8_t) (kvalues_turbo4[i][j] + bias); }
            if (t == TURBO3 && j < 8) { b[8*i + j] = (uint8_t) (kvalues_turbo3[i][j] + bias); }
        }
    }
    uint4 * d; CHECK(cudaMalloc(&d, 128)); CHECK(cudaMemcpy(d, b, 128, cudaMemcpyHostToDevice));
    return d;
}

template <int D, typename LK, typename LV, int NT, int HEADS, int TILE, int MB>
static void run(int n_kv, int n_head_kv, int gqa, int n_q, int splits, bool check, int sets) {
    const Type tk = type_of<LK>::T, tv = type_of<LV>::T;
    const int rk = D/block_of(tk)*bytes_of(tk), rv = D/block_of(tv)*bytes_of(tv);
    const int n_head = n_head_kv*gqa;
    const size_t bk = (size_t) n_kv*n_head_kv*rk, bv = (size_t) n_kv*n_head_kv*rv;
    std::vector<uint8_t> hk(bk), hv(bv);
    random_blocks(tk, hk); random_blocks(tv, hv);
    std::vector<float> hq((size_t) n_q*n_head*D);
    std::normal_distribution<float> normal;
    for (auto & x : hq) { x = normal(rng); }
    const int n_mask = (n_kv + 63)/64*64; // rows padded, as llama.cpp's are
    std::vector<half> hm((size_t) n_q*n_mask);
    for (int i = 0; i < n_q; ++i) for (int j = 0; j < n_kv; ++j) {
        hm[(size_t) i*n_mask + j] = __float2half(j <= n_kv - 1 - 3 - (n_q - 1 - i) ? 0.0f : -INFINITY);
    }
    std::vector<char *> dk(sets), dv(sets);
    for (int i = 0; i < sets; ++i) {
        CHECK(cudaMalloc(&dk[i], bk + 256)); CHECK(cudaMalloc(&dv[i], bv + 256));
        CHECK(cudaMemcpy(dk[i], hk.data(), bk, cudaMemcpyHostToDevice)); CHECK(cudaMemcpy(dv[i], hv.data(), bv, cudaMemcpyHostToDevice));
    }
    float * dq, * part, * dst; float2 * meta; half * dm;
    CHECK(cudaMalloc(&dq, hq.size()*4)); CHECK(cudaMemcpy(dq, hq.data(), hq.size()*4, cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&dm, hm.size()*2 + 256)); CHECK(cudaMemset(dm, 0, hm.size()*2 + 256)); CHECK(cudaMemcpy(dm, hm.data(), hm.size()*2, cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&part, (size_t) n_head*n_q*splits*D*4)); CHECK(cudaMalloc(&meta, (size_t) n_head*n_q*splits*8));
    CHECK(cudaMalloc(&dst, hq.size()*4)); CHECK(cudaMemset(dst, 0xff, hq.size()*4)); CHECK(cudaMemset(part, 0xff, (size_t) n_head*n_q*splits*D*4));
    uint4 * books_k = upload_books(tk, 0), * books_v = upload_books(tv, 128);

    fattn_decode_params p = {};
    p.q = (char *) dq; p.mask = (char *) dm; p.part = part; p.meta = meta;
    p.scale = 1.0f/sqrtf(D); p.n_head_log2 = 32; p.m0 = p.m1 = 1.0f;
    p.n_q = n_q; p.n_kv = n_kv; p.n_head = n_head; p.n_head_kv = n_head_kv; p.gqa = gqa; p.n_splits = splits;
    p.nbq1 = n_head*D*4; p.nbq2 = D*4; p.nbk1 = n_head_kv*rk; p.nbk2 = rk; p.nbv1 = n_head_kv*rv; p.nbv2 = rv; p.nbm1 = n_mask*2;
    p.seq_k = p.seq_v = p.seq_m = 1;

    auto * kernel = fattn_decode<D, LK, LV, NT, HEADS, TILE, true, MB>;
    const int smem = 256 + 64 + 3*(TILE*(HEADS*(rk + rv) + 32) + NT*8*TILE*2);
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    int occ = 0; CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&occ, kernel, HEADS*32, smem));
    cudaFuncAttributes attr; CHECK(cudaFuncGetAttributes(&attr, kernel));
    auto launch = [&](int set) {
        p.k = dk[set]; p.v = dv[set];
        kernel<<<dim3(splits, n_head_kv/HEADS, 1), HEADS*32, smem>>>(p, books_k, books_v);
        fattn_decode_combine<D><<<dim3(n_head*n_q, D/32), splits > 64 ? 1024 : 256, splits*4>>>(part, meta, dst, splits, n_head, n_q, nullptr);
    };
    launch(0);
    CHECK(cudaGetLastError()); CHECK(cudaDeviceSynchronize());
    printf("%s/%s D=%d kv=%d heads=%dx%d q=%d tile=%d splits=%d regs=%d local=%zu smem=%d occ=%d", type_names[tk], type_names[tv], D, n_kv, n_head_kv, gqa, n_q, TILE, splits, attr.numRegs, attr.localSizeBytes, smem, occ);
    if (check) {
        std::vector<float> out(hq.size()); CHECK(cudaMemcpy(out.data(), dst, out.size()*4, cudaMemcpyDeviceToHost));
        double num = 0, den = 0;
        std::vector<double> vals(D), s(n_kv), acc(D);
        for (int h = 0; h < n_head; ++h) for (int i = 0; i < n_q; ++i) {
            const float * q = &hq[((size_t) i*n_head + h)*D];
            double mx = -1e30;
            for (int j = 0; j < n_kv; ++j) {
                if (__half2float(hm[(size_t) i*n_mask + j]) < -1e4f) { s[j] = -1e30; continue; }
                const uint8_t * row = &hk[((size_t) j*n_head_kv + h/gqa)*rk];
                double x = 0; for (int d = 0; d < D; ++d) { x += q[d]*value(tk, row, d); }
                s[j] = x*p.scale; mx = std::max(mx, s[j]);
            }
            double sum = 0; std::fill(acc.begin(), acc.end(), 0.0);
            for (int j = 0; j < n_kv; ++j) if (s[j] > -1e29) {
                const double w = exp(s[j] - mx); sum += w;
                const uint8_t * row = &hv[((size_t) j*n_head_kv + h/gqa)*rv];
                for (int d = 0; d < D; ++d) { acc[d] += w*value(tv, row, d); }
            }
            for (int d = 0; d < D; ++d) {
                const double e = acc[d]/sum - out[((size_t) i*n_head + h)*D + d];
                num += e*e; den += acc[d]/sum*acc[d]/sum;
            }
        }
        printf("  rel err %.2e %s", sqrt(num/den), sqrt(num/den) < 3e-3 ? "ok" : "WRONG");
    }
    if (sets > 1) {
        cudaEvent_t a, b; cudaEventCreate(&a); cudaEventCreate(&b);
        std::vector<float> times;
        for (int rep = 0; rep < 7; ++rep) {
            cudaEventRecord(a);
            for (int i = 0; i < sets; ++i) { launch(i); }
            cudaEventRecord(b); CHECK(cudaEventSynchronize(b));
            float ms; cudaEventElapsedTime(&ms, a, b); times.push_back(ms/sets);
        }
        std::sort(times.begin(), times.end());
        printf("  %.1f us a layer, %.2f TB/s", times[3]*1e3, (bk + bv)/times[3]*1e-9);
    }
    printf("\n");
    for (int i = 0; i < sets; ++i) { cudaFree(dk[i]); cudaFree(dv[i]); }
    cudaFree(dq); cudaFree(dm); cudaFree(part); cudaFree(meta); cudaFree(dst); cudaFree(books_k); cudaFree(books_v);
}

template <int D, typename LK, typename LV, int NT, int HEADS, int TILE, int MB>
static void all(bool timing) {
    run<D, LK, LV, NT, HEADS, TILE, MB>(1000, 8, 4, NT == 1 ? 1 : 3, 7, true, 1);
    if (timing) {
        for (int splits : { 132*MB }) {
            run<D, LK, LV, NT, HEADS, TILE, MB>(131072, 8, 4, 1, splits*HEADS/8, false, 6);
        }
    }
}

int main(int argc, char **) {
    if (argc > 1) { // for a profiler
        run<128, load_turbo3, load_turbo3, 1, 8, 32, 2>(131072, 8, 4, 1, 264, false, 1);
        run<128, load_turbo4, load_turbo4, 1, 8, 32, 2>(131072, 8, 4, 1, 264, false, 1);
        return 0;
    }
    all<128, load_turbo3, load_turbo3, 1, 8, 32, 2>(true);
    all<128, load_turbo3, load_turbo3, 1, 8, 16, 2>(true);
    all<128, load_turbo4, load_turbo4, 1, 8, 32, 2>(true);
    all<128, load_q8_0,   load_turbo3, 1, 8, 16, 2>(true);
    all<128, load_q8_0,   load_q8_0,   1, 8, 16, 2>(true);
    all<128, load_q4_0,   load_q4_0,   1, 8, 32, 2>(true);
    all<128, load_turbo4, load_turbo3, 2, 8, 32, 1>(false);
    all< 64, load_turbo4, load_turbo3, 1, 8, 32, 2>(false);
    all< 64, load_turbo3, load_q8_0,   1, 8, 32, 2>(false);
    return 0;
}
