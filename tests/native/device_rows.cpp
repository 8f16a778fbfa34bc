// What a ggml device makes of a cache type's rows: device_rows DEVICE TYPE IN OUT [N]. Reads floats, in rows of 256. Writes
// the blocks that SET_ROWS stores (row i at n - 1 - i), the blocks that CPY from f32 makes, and the floats that CPY and
// GET_ROWS make of these; or with N only the blocks that SET_ROWS stores of the product with a Hadamard matrix of N x N, a
// power of two. Exit code 3: no such device or file, or it does not support an op.

#include "ggml.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static const int64_t WIDTH = 256;

static std::vector<float> read_floats(FILE * file) {
    std::vector<float> all;
    float buffer[1024];
    for (size_t n; (n = fread(buffer, sizeof(float), 1024, file)) > 0;) {
        all.insert(all.end(), buffer, buffer + n);
    }
    return all;
}

static ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char * known = ggml_type_name((ggml_type) i);
        if (known && name == known) {
            return (ggml_type) i;
        }
    }
    return GGML_TYPE_COUNT;
}

static void write_tensor(const ggml_tensor * t, FILE * file) {
    std::vector<char> data(ggml_nbytes(t));
    ggml_backend_tensor_get(t, data.data(), 0, data.size());
    fwrite(data.data(), 1, data.size(), file);
}

static std::vector<float> hadamard(int64_t n) {
    std::vector<float> data(n*n);
    for (int64_t i = 0; i < n*n; ++i) {
        int bits = 0;
        for (int64_t both = i/n & i%n; both != 0; both &= both - 1) { ++bits; }
        data[i] = (bits % 2 ? -1.0f : 1.0f)/sqrtf((float) n);
    }
    return data;
}

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    ggml_backend_dev_t device = argc >= 5 ? ggml_backend_dev_by_name(argv[1]) : nullptr;
    const ggml_type type = argc >= 5 ? type_named(argv[2]) : GGML_TYPE_COUNT;
    FILE * in  = argc >= 5 ? fopen(argv[3], "rb") : nullptr;
    FILE * out = argc >= 5 ? fopen(argv[4], "wb") : nullptr;
    if (!device || type == GGML_TYPE_COUNT || !in || !out) {
        fprintf(stderr, "usage: device_rows DEVICE TYPE IN OUT [N], of a device and a type that this build knows\n");
        return 3;
    }
    ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);

    const std::vector<float> values = read_floats(in);
    const int64_t n_rot = argc > 5 ? atoi(argv[5]) : 0;
    const int64_t n = values.size()/WIDTH;

    ggml_context * ctx = ggml_init({ ggml_tensor_overhead()*32 + ggml_graph_overhead(), nullptr, true });
    ggml_tensor * src    = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, WIDTH, n);
    ggml_tensor * ids    = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n);
    ggml_tensor * order  = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_tensor * cache  = ggml_new_tensor_2d(ctx, type, WIDTH, n);
    ggml_tensor * rot    = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_rot ? n_rot : 1, n_rot ? n_rot : 1);
    ggml_tensor * rows   = src;
    if (n_rot) {
        ggml_tensor * turned = ggml_mul_mat(ctx, rot, ggml_reshape_2d(ctx, src, n_rot, n*WIDTH/n_rot));
        ggml_mul_mat_set_hint(turned, GGML_HINT_SRC0_IS_HADAMARD);
        rows = ggml_reshape_2d(ctx, turned, WIDTH, n);
    }
    ggml_tensor * stored = ggml_set_rows(ctx, cache, rows, ids);
    ggml_tensor * copied = ggml_cpy(ctx, src, ggml_new_tensor_2d(ctx, type, WIDTH, n));
    ggml_tensor * floats = ggml_cpy(ctx, copied, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, WIDTH, n));
    ggml_tensor * gotten = ggml_get_rows(ctx, copied, order);
    ggml_cgraph * graph  = ggml_new_graph(ctx);
    const std::vector<ggml_tensor *> wanted = n_rot ? std::vector<ggml_tensor *>{ stored } : std::vector<ggml_tensor *>{ stored, copied, floats, gotten };
    for (ggml_tensor * t : wanted) {
        if (!ggml_backend_supports_op(backend, t)) {
            fprintf(stderr, "%s does not support %s of %s\n", argv[1], ggml_op_desc(t), argv[2]);
            return 3;
        }
        ggml_build_forward_expand(graph, t);
    }
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);

    std::vector<int64_t> reversed(n);
    std::vector<int32_t> forward(n);
    for (int64_t i = 0; i < n; ++i) {
        reversed[i] = n - 1 - i;
        forward[i]  = (int32_t) i;
    }
    ggml_backend_tensor_set(src,   values.data(),   0, ggml_nbytes(src));
    ggml_backend_tensor_set(ids,   reversed.data(), 0, ggml_nbytes(ids));
    ggml_backend_tensor_set(order, forward.data(),  0, ggml_nbytes(order));
    ggml_backend_tensor_set(rot, hadamard(rot->ne[0]).data(), 0, ggml_nbytes(rot));
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        fprintf(stderr, "%s failed\n", argv[1]);
        return 1;
    }
    for (const ggml_tensor * t : wanted) {
        write_tensor(t, out);
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(ctx);
    ggml_backend_free(backend);
    fclose(in);
    return fclose(out) == 0 ? 0 : 1;
}
