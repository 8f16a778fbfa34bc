// Checks and times fattn-short-kernel.cuh, from projections to output, in a CUDA graph like a token's of the Qwen3-8B shape:
// 36 layers of kernels that stream a layer's weights through the L2, so that code, tables and parameters are as cold as in
// llama.cpp. The check is against float64 on the host, with K and V as the kernel stored them. Build with
//   nvcc -O3 -std=c++17 -arch=sm_90 -use_fast_math -extended-lambda -I ggml_kernels/common -I ggml_kernels/cuda
//     -I SOURCE/ggml/include -I SOURCE/ggml/src -I SOURCE/ggml/src/ggml-cuda tests/native/cuda/short_harness.cu
// where SOURCE is a patched tree ("turbobench apply"). "check" leaves out the timing (for compute-sanitizer), "small" is for a CPU that
// runs the threads one by one (tests/cuda_host).

#include "common.cuh"

#define GGML_COMMON_DECL_CUDA
#include "ggml-common.h"
#include "turbo-blocks.h"

#include "fattn-short-kernel.cuh"

#include "cache_formats.cuh"
#include "token_graph.cuh"

#include <algorithm>

extern "C" void ggml_abort(const char * file, int line, const char *, ...) { printf("%s:%d\n", file, line); abort(); } // what headers need of ggml

static int failures = 0;

struct shape {
    int n_kv, n_head_kv, gqa, position; // position: of the token, which sees all up to itself
    int splits;
    bool rotate, sinks, center;
    int apart = 0;                      // V is stored so far before K
    int room  = 227*1024;               // bytes of shared memory: with few, a block has more tiles than stages
};

static const float EPS = 1e-6f, THETA_SCALE = powf(1e6f, -2.0f/128), SCALE = 0.088f;

template <typename L> constexpr int rotation() { return L::BLOCK == 64 ? 64 : 1; }
template <> constexpr int rotation<load_f16>() { return 1; }

// ---- reference ------------------------------------------------------------------------------------------------------------

// norm, RoPE (NeoX) and rotation of a head
static std::vector<double> prepared(const float * x, const float * weight, const float * center, int d, int position, int n_rot) {
    double sum = 0;
    for (int i = 0; i < d; ++i) { sum += (double) x[i]*x[i]; }
    std::vector<double> y(d), z(d);
    for (int i = 0; i < d; ++i) { y[i] = weight ? x[i]/sqrt(sum/d + EPS)*weight[i] : x[i]; }
    for (int i = 0; i < d/2; ++i) {
        const double theta = weight ? position*pow((double) THETA_SCALE, i) : 0.0;
        z[i]       = y[i]*cos(theta) - y[i + d/2]*sin(theta);
        z[i + d/2] = y[i]*sin(theta) + y[i + d/2]*cos(theta);
    }
    for (int i = 0; i < d && center; ++i) { z[i] -= center[i]; }
    for (int b = 0; b < d && n_rot > 1; b += n_rot) { hadamard(&z[b], n_rot); }
    return z;
}

struct inputs {
    std::vector<float> qkv, weight_q, weight_k, center, sinks;
    std::vector<half>  mask;
};

template <int D, typename LK, typename LV>
static void compare(const shape & s, const inputs & in, const std::vector<uint8_t> & k, const std::vector<uint8_t> & v, const std::vector<float> & out) {
    const int rk = LK::row_bytes(D), rv = LV::row_bytes(D), n_head = s.n_head_kv*s.gqa, n_rot = std::max(rotation<LK>(), rotation<LV>());
    double num = 0, den = 0, stored = 0, energy = 0;
    for (int h = 0; h < s.n_head_kv; ++h) {
        const uint8_t * row_k = &k[((size_t) s.position*s.n_head_kv + h)*rk], * row_v = &v[((size_t) (s.position - s.apart)*s.n_head_kv + h)*rv];
        const auto x = prepared(&in.qkv[(n_head + h)*D], in.weight_k.data(), s.center ? &in.center[h*D] : nullptr, D, s.position, n_rot);
        const auto y = prepared(&in.qkv[(n_head + s.n_head_kv + h)*D], nullptr, nullptr, D, s.position, n_rot);
        for (int d = 0; d < D; ++d) {
            stored += pow(x[d] - value<LK>(row_k, d), 2) + pow(y[d] - value<LV>(row_v, d), 2);
            energy += x[d]*x[d] + y[d]*y[d];
        }
    }
    for (int h = 0; h < n_head; ++h) {
        const auto q = prepared(&in.qkv[h*D], in.weight_q.data(), nullptr, D, s.position, n_rot);
        std::vector<double> score(s.n_kv), acc(D);
        double mx = s.sinks ? in.sinks[h] : -1e30;
        for (int j = 0; j <= s.position; ++j) {
            const uint8_t * row = &k[((size_t) j*s.n_head_kv + h/s.gqa)*rk];
            for (int d = 0; d < D; ++d) { score[j] += q[d]*value<LK>(row, d)*SCALE; }
            mx = std::max(mx, score[j]);
        }
        double sum = s.sinks ? exp(in.sinks[h] - mx) : 0;
        for (int j = 0; j <= s.position; ++j) {
            const uint8_t * row = &v[((size_t) j*s.n_head_kv + h/s.gqa)*rv];
            const double w = exp(score[j] - mx);
            sum += w;
            for (int d = 0; d < D; ++d) { acc[d] += w*value<LV>(row, d); }
        }
        for (int b = 0; b < D && s.rotate; b += 64) { hadamard(&acc[b], 64); }
        for (int d = 0; d < D; ++d) {
            num += pow(acc[d]/sum - out[h*D + d], 2);
            den += pow(acc[d]/sum, 2);
        }
    }
    const double error = sqrt(num/den), nmse = stored/energy;
    const bool ok = error < 2e-3 && nmse < 0.04; // NaN is not
    printf("  rel err %.2e, stored nmse %.4f %s", error, nmse, ok ? "ok" : "WRONG");
    failures += !ok;
}

// ---- one case ------------------------------------------------------------------------------------------------------------

template <int D, typename LK, typename LV> static void run(const shape & s, char * weights) {
    const int rk = LK::row_bytes(D), rv = LV::row_bytes(D), n_head = s.n_head_kv*s.gqa, n_rot = std::max(rotation<LK>(), rotation<LV>()), layers = weights ? LAYERS : 1;
    const auto hk = random_blocks<LK>((size_t) s.n_kv*s.n_head_kv*rk), hv = random_blocks<LV>((size_t) s.n_kv*s.n_head_kv*rv);
    inputs in;
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float> & v, size_t n, float mean) { v.resize(n); for (auto & x : v) { x = mean + normal(rng); } };
    fill(in.qkv, (size_t) (n_head + 2*s.n_head_kv)*D, 0.0f);
    fill(in.weight_q, D, 1.0f); fill(in.weight_k, D, 1.0f); fill(in.center, s.n_head_kv*D, 0.0f); fill(in.sinks, n_head, 0.0f);
    in.mask.resize(s.n_kv);
    for (int j = 0; j < s.n_kv; ++j) { in.mask[j] = __float2half(j > s.position ? -INFINITY : 0.0f); }

    float * proj = upload(in.qkv), * qkv = upload(in.qkv), * weight_q = upload(in.weight_q), * weight_k = upload(in.weight_k), * center = upload(in.center), * sinks = upload(in.sinks);
    half * mask = upload(in.mask);
    int32_t * pos = upload(std::vector<int32_t>{ s.position });
    int64_t * idx = upload(std::vector<int64_t>{ s.position });
    int32_t * idx_v = upload(std::vector<int32_t>{ s.position - s.apart });
    float * dst = upload(std::vector<float>((size_t) n_head*D, NAN)), * scratch = upload(std::vector<float>(128));
    std::vector<char *> dk, dv;
    for (int i = 0; i < layers; ++i) { dk.push_back((char *) upload(hk)); dv.push_back((char *) upload(hv)); }

    fattn_short_params p = {};
    fattn_decode_params & a = p.attention;
    a.scale = SCALE; a.n_head_log2 = 1; a.n_q = 1; a.n_kv = s.n_kv; a.n_head = n_head; a.gqa = s.gqa; a.n_groups = s.n_head_kv; a.seq_m = 1;
    a.nbk1 = s.n_head_kv*rk; a.nbk2 = rk; a.nbk3 = (int64_t) s.n_kv*a.nbk1;
    a.nbv1 = s.n_head_kv*rv; a.nbv2 = rv; a.nbv3 = (int64_t) s.n_kv*a.nbv1;
    a.mask = (const char *) mask; a.nbm3 = s.n_kv*2; a.dst = dst; a.rotate_dst = s.rotate; a.sinks = s.sinks ? sinks : nullptr;
    a.n_splits = s.splits;
    const int smem = fattn_short_share(p, D, rk, rv, s.gqa, s.n_kv, s.room);
    for (int i = 0; i < 3; ++i) {
        attention_source & source = p.input[i].source;
        source.x = qkv + (i == 0 ? 0 : n_head + (i - 1)*s.n_head_kv)*D;
        source.head_size = D;
        source.heads = init_fastdiv_values(i == 0 ? n_head : s.n_head_kv);
        p.input[i].n_rot = n_rot;
        if (i < 2) {
            source.weight = i == 0 ? weight_q : weight_k; source.eps = EPS; source.pos = pos; source.n_dims = D; source.neox = true;
            source.theta_scale = THETA_SCALE; source.freq_scale = 1.0f; source.magnitude = 1.0f;
        }
    }
    if (s.center) { p.input[1].source.center = center; }
    p.idx[0] = { idx, true };
    p.idx[1] = { idx_v, false };
    CHECK(cudaMalloc(&p.tickets, s.n_head_kv*4)); CHECK(cudaMemset(p.tickets, 0, s.n_head_kv*4));
    CHECK(cudaMalloc(&a.part, (size_t) n_head*a.n_splits*D*4)); CHECK(cudaMalloc(&a.meta, (size_t) n_head*a.n_splits*8));

    auto * kernel = fattn_short<D, LK, LV>;
    cudaFuncAttributes attr; CHECK(cudaFuncGetAttributes(&attr, kernel));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    const auto attention = [&](cudaStream_t stream, int layer) {
        a.k = dk[layer]; a.v = dv[layer];
        launch(stream, kernel, dim3(a.n_splits, s.n_head_kv, 1), fattn_short_warps(D)*32, smem, p);
    };
    attention(0, 0);
    CHECK(cudaGetLastError()); CHECK(cudaDeviceSynchronize());
    printf("%s/%s D=%d kv=%d position=%d heads=%dx%d splits=%d%s%s%s regs=%d local=%zu smem=%d", format<LK>::name(), format<LV>::name(), D, s.n_kv, s.position, s.n_head_kv, s.gqa, s.splits,
        s.rotate ? " rot" : "",  s.sinks ? " sinks" : "", s.center ? " center" : "", attr.numRegs, attr.localSizeBytes, smem);
    if (attr.localSizeBytes > 0) { printf("  SPILLS"); ++failures; } // an access to local memory is a cold one: .9 us a layer
    std::vector<uint8_t> k(hk.size()), v(hv.size());
    std::vector<float> out((size_t) n_head*D);
    CHECK(cudaMemcpy(k.data(), dk[0], k.size(), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(v.data(), dv[0], v.size(), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(out.data(), dst, out.size()*4, cudaMemcpyDeviceToHost));
    compare<D, LK, LV>(s, in, k, v, out);
    if (weights) {
        const double without = time_layers(weights, proj, qkv, scratch, in.qkv.size(), [](cudaStream_t, int) {});
        const double with    = time_layers(weights, proj, qkv, scratch, in.qkv.size(), attention);
        const double twice   = time_layers(weights, proj, qkv, scratch, in.qkv.size(), [&](cudaStream_t stream, int layer) { attention(stream, layer); attention(stream, layer); });
        printf("  %.2f us a layer (of %.2f), %.2f once more", with - without, with, twice - with);
    }
    printf("\n");
    for (int i = 0; i < layers; ++i) { cudaFree(dk[i]); cudaFree(dv[i]); }
    for (void * x : std::initializer_list<void *>{ proj, qkv, weight_q, weight_k, center, sinks, mask, pos, idx, idx_v, dst, scratch, p.tickets, a.part, a.meta }) { cudaFree(x); }
}

template <typename LK, typename LV> static void check_pair() {
    run<128, LK, LV>({  256, 8, 4,   31,    1, true,  false, false }, nullptr);
    run<128, LK, LV>({  256, 8, 4,  255,    1, true,  true,  true  }, nullptr);
    run<128, LK, LV>({ 1024, 8, 4,  700,    4, true,  false, false }, nullptr);
    run<128, LK, LV>({ 8192, 8, 4, 8000,    8, false, true,  false, 0, 0 }, nullptr);
    run< 64, LK, LV>({  512, 8, 8,  300,    2, true,  false, true  }, nullptr);
    run<128, LK, LV>({ 1024, 8, 4,  600,    4, true,  false, false, 90 }, nullptr);
    run<128, LK, LV>({ 4096, 8, 8, 4000,    4, true,  false, false }, nullptr);
    run<256, LK, LV>({ 2048, 2, 8, 2000,    2, true,  true,  true  }, nullptr);
    run<128, LK, LV>({ 2304, 8, 4, 2100,    4, true,  false, false }, nullptr);
    run<128, LK, LV>({ 8448, 8, 4, 8193,   16, true,  false, false }, nullptr);
    run< 64, LK, LV>({ 1280, 8, 8, 1030,    3, true,  true,  false, 300 }, nullptr);
    run<256, LK, LV>({  512, 4, 4,  400,    2, true,  false, false, 70 }, nullptr);
    run< 64, LK, LV>({ 4096, 8, 7, 4000,    4, true,  false, false }, nullptr);
    run<256, LK, LV>({  256, 4, 2,  100,    2, true,  false, false }, nullptr);
    run< 64, LK, LV>({  256, 8, 1,    0,    1, true,  false, false }, nullptr);
}

// two tiles, also with more pieces than warps, and three, the token's rows in the first, the last and one that is not fetched yet; V elsewhere than K;
// runs that differ; heads of each size; a block of four tiles that makes no rows
template <typename LK, typename LV> static void check_small() {
    run<128, LK, LV>({  512, 4, 2,  300,    1, true,  true,  true  }, nullptr);
    run<128, LK, LV>({ 1040, 4, 2, 1000,    2, true,  false, false, 211 }, nullptr);
    run<128, LK, LV>({  768, 4, 3,  760,    1, true,  true,  false, 700, 0 }, nullptr);
    run< 64, LK, LV>({  600, 8, 8,  555,    2, true,  false, true  }, nullptr);
    run<256, LK, LV>({  400, 2, 2,  200,    3, false, true,  false, 150 }, nullptr);
    run<128, LK, LV>({ 1552, 4, 2, 1500,    2, true,  false, false, 0, 0 }, nullptr);
}

template <typename LK, typename LV> static void time_pair(char * weights) {
    run<128, LK, LV>({  256, 8, 4,   20,    1, true, false, false }, weights);
    run<128, LK, LV>({  256, 8, 4,  250,    1, true, false, false }, weights);
    run<128, LK, LV>({ 8192, 8, 4, 8180,   16, true, false, false }, weights);
    run<128, LK, LV>({ 8448, 8, 4, 8200,   16, true, false, false }, weights);
    run<128, LK, LV>({ 4352, 8, 4, 4104,   16, true, false, false }, weights);
}

int main(int argc, char ** argv) {
    if (argc > 1 && !strcmp(argv[1], "small")) {
        check_small<load_turbo3, load_turbo3>();
        check_small<load_q8_0,   load_turbo4>();
        check_small<load_f16,    load_q5_0>();
        printf(failures ? "WRONG: %d of the cases\n" : "all ok\n", failures);
        return failures != 0;
    }
    check_pair<load_turbo3, load_turbo3>();
#ifndef ONE_PAIR
    check_pair<load_q8_0,   load_turbo4>();
    check_pair<load_q5_0,   load_q4_0>();
    check_pair<load_f16,    load_turbo4>();
#endif
    if (argc < 2 || strcmp(argv[1], "check") != 0) {
        char * weights;
        CHECK(cudaMalloc(&weights, LAYERS*(PRODUCTS[0] + PRODUCTS[1] + PRODUCTS[2] + PRODUCTS[3])));
        time_pair<load_turbo3, load_turbo3>(weights);
#ifndef ONE_PAIR
        time_pair<load_turbo4, load_turbo4>(weights);
        time_pair<load_q8_0,   load_q8_0>(weights);
#endif
    }
    printf(failures ? "WRONG: %d of the cases\n" : "all ok\n", failures);
    return failures != 0;
}
