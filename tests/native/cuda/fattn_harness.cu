// Checks and times fattn-decode-kernel.cuh alone, on random packed K/V: build with
//   nvcc -O3 -std=c++17 -arch=sm_90 -use_fast_math -I ggml_kernels/common -I ggml_kernels/cuda tests/native/cuda/fattn_harness.cu
// (or -gencode arch=compute_80,code=compute_80 for the path without bulk copies). "check" leaves out the timing (for
// compute-sanitizer), "small" is for a CPU that runs the threads one by one (tests/cuda_host), "profile" does nothing but one kernel. The check is against float64 on the host; the timing rotates over more caches than the L2 holds.

#include <cstdint>

#include <cuda_fp16.h>

#define ggml_half uint16_t
#include "fattn-decode-kernel.cuh"

#include "cache_formats.cuh"

#include <algorithm>
#include <climits>

static int failures = 0;

// ---- one case ------------------------------------------------------------------------------------------------------------

struct shape {
    int n_kv, n_head_kv, gqa, n_q;
    bool rotate, sinks; // rotate: the output
    float softcap, max_bias;
    int splits = INT_MAX; // at most: with few, a block has more tiles than stages
    bool packed = false;  // queries are packed; in a check, by the launch ahead, which is late and stores positions of K and of V as well
};

struct late_bytes {
    char * to;
    const char * from;
    int n;
};

// Whoever reads these without waiting for them gets what was there.
static __global__ void store_late(late_bytes k, late_bytes v, late_bytes q) {
    fattn_decode_let_successor_start();
    const long long start = clock64();
    while (clock64() - start < 40000) {}
    for (const late_bytes & b : { k, v, q }) {
        for (int i = threadIdx.x; i < b.n; i += blockDim.x) { b.to[i] = b.from[i]; }
    }
}

template <int D> static __global__ void pack_rows(const float * q, char * packed, float unit) {
    float x[D/32];
    load_row<D>(x, q + blockIdx.x*D, threadIdx.x);
    pack_query_int8<D>(packed + blockIdx.x*packed_query_bytes(D), x, peak_of_row<D>(x), unit, threadIdx.x);
}

template <int D, typename LK, typename LV>
static double reference_error(const shape & s, const fattn_decode_params & p, const std::vector<uint8_t> & hk, const std::vector<uint8_t> & hv,
        const std::vector<float> & hq, const std::vector<half> & hm, const std::vector<float> & sinks, const std::vector<float> & out) {
    const int rk = LK::row_bytes(D), rv = LV::row_bytes(D), n_head = s.n_head_kv*s.gqa, n_mask = p.nbm1/2;
    double num = 0, den = 0;
    std::vector<double> score(s.n_kv), acc(D), q(D);
    for (int h = 0; h < n_head; ++h) for (int i = 0; i < s.n_q; ++i) {
        for (int d = 0; d < D; ++d) { q[d] = hq[((size_t) i*n_head + h)*D + d]; }
        const double slope = s.max_bias == 0.0f ? 1.0 : h < p.n_head_log2 ? pow(p.m0, h + 1) : pow(p.m1, 2*(h - p.n_head_log2) + 1);
        double mx = s.sinks ? sinks[h] : -1e30;
        for (int j = 0; j < s.n_kv; ++j) {
            const float m = __half2float(hm[(size_t) i*n_mask + j]);
            const uint8_t * row = &hk[((size_t) j*s.n_head_kv + h/s.gqa)*rk];
            double x = 0; for (int d = 0; d < D; ++d) { x += q[d]*value<LK>(row, d); }
            x *= p.scale;
            if (s.softcap != 0.0f) { x = s.softcap*tanh(x/s.softcap); }
            score[j] = m < -1e4f ? -1e30 : x + slope*m;
            mx = std::max(mx, score[j]);
        }
        double sum = s.sinks ? exp(sinks[h] - mx) : 0; std::fill(acc.begin(), acc.end(), 0.0);
        for (int j = 0; j < s.n_kv; ++j) if (score[j] > -1e29) {
            const double w = exp(score[j] - mx); sum += w;
            const uint8_t * row = &hv[((size_t) j*s.n_head_kv + h/s.gqa)*rv];
            for (int d = 0; d < D; ++d) { acc[d] += w*value<LV>(row, d); }
        }
        if (s.rotate) { for (int b = 0; b < D; b += 64) { hadamard(&acc[b], 64); } }
        for (int d = 0; d < D; ++d) {
            const double e = acc[d]/sum - out[((size_t) i*n_head + h)*D + d];
            num += e*e; den += acc[d]/sum*acc[d]/sum;
        }
    }
    return sqrt(num/den);
}

template <int D, typename LK, typename LV, int NT, int HEADS>
static void run(const shape & s, bool check, int sets) {
    const int rk = LK::row_bytes(D), rv = LV::row_bytes(D), n_head = s.n_head_kv*s.gqa;
    const size_t bk = (size_t) s.n_kv*s.n_head_kv*rk, bv = (size_t) s.n_kv*s.n_head_kv*rv;
    const auto hk = random_blocks<LK>(bk), hv = random_blocks<LV>(bv);
    std::vector<float> hq((size_t) s.n_q*n_head*D), sinks(n_head);
    std::normal_distribution<float> normal;
    for (auto & x : hq) { x = normal(rng); }
    for (auto & x : sinks) { x = 3*normal(rng); }
    const int n_mask = (s.n_kv + 255)/256*256; // rows padded, as llama.cpp's are
    std::vector<half> hm((size_t) s.n_q*n_mask);
    for (int i = 0; i < s.n_q; ++i) for (int j = 0; j < s.n_kv; ++j) {
        hm[(size_t) i*n_mask + j] = __float2half(j > s.n_kv - 1 - 3 - (s.n_q - 1 - i) ? -INFINITY : s.max_bias != 0.0f ? (j - s.n_kv)/16.0f : 0.0f);
    }

    fattn_decode_params p = {};
    p.scale = 1.0f/sqrtf(D);
    p.softcap = s.softcap; p.max_bias = s.max_bias;
    p.n_head_log2 = 1 << (int) floorf(log2f(n_head));
    p.m0 = powf(2.0f, -s.max_bias/p.n_head_log2); p.m1 = powf(2.0f, -s.max_bias/2/p.n_head_log2);
    p.n_q = s.n_q; p.n_kv = s.n_kv; p.n_head = n_head; p.gqa = s.gqa;
    const int per_warp = block_shape<D, LK, LV, HEADS>::PER_WARP;
    p.n_heads = HEADS ? HEADS : std::min(FATTN_DECODE_WARPS, s.n_head_kv); p.n_parts = FATTN_DECODE_WARPS*per_warp/p.n_heads; p.n_groups = s.n_head_kv/p.n_heads;
    p.n_stages = HEADS || rk + rv < 280 ? 3 : 2;
    const int pad_k = fattn_decode_padding(p.n_heads*rk), pad_v = fattn_decode_padding(p.n_heads*rv);
    p.whole_k = p.n_groups == 1 && pad_k == 0; p.whole_v = p.n_groups == 1 && pad_v == 0;
    p.stride_k = p.n_heads*rk + pad_k; p.stride_v = p.n_heads*rv + pad_v;
    p.nbq1 = n_head*D*4; p.nbq2 = D*4;
    p.nbk1 = s.n_head_kv*rk; p.nbk2 = rk; p.nbv1 = s.n_head_kv*rv; p.nbv2 = rv; p.nbm1 = n_mask*2; p.seq_m = 1;
    const int tile = p.n_parts*fattn_decode_steps(per_warp*rk, per_warp*rv)*16, columns = (s.n_q*s.gqa + NT*8 - 1)/(NT*8);
    const int stage = tile*(p.stride_k + p.stride_v) + fattn_decode_mask_bytes(NT, tile);
    const int smem = FATTN_DECODE_HEADER + (p.n_stages - 1)*stage + std::max(stage, p.n_heads*p.n_parts*NT*8*packed_query_bytes(D)) + 16;
    const int threads = p.n_heads/per_warp*p.n_parts*32;

    auto * kernel = fattn_decode<D, LK, LV, NT, HEADS>;
    cudaFuncAttributes attr; CHECK(cudaFuncGetAttributes(&attr, kernel));
    int most; CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    int per_sm = 0, sms = 0; CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, smem));
    CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    const int tiles = (s.n_kv + tile - 1)/tile;
    p.n_splits = std::max(1, std::min({ tiles, per_sm*sms/(p.n_groups*columns), s.splits }));
    const int parts = p.n_splits*(block_shape<D, LK, LV, HEADS>::ONE_PART ? 1 : p.n_parts);

    std::vector<const char *> dk(sets), dv(sets);
    for (int i = 0; i < sets; ++i) { dk[i] = (const char *) upload(hk); dv[i] = (const char *) upload(hv); }
    p.q = (const char *) upload(hq); p.mask = (const char *) upload(hm);
    float * d_sinks = upload(sinks), * dst = upload(std::vector<float>(hq.size(), NAN));
    p.dst = dst; p.sinks = s.sinks ? d_sinks : nullptr; p.rotate_dst = s.rotate;
    CHECK(cudaMalloc(&p.part, (size_t) n_head*s.n_q*parts*D*4)); CHECK(cudaMalloc(&p.meta, (size_t) n_head*s.n_q*parts*8));
    CHECK(cudaMemset(p.part, 0xff, (size_t) n_head*s.n_q*parts*D*4));
    late_bytes late_q = {};
    if constexpr (!LK::HALF) {
        if (s.packed) {
            late_q.n = n_head*packed_query_bytes(D);
            CHECK(cudaMalloc(&late_q.from, late_q.n)); CHECK(cudaMalloc(&late_q.to, late_q.n));
            pack_rows<D><<<n_head, 32>>>((const float *) p.q, (char *) late_q.from, LK::UNIT);
            p.packed_q = check ? late_q.to : late_q.from;
        }
    }
    const int at_k = s.n_kv - 5, at_v = std::max(0, s.n_kv - 75); // the mask hides no more than the last three; in two tiles
    const size_t late_k = at_k*(size_t) p.nbk1, late_v = at_v*(size_t) p.nbv1;
    const char * row_k = (const char *) upload(std::vector<uint8_t>(hk.begin() + late_k, hk.end()));
    const char * row_v = (const char *) upload(std::vector<uint8_t>(hv.begin() + late_v, hv.end()));
    const int64_t * idx_k = upload(std::vector<int64_t>{ at_k });
    const int32_t * idx_v = upload(std::vector<int32_t>{ at_v });
    fattn_decode_token token = {};
    const bool late = s.packed && check;
    if (late) {
        token = { { { idx_k, true }, { idx_v, false } } };
        CHECK(cudaMemset((char *) dk[0] + late_k, 0x7f, p.nbk1)); // NaN
        CHECK(cudaMemset((char *) dv[0] + late_v, 0x7f, p.nbv1));
        if (late_q.n > 0) { CHECK(cudaMemset(late_q.to, 0x7f, late_q.n)); }
        CHECK(cudaDeviceSynchronize());
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    auto launch = [&](int set) {
        p.k = dk[set]; p.v = dv[set];
        if (late) {
            store_late<<<1, 128>>>({ (char *) p.k + late_k, row_k, (int) p.nbk1 }, { (char *) p.v + late_v, row_v, (int) p.nbv1 }, late_q);
        }
        cudaLaunchConfig_t config = {};
        config.gridDim          = dim3(p.n_splits, p.n_groups*columns);
        config.blockDim         = dim3(threads);
        config.dynamicSmemBytes = smem;
        config.attrs            = &early;
        config.numAttrs         = late;
        CHECK(cudaLaunchKernelEx(&config, kernel, fattn_decode_params(p), token));
        fattn_decode_combine<D><<<dim3(n_head*s.n_q, D/64), parts > 64 ? 1024 : 256, parts*4>>>(p.part, p.meta, dst, p.sinks, parts, n_head, s.n_q, s.rotate);
    };
    launch(0);
    CHECK(cudaGetLastError()); CHECK(cudaDeviceSynchronize());
    printf("%s/%s D=%d kv=%d heads=%dx%d q=%d%s%s cap=%g bias=%g NT=%d HEADS=%d warps=%dx%d tile=%d stages=%d%s splits=%d regs=%d local=%zu smem=%d occ=%d", format<LK>::name(), format<LV>::name(),
        D, s.n_kv, s.n_head_kv, s.gqa, s.n_q, s.rotate ? " rot" : "", s.sinks ? " sinks" : "", s.softcap, s.max_bias, NT, HEADS, p.n_heads, p.n_parts, tile, p.n_stages, p.whole_k ? " whole" : "",
        p.n_splits, attr.numRegs, attr.localSizeBytes, smem, per_sm);
    if (check) {
        std::vector<float> out(hq.size()); CHECK(cudaMemcpy(out.data(), dst, out.size()*4, cudaMemcpyDeviceToHost));
        const double e = reference_error<D, LK, LV>(s, p, hk, hv, hq, hm, sinks, out);
        const bool ok = e < 2e-3; // NaN is not
        printf("  rel err %.2e %s", e, ok ? "ok" : "WRONG");
        failures += !ok;
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
    for (int i = 0; i < sets; ++i) { cudaFree((void *) dk[i]); cudaFree((void *) dv[i]); }
    for (const void * x : std::initializer_list<const void *>{ row_k, row_v, idx_k, idx_v, late_q.to, late_q.from }) { cudaFree((void *) x); }
    cudaFree((void *) p.q); cudaFree((void *) p.mask); cudaFree(p.part); cudaFree(p.meta); cudaFree(dst); cudaFree(d_sinks);
}

template <typename LK, typename LV> static void check_pair() {
    run<128, LK, LV, 1, 8>({ 1000, 8, 4, 1, true,  false, 0.0f, 0.0f }, true, 1);
    run<128, LK, LV, 1, 8>({ 1000, 8, 4, 2, true,  true,  0.0f, 0.0f, 5 }, true, 1);
    run<128, LK, LV, 1, 8>({ 1000, 8, 4, 1, true,  true,  0.0f, 0.0f, 4, true }, true, 1);
    run<128, LK, LV, 1, 8>({ 4096, 8, 4, 1, true,  false, 0.0f, 0.0f, INT_MAX, true }, true, 1);
    run<128, LK, LV, 2, 0>({ 1000, 4, 4, 7, true,  true,  0.0f, 0.0f }, true, 1);
    run<128, LK, LV, 1, 0>({ 1000, 4, 4, 1, true,  false, 0.0f, 0.0f, 3, true }, true, 1);
    run< 64, LK, LV, 2, 0>({ 1000, 2, 5, 3, true,  true,  0.0f, 0.0f, 2 }, true, 1);
    run< 64, LK, LV, 1, 4>({ 1000, 4, 8, 1, true,  true,  0.0f, 0.0f, 2, true }, true, 1);
    run< 64, LK, LV, 1, 4>({ 1024, 4, 2, 3, true,  false, 5.0f, 0.0f }, true, 1);
    run< 64, LK, LV, 1, 8>({ 1000, 16, 7, 1, true, false, 0.0f, 8.0f }, true, 1);
    run< 64, LK, LV, 1, 8>({  999, 8, 4, 2, true,  true,  0.0f, 0.0f, 1 }, true, 1);
    run< 64, LK, LV, 1, 0>({ 1000, 3, 3, 1, true,  false, 0.0f, 0.0f, INT_MAX, true }, true, 1);
    run< 64, LK, LV, 1, 0>({ 1000, 3, 3, 1, true,  false, 0.0f, 0.0f, 1 }, true, 1);
    run<256, LK, LV, 2, 0>({  100, 2, 9, 1, true,  false, 0.0f, 0.0f, INT_MAX, true }, true, 1);
    run<256, LK, LV, 1, 0>({  333, 2, 8, 1, false, true,  5.0f, 0.0f, 1 }, true, 1);
    run< 64, LK, LV, 2, 0>({   77, 5, 6, 2, false, false, 0.0f, 8.0f }, true, 1);
}

// more tiles than there are stages; a token's rows and queries that the launch ahead stores late; whole runs of bytes; softcap
template <typename LK, typename LV> static void check_small() {
    run<128, LK, LV, 1, 8>({ 200, 8, 4, 1, true,  true,  0.0f, 0.0f, 1 }, true, 1);
    run<128, LK, LV, 1, 8>({  60, 8, 4, 1, true,  false, 0.0f, 0.0f, 1, true }, true, 1);
    run< 64, LK, LV, 2, 0>({ 300, 2, 5, 3, true,  true,  0.0f, 0.0f, 1 }, true, 1);
    run< 64, LK, LV, 1, 4>({ 300, 4, 3, 2, true,  true,  0.0f, 8.0f, 1 }, true, 1);
    run< 64, LK, LV, 1, 4>({ 300, 4, 2, 1, true,  false, 0.0f, 0.0f, 1, true }, true, 1);
    run< 64, LK, LV, 1, 8>({ 130, 16, 2, 1, true, false, 0.0f, 0.0f, 1, true }, true, 1);
    run<256, LK, LV, 1, 0>({ 150, 2, 8, 1, false, true,  5.0f, 0.0f, 1 }, true, 1);
}

template <int D, typename LK, typename LV, int HEADS> static void time_pair(int n_head_kv, int gqa, int sets) {
    run<D, LK, LV, 1, HEADS>({ 131072, n_head_kv, gqa, 1, true, false, 0.0f, 0.0f, INT_MAX, true }, false, sets);
}

int main(int argc, char ** argv) {
    const char * only = argc > 1 ? argv[1] : "";
    if (!strcmp(only, "profile")) {
        time_pair<128, load_turbo3, load_turbo3, 8>(8, 4, 1);
        return 0;
    }
    if (!strcmp(only, "small")) {
        check_small<load_turbo3, load_turbo3>();
        check_small<load_q8_0,   load_turbo4>();
        check_small<load_f16,    load_q5_0>();
        printf(failures ? "WRONG: %d of the cases\n" : "all ok\n", failures);
        return failures != 0;
    }
    check_pair<load_turbo3, load_turbo3>();
    check_pair<load_q8_0,   load_turbo4>();
    check_pair<load_f16,    load_q5_0>();
    check_pair<load_turbo4, load_f16>();
    check_pair<load_q5_0,   load_q4_0>();
    check_pair<load_q4_0,   load_q8_0>();

    if (!strcmp(only, "check")) {
        printf(failures ? "WRONG: %d of the cases\n" : "all ok\n", failures);
        return failures != 0;
    }

    time_pair<128, load_turbo3, load_turbo3, 8>(8, 4, 6);
    time_pair<128, load_turbo4, load_turbo4, 8>(8, 4, 6);
    time_pair<128, load_q8_0,   load_turbo3, 8>(8, 4, 6);
    time_pair<128, load_q8_0,   load_q8_0,   8>(8, 4, 4);
    time_pair<128, load_q4_0,   load_q4_0,   8>(8, 4, 6);
    time_pair<128, load_f16,    load_turbo4, 0>(8, 4, 4);
    time_pair< 64, load_turbo3, load_turbo3, 4>(4, 8, 16);
    time_pair< 64, load_turbo4, load_turbo4, 4>(4, 8, 16);
    time_pair< 64, load_q8_0,   load_q8_0,   4>(4, 8, 12);
    time_pair< 64, load_turbo3, load_turbo3, 8>(16, 8, 6);
    time_pair< 64, load_turbo3, load_turbo3, 0>(4, 8, 16);
    time_pair<256, load_turbo3, load_turbo3, 0>(4, 4, 6);
    printf(failures ? "WRONG: %d of the cases\n" : "all ok\n", failures);
    return failures != 0;
}
