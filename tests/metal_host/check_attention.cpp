// FLASH_ATTN_EXT, both kernels, for every pair of f16, q8_0, turbo4 and turbo3, against attention in double over the
// floats that the reference reads from the same cache.
// Compiled with the converted kernel files on the include path: fa_turbo.metal, fa_vec_turbo.metal, fa_aux.metal and
// upstream's for the pairs that it has.

#include <metal_stdlib>

#include "fa_aux.metal"
#include "fa_turbo.metal"
#include "fa_vec_turbo.metal"

#include "checks.h"
#include "host_answers.h"

using host::cache_type;
using host::launch;
using host::thread_place;

// ---- a problem and its answer -----------------------------------------------------------------------------------------

constexpr int N_HEADS = 2, N_KV_HEADS = 1;

struct problem {
    int D, n_queries, n_kv;
    std::vector<float> q, k, v;       // [head][row][D]; k and v as the reference reads them
    std::vector<char>  k_bytes, v_bytes;
    std::vector<half>  mask;          // [query][n_kv]

    float scale() const { return 1.0f/std::sqrt((float) D); }
};

static problem make_problem(const cache_type & type_k, const cache_type & type_v, int D, int n_queries, int n_kv) {
    problem p = { D, n_queries, n_kv };
    p.q = host::normal_values((size_t) D*n_queries*N_HEADS,  11);
    p.k = host::normal_values((size_t) D*n_kv*N_KV_HEADS,    12);
    p.v = host::normal_values((size_t) D*n_kv*N_KV_HEADS,    13);
    for (auto side : { std::make_tuple(&type_k, &p.k, &p.k_bytes), std::make_tuple(&type_v, &p.v, &p.v_bytes) }) {
        auto [type, values, bytes] = side;
        bytes->resize(type->row_bytes(values->size()));
        type->quantize(values->data(), bytes->data(), (int64_t) values->size());
        type->dequantize(bytes->data(), values->data(), (int64_t) values->size());
    }
    for (int i = 0; i < n_queries; ++i) {
        for (int j = 0; j < n_kv; ++j) {
            p.mask.push_back(j <= n_kv - n_queries + i ? (half) 0.0f : (half) -INFINITY);
        }
    }
    return p;
}

// [query][head][D], as the kernels write it
static std::vector<double> answer(const problem & p) {
    std::vector<double> out((size_t) p.D*p.n_queries*N_HEADS, 0.0);
    for (int h = 0; h < N_HEADS; ++h) {
        for (int i = 0; i < p.n_queries; ++i) {
            const float * q = &p.q[((size_t) h*p.n_queries + i)*p.D];
            const size_t kv = (size_t) (h/(N_HEADS/N_KV_HEADS))*p.n_kv*p.D;
            double * o = &out[((size_t) i*N_HEADS + h)*p.D];
            double sum = 0.0;
            for (int j = 0; j < p.n_kv; ++j) {
                double s = 0.0;
                for (int d = 0; d < p.D; ++d) { s += (double) q[d]*p.k[kv + (size_t) j*p.D + d]; }
                const double w = std::exp(s*p.scale() + (double) (float) p.mask[(size_t) i*p.n_kv + j]);
                for (int d = 0; d < p.D; ++d) { o[d] += w*p.v[kv + (size_t) j*p.D + d]; }
                sum += w;
            }
            for (int d = 0; d < p.D; ++d) { o[d] /= sum; }
        }
    }
    return out;
}

static void report_error(const std::string & what, const problem & p, const std::vector<float> & found) {
    const auto wanted = answer(p);
    double error = 0.0, power = 0.0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        error += (found[i] - wanted[i])*(found[i] - wanted[i]);
        power += wanted[i]*wanted[i];
    }
    char detail[64];
    snprintf(detail, sizeof(detail), "relative squared error %.1e", error/power);
    host::report(what, error/power <= 1e-5, detail); // a NaN is not
}

// ---- what ggml_metal_op_flash_attn_ext does around the kernels ---------------------------------------------------------

static std::string pair_name(const cache_type & k, const cache_type & v) {
    char name[32];
    host_fa_type_name(k.name, v.name, name, sizeof(name));
    return name;
}

static std::string kernel_name(const char * prefix, const cache_type & k, const cache_type & v, int D) {
    const std::string size = std::to_string(D);
    return std::string(prefix) + "_" + pair_name(k, v) + "_dk" + size + "_dv" + size;
}

template <typename args_t> static args_t make_args(const problem & p, const cache_type & type_k, const cache_type & type_v) {
    args_t a = {};
    a.ne01 = p.n_queries;
    a.ne02 = N_HEADS;
    a.ne03 = 1;
    a.nb01 = p.D*sizeof(float);
    a.nb02 = a.nb01*p.n_queries;
    a.nb03 = a.nb02*N_HEADS;
    a.ne11 = p.n_kv;
    a.ne_12_2 = N_KV_HEADS;
    a.ne_12_3 = 1;
    a.nb11 = type_k.row_bytes(p.D);
    a.nb12 = a.nb11*p.n_kv;
    a.nb13 = a.nb12*N_KV_HEADS;
    a.nb21 = type_v.row_bytes(p.D);
    a.nb22 = a.nb21*p.n_kv;
    a.nb23 = a.nb22*N_KV_HEADS;
    a.ne31 = p.n_queries;
    a.ne32 = a.ne33 = 1;
    a.nb31 = p.n_kv*sizeof(half);
    a.nb32 = a.nb33 = a.nb31*p.n_queries;
    a.ne1 = N_HEADS;
    a.ne2 = p.n_queries;
    a.ne3 = 1;
    a.scale = p.scale();
    a.m0 = a.m1 = 1.0f;
    a.n_head_log2 = N_HEADS;
    return a;
}

// The last rows that do not fill a chunk, as kernel_flash_attn_ext_pad leaves them.
static std::vector<char> pad(const problem & p, const cache_type & type_k, const cache_type & type_v, int chunk) {
    if (p.n_kv % chunk == 0) {
        return {};
    }
    const auto from = make_args<ggml_metal_kargs_flash_attn_ext>(p, type_k, type_v);
    ggml_metal_kargs_flash_attn_ext_pad a = {};
    a.ne11 = from.ne11;
    a.ne_12_2 = from.ne_12_2;
    a.ne_12_3 = from.ne_12_3;
    a.nb11 = from.nb11;
    a.nb12 = from.nb12;
    a.nb13 = from.nb13;
    a.nb21 = from.nb21;
    a.nb22 = from.nb22;
    a.nb23 = from.nb23;
    a.ne31 = from.ne31;
    a.ne32 = from.ne32;
    a.ne33 = from.ne33;
    a.nb31 = from.nb31;
    a.nb32 = from.nb32;
    a.nb33 = from.nb33;
    FC_flash_attn_ext_pad_has_mask = true;
    FC_flash_attn_ext_pad_ncpsg = chunk;
    std::vector<char> out(chunk*((a.nb11 + a.nb21)*N_KV_HEADS + sizeof(half)*p.n_queries));
    launch(uint3(chunk, N_KV_HEADS, 1), uint3(32, 1, 1), 0, [&](const thread_place & t) {
        kernel_flash_attn_ext_pad(a, p.k_bytes.data(), p.v_bytes.data(), (const char *) p.mask.data(), out.data(), t.tgpig, t.tiitg, ushort3(t.ntg));
    });
    return out;
}

static void check_vec(const cache_type & type_k, const cache_type & type_v, int D, int n_queries, int n_kv, int n_simdgroups) {
    const problem p = make_problem(type_k, type_v, D, n_queries, n_kv);
    const int C = OP_FLASH_ATTN_EXT_VEC_NCPSG;
    const auto a = make_args<ggml_metal_kargs_flash_attn_ext_vec>(p, type_k, type_v);
    const auto padded = pad(p, type_k, type_v, C);
    FC_flash_attn_ext_vec_has_mask  = true;
    FC_flash_attn_ext_vec_has_kvpad = !padded.empty();
    FC_flash_attn_ext_vec_ns10      = D; // of f16 rows
    FC_flash_attn_ext_vec_ns20      = D;
    FC_flash_attn_ext_vec_nsg       = n_simdgroups;
    FC_flash_attn_ext_vec_nwg       = 1;

    const int    D_pad  = PAD2(D, 128);
    const size_t shared = (size_t) (D_pad + 4*C + 2*D_pad)*n_simdgroups*sizeof(half);
    std::vector<float> out(p.q.size(), NAN);
    const std::string name = kernel_name("kernel_flash_attn_ext_vec", type_k, type_v, D);
    auto * f = host::find_kernel<flash_attn_ext_vec_turbo_t>(name);
    launch(uint3(n_queries, N_HEADS, 1), uint3(32, n_simdgroups, 1), shared, [&](const thread_place & t) {
        f(a, (const char *) p.q.data(), p.k_bytes.data(), p.v_bytes.data(), (const char *) p.mask.data(), nullptr, padded.data(),
                (char *) out.data(), nullptr, (half *) t.shared, t.tgpig, t.tiisg, t.sgitg);
    });
    report_error(name + " of " + std::to_string(n_queries) + " queries, " + std::to_string(n_kv) + " rows", p, out);
}

// All blocks of the mask, as kernel_flash_attn_ext_blk finds them.
static std::vector<char> mask_blocks(const problem & p) {
    ggml_metal_kargs_flash_attn_ext_blk a = {};
    a.ne01 = a.ne31 = p.n_queries;
    a.ne30 = p.n_kv;
    a.ne32 = a.ne33 = 1;
    a.nb31 = p.n_kv*sizeof(half);
    a.nb32 = a.nb33 = a.nb31*p.n_queries;
    FC_flash_attn_ext_blk_nqptg = OP_FLASH_ATTN_EXT_NQPSG;
    FC_flash_attn_ext_blk_ncpsg = OP_FLASH_ATTN_EXT_NCPSG;
    const uint rows    = (p.n_queries + OP_FLASH_ATTN_EXT_NQPSG - 1)/OP_FLASH_ATTN_EXT_NQPSG;
    const uint columns = (p.n_kv      + OP_FLASH_ATTN_EXT_NCPSG - 1)/OP_FLASH_ATTN_EXT_NCPSG;
    std::vector<char> out(rows*columns);
    launch(uint3(columns, rows, 1), uint3(32, 1, 1), 0, [&](const thread_place & t) {
        kernel_flash_attn_ext_blk(a, (const char *) p.mask.data(), out.data(), t.tgpig, t.tiisg);
    });
    return out;
}

static void check_batch(const cache_type & type_k, const cache_type & type_v, int D, int n_queries, int n_kv) {
    const problem p = make_problem(type_k, type_v, D, n_queries, n_kv);
    const int Q = OP_FLASH_ATTN_EXT_NQPSG, C = OP_FLASH_ATTN_EXT_NCPSG;
    const int n_simdgroups = D >= 512 ? 8 : 4;
    const auto a = make_args<ggml_metal_kargs_flash_attn_ext>(p, type_k, type_v);
    const auto padded = pad(p, type_k, type_v, C);
    const auto blocks = mask_blocks(p);
    FC_flash_attn_ext_has_mask  = true;
    FC_flash_attn_ext_has_kvpad = !padded.empty();
    FC_flash_attn_ext_bc_mask   = n_queries % 8 != 0;
    FC_flash_attn_ext_ns10      = D; // of f16 rows
    FC_flash_attn_ext_ns20      = D;
    FC_flash_attn_ext_nsg       = n_simdgroups;

    const size_t shared = (Q*(D + 2*PAD2(D, 64) + 4*C) + 16*32*n_simdgroups)*sizeof(half);
    std::vector<float> out(p.q.size(), NAN);
    const std::string name = kernel_name("kernel_flash_attn_ext", type_k, type_v, D);
    auto * f = host::find_kernel<flash_attn_ext_turbo_t>(name);
    launch(uint3((n_queries + Q - 1)/Q, N_HEADS, 1), uint3(32, n_simdgroups, 1), shared, [&](const thread_place & t) {
        f(a, (const char *) p.q.data(), p.k_bytes.data(), p.v_bytes.data(), (const char *) p.mask.data(), nullptr, padded.data(),
                blocks.data(), (char *) out.data(), (half *) t.shared, t.tgpig, t.tiisg, t.sgitg);
    });
    report_error(name + " of " + std::to_string(n_queries) + " queries, " + std::to_string(n_kv) + " rows", p, out);
}

// ---- the cache as f16, for long batches -------------------------------------------------------------------------------

static void check_to_f16(const cache_type & type, int D) {
    const problem p = make_problem(type, type, D, 1, 21);
    ggml_metal_kargs_flash_attn_ext_kv_f16 a = {};
    a.ne0 = D;
    a.ne1 = p.n_kv;
    a.ne2 = N_KV_HEADS;
    a.ne3 = 1;
    a.nb0 = type.block_bytes;
    a.nb1 = type.row_bytes(D);
    a.nb2 = a.nb1*p.n_kv;
    a.nb3 = a.nb2*N_KV_HEADS;
    a.nblocks = (int) (p.k.size()/type.block_values);
    std::vector<half> out(p.k.size());
    const std::string name = std::string("kernel_flash_attn_ext_kv_") + type.name + "_f16";
    auto * f = host::find_kernel<kernel_flash_attn_ext_kv_f16_t>(name);
    const int n = 32;
    launch(uint3((a.nblocks + n - 1)/n, 1, 1), uint3(n, 1, 1), 0, [&](const thread_place & t) {
        f(a, p.k_bytes.data(), out.data(), t.tgpig.x*n + t.tiitg);
    });
    size_t wrong = 0;
    for (size_t i = 0; i < out.size(); ++i) {
        wrong += !(out[i] == (half) p.k[i]);
    }
    host::report(name, wrong == 0, std::to_string(wrong) + " of " + std::to_string(out.size()) + " values differ");
}

// ---- what the host code says ------------------------------------------------------------------------------------------

static bool is_ours(const cache_type & k, const cache_type & v) {
    return &k != &v || k.block_values == QK_TURBO;
}

// Each pair that is said to be supported has its kernels, under the name that is asked for, and no other pair is ours.
static void check_supported(const cache_type & k, const cache_type & v) {
    int wrong = host_fa_supported(k.name, v.name, 192, 128) + host_fa_supported(k.name, v.name, 96, 96) + host_fa_supported(k.name, "q4_0", 128, 128);
    for (int D : { 64, 128, 192, 256, 512 }) {
        const bool named = host::library().count(kernel_name("kernel_flash_attn_ext", k, v, D)) && host::library().count(kernel_name("kernel_flash_attn_ext_vec", k, v, D));
        const bool compiled = named || (D != 64 && D != 128 && D != 256); // see HEAD_SIZES of test_metal_host.py
        wrong += host_fa_supported(k.name, v.name, D, D) != is_ours(k, v);
        wrong += is_ours(k, v) && !compiled;
    }
    host::report(std::string("supports_op of ") + k.name + " and " + v.name, wrong == 0, std::to_string(wrong) + " answers wrong");
}

int main() {
    host::report("supports_op of turbo3t", host_refuses("turbo3t") && !host_refuses("turbo3"), "it has no kernel here");
    for (const cache_type & k : host::CACHE_TYPES) {
        for (const cache_type & v : host::CACHE_TYPES) {
            check_supported(k, v);
            if (is_ours(k, v)) {
                check_vec(k, v, 128, 1, 96, 1);
                check_batch(k, v, 128, 9, 128);
            }
        }
        if (k.block_values == QK_TURBO) {
            check_to_f16(k, 128);
            check_vec(k, k, 64, 3, 75, 2); // the last rows come from the pad buffer
            check_batch(k, k, 64, 3, 75);
            check_vec(k, k, 256, 2, 64, 1);
            check_batch(k, k, 256, 8, 64);
        }
    }
    return host::failures() != 0;
}
