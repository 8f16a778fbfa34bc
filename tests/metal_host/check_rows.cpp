// SET_ROWS writes the reference's bytes; GET_ROWS and CPY read the reference's floats; the arithmetic that the encoder does
// in integers is that of floats.
// Compiled with the converted kernel files on the include path: quantize.metal and turbo.metal.

#include <metal_stdlib>

#include "quantize.metal"
#include "turbo.metal"

#include "checks.h"

#include <algorithm>

using host::cache_type;
using host::launch;
using host::thread_place;

// ---- input ------------------------------------------------------------------------------------------------------------

// Blocks of many kinds: all scales, ties, single spikes, zeros, NaN, infinities, and magnitudes around the limits.
static std::vector<float> hard_values(size_t n, uint32_t seed) {
    std::vector<float> x = host::normal_values(n, seed);
    std::mt19937 random(seed);
    const float specials[] = { 0.0f, -0.0f, NAN, INFINITY, -INFINITY, 65504.0f, -64992.25f, 9.5367431640625e-7f, 9.5e-7f, 1e-30f, 1e-42f, 3e38f };
    for (size_t ib = 0; ib < n/QK_TURBO; ++ib) {
        float * b = &x[ib*QK_TURBO];
        const float scale = std::ldexp(1.0f, (int) (random() % 40) - 22);
        for (int j = 0; j < QK_TURBO; ++j) {
            switch (ib % 8) {
                case 0: break;
                case 1: b[j] *= scale; break;
                case 2: b[j] = std::round(2*b[j])*scale; break;              // ties in q, and two peaks of either sign
                case 3: b[j] = j == (int) (ib % QK_TURBO) ? -7.0f : 1e-3f*b[j]; break;
                case 4: b[j] = std::exp(3*b[j])*(random() % 2 ? 1 : -1)*scale; break;
                case 5: b[j] = random() % 4 == 0 ? specials[random() % std::size(specials)] : b[j]; break;
                case 6: b[j] = random() % 2 ? scale : -scale; break;
                case 7: b[j] = specials[ib/8 % std::size(specials)]*(random() % 2 ? 1.0f : 0.25f); break;
            }
        }
    }
    return x;
}

// ---- arithmetic in integers -------------------------------------------------------------------------------------------

template <typename T> static uint bits_of(T v) { return as_type<uint>((float) v); }

// Positive floats whose products and quotients stay normal; half of them with few mantissa bits, for ties.
static float positive_float(std::mt19937 & random) {
    const uint mantissa = random() & (random() % 2 ? 0x7fffff : 0x7c0000);
    return as_type<float>((uint) ((127 - 30 + random() % 60) << 23) | mantissa);
}

static void check_integer_floats() {
    std::mt19937 random(3);
    size_t wrong[4] = {};
    const size_t n = 2000000;
    for (size_t i = 0; i < n; ++i) {
        const float a = positive_float(random), b = positive_float(random);
        const uint  v = random() >> random() % 32 | 1;
        const half  h = (half) std::fmin(a, 65504.0f);
        wrong[0] += turbo_mul(bits_of(a), bits_of(b)) != bits_of(a*b);
        wrong[1] += turbo_div(bits_of(a), bits_of(b)) != bits_of(a/b);
        wrong[2] += turbo_make_float(v, 0) != bits_of(v);
        wrong[3] += turbo_make_half(bits_of(std::fmin(a, 65504.0f))) != as_type<ushort>(h);
    }
    const char * names[4] = { "turbo_mul", "turbo_div", "turbo_make_float", "turbo_make_half" };
    for (int i = 0; i < 4; ++i) {
        host::report(names[i], wrong[i] == 0, std::to_string(wrong[i]) + " of " + std::to_string(n) + " differ from the CPU's");
    }
}

// ---- SET_ROWS ---------------------------------------------------------------------------------------------------------

template <typename TI> static void check_set_rows(const cache_type & type, const char * index_name) {
    const int n_values = 1024, n_rows = 24, n_heads = 2, n_dst = 40;
    const auto x = hard_values((size_t) n_values*n_rows*n_heads, 1 + sizeof(TI));
    std::vector<TI> index(n_rows);
    for (int r = 0; r < n_rows; ++r) {
        index[r] = (r*7 + 3) % n_dst;
    }

    const size_t row = type.row_bytes(n_values);
    std::vector<char> wanted(row*n_dst*n_heads, 0x55), found(wanted);
    for (int h = 0; h < n_heads; ++h) {
        for (int r = 0; r < n_rows; ++r) {
            type.quantize(&x[((size_t) h*n_rows + r)*n_values], &wanted[(h*n_dst + index[r])*row], n_values);
        }
    }

    ggml_metal_kargs_set_rows a = {};
    a.nk0  = n_values/type.block_values;
    a.ne01 = n_rows;
    a.nb01 = n_values*sizeof(float);
    a.nb02 = a.nb01*n_rows;
    a.nb03 = a.nb02*n_heads;
    a.ne11 = a.ne12 = 1;
    a.nb10 = sizeof(TI);
    a.nb1  = row;
    a.nb2  = row*n_dst;
    a.nb3  = a.nb2*n_heads;

    const std::string name = std::string("kernel_set_rows_f32_") + index_name + "_" + type.name;
    auto * f = host::find_kernel<set_rows_turbo_t>(name);
    const uint n_simdgroups = 5; // does not divide the number of blocks: the last threadgroup has some left over
    launch(uint3((n_rows*a.nk0 + n_simdgroups - 1)/n_simdgroups, n_heads, 1), uint3(32, n_simdgroups, 1), 0, [&](const thread_place & t) {
        f(a, x.data(), index.data(), (float *) found.data(), t.tgpig, t.ntg, t.tiisg, t.sgitg);
    });

    size_t wrong = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        wrong += wanted[i] != found[i];
    }
    host::report(name, wrong == 0, std::to_string(wrong) + " of " + std::to_string(wanted.size()) + " bytes differ");
}

// ---- GET_ROWS and CPY -------------------------------------------------------------------------------------------------

struct encoded_rows {
    std::vector<char>  bytes;
    std::vector<float> values; // what the reference reads
};

static encoded_rows encode_rows(const cache_type & type, int n_values, int n_rows) {
    const auto x = host::normal_values((size_t) n_values*n_rows, 7);
    encoded_rows r;
    r.bytes.resize(type.row_bytes(x.size()));
    r.values.resize(x.size());
    type.quantize(x.data(), r.bytes.data(), (int64_t) x.size());
    type.dequantize(r.bytes.data(), r.values.data(), (int64_t) x.size());
    return r;
}

static void report_values(const std::string & name, const std::vector<float> & wanted, const std::vector<float> & found) {
    size_t wrong = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        wrong += !(wanted[i] == found[i]);
    }
    host::report(name, wrong == 0, std::to_string(wrong) + " of " + std::to_string(wanted.size()) + " values differ");
}

static void check_get_rows(const cache_type & type) {
    const int n_values = 256, n_rows = 9;
    const encoded_rows rows = encode_rows(type, n_values, n_rows);
    const std::vector<int32_t> index = { 8, 0, 3, 3, 7 };

    std::vector<float> wanted, found(n_values*index.size(), NAN);
    for (int32_t i : index) {
        wanted.insert(wanted.end(), &rows.values[i*n_values], &rows.values[i*n_values] + n_values);
    }

    ggml_metal_kargs_get_rows a = {};
    a.ne00t = n_values/16;
    a.ne00  = n_values;
    a.nb01  = type.row_bytes(n_values);
    a.ne10  = (int32_t) index.size();
    a.nb10  = sizeof(int32_t);
    a.nb1   = n_values*sizeof(float);

    const std::string name = std::string("kernel_get_rows_") + type.name;
    auto * f = host::find_kernel<get_rows_q_t>(name);
    launch(uint3((uint) index.size(), 1, 1), uint3(a.ne00t, 1, 1), 0, [&](const thread_place & t) {
        f(a, rows.bytes.data(), index.data(), found.data(), t.tgpig, t.tiitg, ushort3(t.ntg));
    });
    report_values(name, wanted, found);
}

template <typename T> static void check_cpy(const cache_type & type, const char * to) {
    const int n_values = 128, n_rows = 6;
    const encoded_rows rows = encode_rows(type, n_values, n_rows);

    ggml_metal_kargs_cpy a = {};
    a.nk0  = n_values/16;
    a.ne00 = n_values;
    a.ne01 = n_rows;
    a.ne02 = a.ne03 = 1;
    a.nb01 = type.row_bytes(n_values);
    a.ne0  = n_values;
    a.ne1  = n_rows;
    a.ne2  = a.ne3 = 1;
    a.nb0  = sizeof(T);
    a.nb1  = n_values*sizeof(T);

    std::vector<T> out((size_t) n_values*n_rows);
    const std::string name = std::string("kernel_cpy_") + type.name + "_" + to;
    auto * f = host::find_kernel<cpy_q_f_t>(name);
    launch(uint3(n_rows, 1, 1), uint3(a.nk0, 1, 1), 0, [&](const thread_place & t) {
        f(a, rows.bytes.data(), (char *) out.data(), t.tgpig, ushort3(t.tpitg), ushort3(t.ntg));
    });

    std::vector<float> wanted, found;
    for (size_t i = 0; i < out.size(); ++i) {
        wanted.push_back((float) (T) rows.values[i]);
        found.push_back((float) out[i]);
    }
    report_values(name, wanted, found);
}

int main() {
    check_integer_floats();
    for (const cache_type & type : host::CACHE_TYPES) {
        if (type.block_values != QK_TURBO) {
            continue; // upstream's
        }
        check_set_rows<int64_t>(type, "i64");
        check_set_rows<int32_t>(type, "i32");
        check_get_rows(type);
        check_cpy<float>(type, "f32");
        check_cpy<half>(type, "f16");
    }
    return host::failures() != 0;
}
