// Times FLASH_ATTN_EXT alone, in the CPU time of one thread, on the shape of SmolLM2-135M: 9 heads of 64 on 3 KV heads, 4096
// positions, one query (decode) and 512 queries (prefill). Build and run it against a build of the patched tree:
//   g++ -O2 -I TREE/ggml/include tests/native/attention_bench.cpp -o bench -L TREE/build-cpu/bin -lggml -lggml-cpu -lggml-base
//   LD_LIBRARY_PATH=TREE/build-cpu/bin ./bench

#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <random>
#include <vector>

static constexpr int HEAD = 64, KV_HEADS = 3, GQA = 3, POSITIONS = 4096;

static double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9*t.tv_nsec;
}

static std::vector<float> gaussian(size_t n, int seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    std::generate(x.begin(), x.end(), [&] { return normal(engine); });
    return x;
}

// a cache as llama.cpp lays it out: all heads of a position side by side
static ggml_tensor * cache(ggml_context * ctx, ggml_type type, int seed) {
    ggml_tensor * c = ggml_new_tensor_2d(ctx, type, HEAD*KV_HEADS, POSITIONS);
    const std::vector<float> x = gaussian((size_t) HEAD*KV_HEADS*POSITIONS, seed);
    ggml_quantize_chunk(type, x.data(), c->data, 0, POSITIONS, HEAD*KV_HEADS, nullptr);
    return ggml_view_4d(ctx, c, HEAD, POSITIONS, KV_HEADS, 1, ggml_row_size(type, HEAD*KV_HEADS), ggml_row_size(type, HEAD), ggml_nbytes(c), 0);
}

static double milliseconds(ggml_type type, int queries) {
    ggml_context * ctx = ggml_init({ (size_t) 1 << 28, nullptr, false });
    ggml_tensor * q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, HEAD, queries, KV_HEADS*GQA, 1);
    const std::vector<float> x = gaussian(ggml_nelements(q), 1);
    std::copy(x.begin(), x.end(), (float *) q->data);
    ggml_tensor * mask = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, POSITIONS, queries, 1, 1);
    for (int i = 0; i < queries; ++i) {
        for (int j = 0; j < POSITIONS; ++j) {
            ((ggml_fp16_t *) mask->data)[(size_t) i*POSITIONS + j] = ggml_fp32_to_fp16(j <= POSITIONS - queries + i ? 0.0f : -INFINITY);
        }
    }
    ggml_tensor * out = ggml_flash_attn_ext(ctx, q, cache(ctx, type, 2), cache(ctx, type, 3), mask, 0.125f, 0, 0);
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_cplan plan = ggml_graph_plan(graph, 1, nullptr);
    std::vector<uint8_t> work(plan.work_size + 64);
    plan.work_data = work.data();

    const int runs = queries == 1 ? 100 : 2;
    ggml_graph_compute(graph, &plan);
    double best = INFINITY;
    for (int i = 0; i < 5; ++i) {
        const double start = cpu_seconds();
        for (int r = 0; r < runs; ++r) {
            ggml_graph_compute(graph, &plan);
        }
        best = std::min(best, (cpu_seconds() - start)/runs);
    }
    ggml_free(ctx);
    return 1e3*best;
}

int main() {
    printf("%-8s %12s %14s\n", "K and V", "1 query, ms", "512 queries, ms");
    for (ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO3T }) {
        printf("%-8s %12.3f %14.1f\n", ggml_type_name(type), milliseconds(type, 1), milliseconds(type, 512));
    }
    return 0;
}
