// fattn-prompt-kernel.cuh, thread by thread on the CPU, against float64.

#include "fattn-prompt-kernel.cuh"

#include "checks.h"

constexpr double TOLERANCE = 2e-3; // of the largest output: weights and queries are halves

struct shape {
    const char * name;
    int heads_kv, gqa, tokens, n_kv, splits;
    bool sinks, limits; // limits: KV_max, of each block's tokens
    int sequences = 1;

    int heads() const { return heads_kv*gqa; }
};

struct input {
    std::vector<float> q;           // [sequence][head][token][value]
    std::vector<half>  k, v;        // [sequence][position][head][value]
    std::vector<half>  mask;        // [sequence][token][position]
    std::vector<float> sinks;       // [head]
};

static std::vector<half> halves(const std::vector<float> & x) { return std::vector<half>(x.begin(), x.end()); }

// a prompt at the end of the cache: each token sees all up to itself, some positions less (as no cache's mask says), the second
// sequence's ten fewer
static input make_input(const shape & s, int D) {
    const size_t n_q = (size_t) s.sequences*s.heads()*s.tokens*D, n_k = (size_t) s.sequences*s.n_kv*s.heads_kv*D;
    input in = { host::normal_values(n_q, 1), halves(host::normal_values(n_k, 2)), halves(host::normal_values(n_k, 3)), {}, host::normal_values((size_t) s.heads(), 4) };
    for (float & x : in.q) { x = (float) (half) (2*x); }
    for (int seq = 0; seq < s.sequences; ++seq) {
        for (int t = 0; t < s.tokens; ++t) {
            const int last = s.n_kv - 40 - s.tokens + t - 10*seq;
            for (int i = 0; i < s.n_kv; ++i) { in.mask.push_back(i > last ? (half) -INFINITY : (half) (t == 5 && i % 9 == 4 ? -1.5f : 0.0f)); }
        }
    }
    return in;
}

static std::vector<double> reference(const shape & s, const input & in, int D) {
    std::vector<double> out((size_t) s.sequences*s.tokens*s.heads()*D);
    for (int h = 0; h < s.heads(); ++h) {
        for (int st = 0; st < s.sequences*s.tokens; ++st) {
            const int seq = st/s.tokens, t = st % s.tokens;
            double * y = &out[((size_t) st*s.heads() + h)*D];
            double total = s.sinks ? exp(in.sinks[h]) : 0.0;
            for (int i = 0; i < s.n_kv; ++i) {
                const size_t row = (((size_t) seq*s.n_kv + i)*s.heads_kv + h/s.gqa)*D;
                double dot = 0;
                for (int d = 0; d < D; ++d) { dot += (double) in.q[(((size_t) seq*s.heads() + h)*s.tokens + t)*D + d]*(double) in.k[row + d]; }
                const double p = exp(dot/sqrt((double) D) + (double) in.mask[(size_t) st*s.n_kv + i]);
                total += p;
                for (int d = 0; d < D; ++d) { y[d] += p*(double) in.v[row + d]; }
            }
            for (int d = 0; d < D; ++d) { y[d] /= total; }
        }
    }
    return out;
}

// the launch, and what flash_attn_combine_results does with the parts of the splits
template <int D, int COLUMNS>
static std::vector<double> run(const shape & s, const input & in) {
    constexpr int TOKENS = FATTN_PROMPT_ROWS/COLUMNS;
    const int heads = s.heads(), nb01 = D*4, nb02 = s.tokens*nb01, nb12 = D*2, nb11 = s.heads_kv*nb12;
    const size_t rows = (size_t) s.sequences*s.tokens*heads;
    std::vector<float>  parts(rows*s.splits*D, NAN);
    std::vector<float2> meta(rows*s.splits);
    blockDim = { WARP_SIZE, FATTN_PROMPT_WARPS, 1 };
    gridDim  = { (unsigned) (s.tokens + TOKENS - 1)/TOKENS, (unsigned) s.splits, (unsigned) ((s.gqa + COLUMNS - 1)/COLUMNS*s.heads_kv*s.sequences) };
    std::vector<int> limits;
    for (unsigned i = 0; i < s.sequences*gridDim.x; ++i) { // in tiles
        const int seen = s.n_kv - 40 - s.tokens + std::min((int) (i % gridDim.x + 1)*TOKENS, s.tokens) - 10*(int) (i/gridDim.x);
        limits.push_back((seen + FATTN_PROMPT_TILE - 1)/FATTN_PROMPT_TILE*FATTN_PROMPT_TILE);
    }
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
                memset(shared_memory, 0xff, sizeof(shared_memory)); // NaN: a GPU does not clear it
                forget_block();
                host::launch(metal::uint3(1, 1, 1), metal::uint3(WARP_SIZE, FATTN_PROMPT_WARPS, 1), 16, [&](const host::thread_place &) {
                    k_fattn_prompt<D, COLUMNS>((const char *) in.q.data(), (const char *) in.k.data(), (const char *) in.v.data(),
                        (const char *) in.mask.data(), s.sinks ? (const char *) in.sinks.data() : nullptr, s.limits ? limits.data() : nullptr, parts.data(), meta.data(),
                        1/sqrtf((float) D), 0, 1, 1, 1, 0.0f, D, uint3{ 0, 0, (uint32_t) s.tokens }, heads, s.sequences, nb01, nb02, heads*nb02,
                        D, s.n_kv, s.heads_kv, s.sequences, nb11, nb12, (int64_t) s.n_kv*nb11, nb11, nb12, (int64_t) s.n_kv*nb11,
                        s.tokens, 1, s.sequences, s.n_kv*2, s.tokens*s.n_kv*2, (int64_t) s.tokens*s.n_kv*2);
                });
            }
        }
    }
    std::vector<double> out(rows*D);
    for (size_t row = 0; row < rows; ++row) {
        double most = -INFINITY, total = 0;
        for (int i = 0; i < s.splits; ++i) { most = s.splits == 1 ? 0 : fmax(most, meta[row*s.splits + i].x); }
        for (int i = 0; i < s.splits; ++i) {
            const double weight = s.splits == 1 ? 1 : exp(meta[row*s.splits + i].x - most);
            total += s.splits == 1 ? 1 : weight*meta[row*s.splits + i].y;
            for (int d = 0; d < D; ++d) { out[row*D + d] += weight*parts[(row*s.splits + i)*D + d]; }
        }
        for (int d = 0; d < D; ++d) { out[row*D + d] /= total; }
    }
    return out;
}

template <int D, int COLUMNS> static void check(const shape & s) {
    const input in = make_input(s, D);
    host::report_error(std::string(s.name) + "_d" + std::to_string(D), run<D, COLUMNS>(s, in), reference(s, in, D), TOLERANCE);
}

int main() {
    check<128, 4>({ "gqa4",     1, 4, 40, 192, 1, false, false });
    check<128, 4>({ "split",    2, 4, 33, 256, 2, true,  false });
    check< 64, 4>({ "limits",   1, 4, 64, 256, 1, false, true  });
    check<128, 1>({ "alone",    2, 1, 70, 128, 1, true,  false });
    check< 64, 2>({ "two",      1, 2, 70, 192, 2, false, false });
    check< 64, 8>({ "seven",    1, 7, 20, 192, 1, true,  false });
    check< 64, 8>({ "groups",   2, 12, 17, 128, 2, true, false });
    check< 64, 4>({ "sequences", 2, 4, 33, 192, 1, true, true, 2 });
    check< 64, 1>({ "sequences_alone", 1, 1, 130, 192, 2, false, false, 2 });
    return host::failures() != 0;
}
