// FLASH_ATTN_EXT of every pair of cache types against float64, on random and extreme input, through ggml's own graph. Built
// against ggml's static libraries, for any machine; with "corrupt", a code in each block of V is changed after the reference
// has read it, and every case with a quantized V must be WRONG. Prints `ok: CASE: ERROR` or `WRONG: CASE: ERROR` by case.

#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

static std::mt19937 rng(1);

struct shape {
    int head, n_kv, n_q, heads_kv, gqa, n_seq, threads;
    const char * input;
    bool sinks;
    float softcap;
};

// ---- input ------------------------------------------------------------------------------------------------------------

static float gaussian() {
    static std::normal_distribution<float> normal;
    return normal(rng);
}

// a row of K or V
static void fill(const std::string & input, float * x, int n, int row) {
    const float outlier = (row % 7 == 0 ? 300.0f : 1.0f);
    for (int i = 0; i < n; ++i) {
        x[i] = gaussian();
        if (input == "outliers") { x[i] *= i == row % n ? outlier : 1.0f; }
        if (input == "scales")   { x[i] *= ldexpf(1.0f, row % 19 - 14); }
        if (input == "zeros")    { x[i] *= row % 3 == 0 ? 0.0f : 1.0f; }
        if (input == "equal")    { x[i] = row % 2 ? 4.0f : -4.0f; }
    }
}

// a cache as llama.cpp lays it out: all heads of a position side by side
struct cache {
    ggml_tensor * all, * view;
    std::vector<float> values; // what the blocks stand for

    cache(ggml_context * ctx, ggml_type type, const shape & s) {
        const int row = s.head*s.heads_kv, rows = s.n_kv*s.n_seq;
        std::vector<float> x((size_t) row*rows);
        for (int r = 0; r < rows*s.heads_kv; ++r) { fill(s.input, &x[(size_t) r*s.head], s.head, r); }
        all = ggml_new_tensor_2d(ctx, type, row, rows);
        ggml_get_type_traits_cpu(type)->from_float(x.data(), all->data, (int64_t) x.size());
        view = ggml_view_4d(ctx, all, s.head, s.n_kv, s.heads_kv, s.n_seq, all->nb[1], ggml_row_size(type, s.head), all->nb[1]*s.n_kv, 0);
        values.resize(x.size());
        ggml_get_type_traits(type)->to_float(all->data, values.data(), (int64_t) x.size());
    }

    const float * row(const shape & s, int seq, int position, int head) const {
        return &values[((size_t) (seq*s.n_kv + position)*s.heads_kv + head)*s.head];
    }

    // the last byte of a block is codes in every quantized type
    void corrupt() {
        const size_t block = ggml_type_size(all->type);
        for (size_t i = block - 1; ggml_is_quantized(all->type) && i < ggml_nbytes(all); i += block) { ((uint8_t *) all->data)[i] ^= 0x66; }
    }
};

// ---- the reference ----------------------------------------------------------------------------------------------------

struct verdict {
    double worst = 0; // error of a value over what is allowed
    bool   finite = true;
};

// One query of one head. Allowed is what rounding the query to 15 bits and float arithmetic can do to the logits and the sum.
static void check_row(const shape & s, const float * q, const ggml_fp16_t * mask, float sink, const cache & K, const cache & V,
        int seq, int head_kv, const float * out, verdict & v) {
    const double scale = 1/sqrt((double) s.head);
    std::vector<double> logit(s.n_kv), sum(s.head), size(s.head);
    double peak_q = 0, off = 0, most = s.sinks ? sink : -INFINITY;
    for (int d = 0; d < s.head; ++d) { peak_q = std::max(peak_q, (double) fabsf(q[d])); }
    for (int i = 0; i < s.n_kv; ++i) {
        const float * k = K.row(s, seq, i, head_kv);
        double dot = 0, terms = 0, keys = 0;
        for (int d = 0; d < s.head; ++d) {
            dot   += (double) q[d]*k[d];
            terms += fabs((double) q[d]*k[d]);
            keys  += fabs(k[d]);
        }
        const double m = ggml_fp16_to_fp32(mask[i]);
        logit[i] = (s.softcap ? s.softcap*tanh(dot*scale/s.softcap) : dot*scale) + m;
        if (m != -INFINITY) { off = std::max(off, scale*(keys*peak_q/32767 + 1e-6*terms)); }
        most = std::max(most, logit[i]);
    }
    double total = s.sinks ? exp(sink - most) : 0, largest = 0;
    for (int i = 0; i < s.n_kv; ++i) {
        const double p = exp(logit[i] - most);
        total += p;
        const float * x = V.row(s, seq, i, head_kv);
        for (int d = 0; d < s.head; ++d) {
            sum[d]  += p*x[d];
            size[d] += p*fabs(x[d]);
        }
    }
    for (int d = 0; d < s.head; ++d) { largest = std::max(largest, size[d]/total); }
    const double allowed = largest*(2e-5 + 2*std::min(off, 1.0)) + 1e-30;
    for (int d = 0; d < s.head; ++d) {
        v.finite = v.finite && std::isfinite(out[d]);
        v.worst  = std::max(v.worst, fabs(out[d] - sum[d]/total)/allowed);
    }
}

// ---- a case -----------------------------------------------------------------------------------------------------------

// the first positions are hidden from all, and later ones from earlier queries; never all of them
static ggml_fp16_t mask_at(const shape & s, int query, int position) {
    const bool hidden = position > s.n_kv - s.n_q + query || (s.n_kv > 100 && position < 66);
    return hidden ? ggml_fp32_to_fp16(-INFINITY) : ggml_fp32_to_fp16(position % 11 == 5 ? -0.5f : 0.0f);
}

static void compute(ggml_context * ctx, ggml_tensor * out, int threads) {
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_cplan plan = ggml_graph_plan(graph, threads, nullptr);
    std::vector<uint8_t> work(plan.work_size + 64);
    plan.work_data = work.data();
    ggml_graph_compute(graph, &plan);
}

static verdict run(ggml_type type_k, ggml_type type_v, const shape & s, bool corrupt) {
    ggml_context * ctx = ggml_init({ (size_t) 1 << 26, nullptr, false });
    const int heads = s.heads_kv*s.gqa;
    ggml_tensor * q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, s.head, s.n_q, heads, s.n_seq);
    for (int64_t i = 0; i < ggml_nelements(q); ++i) { ((float *) q->data)[i] = gaussian(); }
    cache K(ctx, type_k, s), V(ctx, type_v, s);
    if (corrupt) { V.corrupt(); }
    ggml_tensor * mask = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, s.n_kv, s.n_q, 1, 1);
    for (int i = 0; i < s.n_q*s.n_kv; ++i) { ((ggml_fp16_t *) mask->data)[i] = mask_at(s, i/s.n_kv, i%s.n_kv); }
    ggml_tensor * out = ggml_flash_attn_ext(ctx, q, K.view, V.view, mask, (float) (1/sqrt((double) s.head)), 0, s.softcap);
    ggml_tensor * sinks = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, heads);
    for (int h = 0; h < heads; ++h) { ((float *) sinks->data)[h] = (float) h - 1; }
    if (s.sinks) { ggml_flash_attn_ext_add_sinks(out, sinks); }
    compute(ctx, out, s.threads);

    verdict v;
    for (int seq = 0; seq < s.n_seq; ++seq) {
        for (int iq = 0; iq < s.n_q; ++iq) {
            for (int h = 0; h < heads; ++h) {
                check_row(s, (const float *) q->data + ((size_t) (seq*heads + h)*s.n_q + iq)*s.head, (const ggml_fp16_t *) mask->data + iq*s.n_kv,
                    ((const float *) sinks->data)[h], K, V, seq, h/s.gqa, (const float *) out->data + ((size_t) (seq*s.n_q + iq)*heads + h)*s.head, v);
            }
        }
    }
    ggml_free(ctx);
    return v;
}

static const shape shapes[] = {
    // a token, a few, a prompt
    {  64,  77,  1, 2, 3, 1, 2, "random",   false, 0  },
    { 128,   1,  1, 1, 1, 1, 1, "random",   false, 0  },
    { 128, 131,  1, 2, 4, 2, 2, "outliers", true,  0  },
    { 256, 129,  3, 1, 2, 1, 1, "scales",   false, 0  },
    {  64,  65,  2, 1, 8, 1, 2, "equal",    false, 10 },
    {  64, 193, 33, 2, 1, 1, 2, "random",   true,  0  },
    { 128,  67, 13, 1, 4, 2, 1, "zeros",    false, 0  },
    { 256,  99,  9, 1, 1, 1, 2, "outliers", false, 0  },
};

int main(int argc, char ** argv) {
    const bool corrupt = argc > 1 && strcmp(argv[1], "corrupt") == 0;
    const ggml_type types[] = { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_0, GGML_TYPE_Q4_0, GGML_TYPE_TURBO4, GGML_TYPE_TURBO3, GGML_TYPE_TURBO3T };
    bool wrong = false;
    for (ggml_type k : types) {
        for (ggml_type v : types) {
            if (k == GGML_TYPE_F16 && v == GGML_TYPE_F16) { continue; } // upstream's kernels
            for (const shape & s : shapes) {
                const verdict r = run(k, v, s, corrupt);
                const bool ok = r.finite && r.worst <= 1;
                wrong = wrong || !ok;
                printf("%s: %s/%s head %d n_kv %d queries %d heads %dx%d sequences %d %s%s: %.3f of what is allowed%s\n", ok ? "ok" : "WRONG",
                    ggml_type_name(k), ggml_type_name(v), s.head, s.n_kv, s.n_q, s.heads_kv, s.gqa, s.n_seq, s.input, s.sinks ? " sinks" : "",
                    r.worst, r.finite ? "" : ", not finite");
            }
        }
    }
    return wrong ? 1 : 0;
}
