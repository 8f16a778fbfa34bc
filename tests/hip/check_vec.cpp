// Upstream's vec kernel with our cache types, in its forms for AMD GPUs, run on the CPU against float64. RDNA: two threads
// share a row of K; else (CDNA) four. V_DOT2_F32_F16_AVAILABLE: V is summed in halves, as on all of both; else in floats.

#include "fattn-vec.cuh"

#include "checks.h"

template <ggml_type type> struct type_of;
template <> struct type_of<GGML_TYPE_F16>    { static constexpr int index = 0; };
template <> struct type_of<GGML_TYPE_Q8_0>   { static constexpr int index = 1; };
template <> struct type_of<GGML_TYPE_TURBO4> { static constexpr int index = 2; };
template <> struct type_of<GGML_TYPE_TURBO3> { static constexpr int index = 3; };

#ifdef V_DOT2_F32_F16_AVAILABLE
constexpr double TOLERANCE = 3e-3; // of the largest output: sums of 128 products in halves
#else
constexpr double TOLERANCE = 3e-5;
#endif

constexpr int N_KV = 256, GQA = 3, HEADS_KV = 2, HEADS = GQA*HEADS_KV, SPLITS = 2;

// as the kernel does it, for a quantized K
static void round_query(std::vector<float> & q, float scale) {
    for (size_t first = 0; first < q.size(); first += 32) {
        float peak = 0.0f;
        for (int i = 0; i < 32; ++i) { peak = fmaxf(peak, fabsf(scale*q[first + i])); }
        const float d = peak/127;
        for (int i = 0; i < 32; ++i) { q[first + i] = d == 0.0f ? 0.0f : d/scale*roundf(scale*q[first + i]/d); }
    }
}

struct operand {
    std::vector<char>  rows;   // [position][head][value], packed
    std::vector<float> values; // what they stand for
    int64_t nb1, nb2;          // from one position, one head to the next

    operand(const host::cache_type & type, int D, uint32_t seed) {
        values = host::normal_values((size_t) N_KV*HEADS_KV*D, seed);
        for (size_t r = 0; r < values.size()/D; ++r) { // zeros, large and small rows
            const float scale = r % 17 == 0 ? 0.0f : r % 5 == 0 ? 8.0f : r % 7 == 0 ? 1e-3f : 1.0f;
            for (int i = 0; i < D; ++i) { values[r*D + i] *= scale; }
        }
        nb2 = (int64_t) type.row_bytes(D);
        nb1 = HEADS_KV*nb2;
        rows.resize(N_KV*nb1);
        type.quantize(values.data(), rows.data(), (int64_t) values.size());
        type.dequantize(rows.data(), values.data(), (int64_t) values.size());
    }
};

struct input {
    int D, n_q;
    float softcap; // 0: none
    std::vector<float> q;      // [head][query][value]
    std::vector<half>  mask;   // [query][position]
    std::vector<float> sinks;  // [head]
};

static input make_input(int D, int n_q, float softcap) {
    input in = { D, n_q, softcap, host::normal_values((size_t) HEADS*n_q*D, 7), {}, host::normal_values(HEADS, 8) };
    for (int iq = 0; iq < n_q; ++iq) {
        for (int i = 0; i < N_KV; ++i) { in.mask.push_back(i > N_KV - n_q - 40 + iq ? (half) -INFINITY : (half) (i % 9 == 4 ? -1.0f : 0.0f)); }
    }
    return in;
}

static std::vector<double> reference(const input & in, const std::vector<float> & q, const operand & K, const operand & V) {
    const int D = in.D;
    std::vector<double> out((size_t) in.n_q*HEADS*D);
    for (int h = 0; h < HEADS; ++h) {
        for (int iq = 0; iq < in.n_q; ++iq) {
            double * y = &out[((size_t) iq*HEADS + h)*D];
            double total = exp(in.sinks[h]);
            for (int i = 0; i < N_KV; ++i) {
                const size_t row = ((size_t) i*HEADS_KV + h/GQA)*D;
                double dot = 0;
                for (int d = 0; d < D; ++d) { dot += (double) q[((size_t) h*in.n_q + iq)*D + d]*K.values[row + d]/sqrt((double) D); }
                const double logit = in.softcap ? in.softcap*tanh(dot/in.softcap) : dot;
                const double p = exp(logit + (double) in.mask[(size_t) iq*N_KV + i]);
                total += p;
                for (int d = 0; d < D; ++d) { y[d] += p*V.values[row + d]; }
            }
            for (int d = 0; d < D; ++d) { y[d] /= total; }
        }
    }
    return out;
}

// the launch, and what flash_attn_combine_results does with the parts of the splits
template <int D, int ncols, ggml_type type_K, ggml_type type_V, bool softcap>
static std::vector<double> run(const input & in, const operand & K, const operand & V) {
    std::vector<float>  parts((size_t) in.n_q*HEADS*SPLITS*D, NAN);
    std::vector<float2> meta((size_t) in.n_q*HEADS*SPLITS);
    const float scale = 1/sqrtf((float) D)/(softcap ? in.softcap : 1.0f);
    const int nb01 = D*4, nb02 = in.n_q*nb01;
    gridDim = { (unsigned) (in.n_q + ncols - 1)/ncols, SPLITS, HEADS };
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
                host::launch(metal::uint3(1, 1, 1), metal::uint3(WARP_SIZE, 4, 1), 16, [&](const host::thread_place &) {
                    flash_attn_ext_vec<D, ncols, type_K, type_V, softcap>((const char *) in.q.data(), K.rows.data(), V.rows.data(),
                        (const char *) in.mask.data(), (const char *) in.sinks.data(), nullptr, parts.data(), meta.data(), scale, 0, 1, 1, 1,
                        softcap ? in.softcap : 0.0f, D, uint3{ 0, 0, (uint32_t) in.n_q }, HEADS, 1, nb01, nb02, HEADS*nb02, D, N_KV, HEADS_KV, 1,
                        (int) K.nb1, (int) K.nb2, N_KV*K.nb1, (int) V.nb1, (int) V.nb2, N_KV*V.nb1, in.n_q, 1, 1, N_KV*2, in.n_q*N_KV*2, 0);
                });
            }
        }
    }
    std::vector<double> out((size_t) in.n_q*HEADS*D);
    for (size_t row = 0; row < (size_t) in.n_q*HEADS; ++row) {
        double most = -INFINITY, total = 0;
        for (int s = 0; s < SPLITS; ++s) { most = fmax(most, meta[row*SPLITS + s].x); }
        for (int s = 0; s < SPLITS; ++s) {
            const double weight = exp(meta[row*SPLITS + s].x - most);
            total += weight*meta[row*SPLITS + s].y;
            for (int d = 0; d < D; ++d) { out[row*D + d] += weight*parts[(row*SPLITS + s)*D + d]; }
        }
        for (int d = 0; d < D; ++d) { out[row*D + d] /= total; }
    }
    return out;
}

template <int D, int ncols, ggml_type type_K, ggml_type type_V, bool softcap> static void check() {
    const host::cache_type & k = host::CACHE_TYPES[type_of<type_K>::index], & v = host::CACHE_TYPES[type_of<type_V>::index];
    const operand K(k, D, 1), V(v, D, 2);
    const input in = make_input(D, 2*ncols - 1, softcap ? 5.0f : 0.0f); // the last block of two queries has one
    std::vector<float> q = in.q;
    const float scale = 1/sqrtf((float) D)/(softcap ? in.softcap : 1.0f);
    if (type_K != GGML_TYPE_F16) { round_query(q, scale); }
    const std::string name = std::string(k.name) + "/" + v.name + "_d" + std::to_string(D) + "_q" + std::to_string(ncols) + (softcap ? "_softcap" : "");
    host::report_error(name, run<D, ncols, type_K, type_V, softcap>(in, K, V), reference(in, q, K, V), TOLERANCE);
}

template <ggml_type type_K, ggml_type type_V> static void check_pair() {
    check< 64, 1, type_K, type_V, false>();
    check<128, 1, type_K, type_V, true >();
    check<128, 2, type_K, type_V, false>();
    check<256, 1, type_K, type_V, false>();
}

int main() {
    check_pair<GGML_TYPE_TURBO3, GGML_TYPE_TURBO3>();
    check_pair<GGML_TYPE_TURBO4, GGML_TYPE_TURBO4>();
    check_pair<GGML_TYPE_TURBO4, GGML_TYPE_TURBO3>();
    check_pair<GGML_TYPE_TURBO3, GGML_TYPE_F16   >();
    check_pair<GGML_TYPE_F16,    GGML_TYPE_TURBO4>();
    check_pair<GGML_TYPE_Q8_0,   GGML_TYPE_TURBO4>();
    check_pair<GGML_TYPE_TURBO4, GGML_TYPE_Q8_0  >();
    check_pair<GGML_TYPE_Q8_0,   GGML_TYPE_Q8_0  >();
    return host::failures() != 0;
}
