#pragma once

// A case of test-backend-ops, which includes this: one layer's way from the projections through a quantized cache, as
// llama.cpp's graphs have it. Backends fuse much of it, which no case of a single op shows. The whole graph is run; what is
// compared is the output.

struct test_attention_layer : public test_case {
    const int     head_size;
    const int64_t n_head_kv, gqa, n_tokens, n_kv;
    const ggml_type type_K, type_V;
    const int  mode; // of RoPE; -1: none
    const bool norm;
    const bool yarn;   // and frequency factors, and RoPE of half a head only
    const bool center; // a vector of each head is subtracted from K
    const bool fused;  // Q, K and V are views of one projection

    test_attention_layer(int head_size, int64_t n_head_kv, int64_t gqa, int64_t n_tokens, int64_t n_kv, ggml_type type_K, ggml_type type_V, int mode, bool norm, bool yarn = false, bool center = false, bool fused = false)
        : head_size(head_size), n_head_kv(n_head_kv), gqa(gqa), n_tokens(n_tokens), n_kv(n_kv), type_K(type_K), type_V(type_V), mode(mode), norm(norm), yarn(yarn), center(center), fused(fused) {}

    std::string op_desc(ggml_tensor * t) override {
        GGML_UNUSED(t);
        return "ATTENTION_LAYER";
    }

    bool run_whole_graph() override { return true; }

    std::string vars() override {
        return VARS_TO_STR12(head_size, n_head_kv, gqa, n_tokens, n_kv, type_K, type_V, mode, norm, yarn, center, fused);
    }

    // RoPE of two backends differs in the last bits, which moves a value here and there into the next bin
    double max_nmse_err() override { return 1e-3; }

    static ggml_tensor * named(ggml_tensor * t, const char * name) {
        ggml_set_name(t, name);
        return t;
    }

    ggml_tensor * rotate(ggml_context * ctx, ggml_tensor * x, int n) {
        ggml_tensor * rot   = named(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n, n), "rot");
        ggml_tensor * turned = ggml_mul_mat(ctx, rot, ggml_reshape_2d(ctx, x, n, ggml_nelements(x)/n));
        ggml_mul_mat_set_hint(turned, GGML_HINT_SRC0_IS_HADAMARD);
        return ggml_reshape_4d(ctx, turned, x->ne[0], x->ne[1], x->ne[2], x->ne[3]);
    }

    // heads of all there are, from `first` on, of each token
    ggml_tensor * project(ggml_context * ctx, ggml_tensor * qkv, int64_t first, int64_t heads) {
        if (qkv == nullptr) {
            return ggml_new_tensor_3d(ctx, GGML_TYPE_F32, head_size, heads, n_tokens);
        }
        return ggml_view_3d(ctx, qkv, head_size, heads, n_tokens, head_size*sizeof(float), qkv->nb[1], first*head_size*sizeof(float));
    }

    // what K (centered) and Q go through
    ggml_tensor * place(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos, bool rotated, bool centered) {
        if (norm) {
            x = ggml_mul(ctx, ggml_rms_norm(ctx, x, 1e-6f), ggml_new_tensor_1d(ctx, GGML_TYPE_F32, head_size));
        }
        if (mode >= 0 && yarn) {
            ggml_tensor * factors = named(ggml_new_tensor_1d(ctx, GGML_TYPE_F32, head_size/4), "factors");
            x = ggml_rope_ext(ctx, x, pos, factors, head_size/2, mode, 128, 10000.0f, 0.25f, 1.0f, 1.1f, 32.0f, 1.0f);
        } else if (mode >= 0) {
            x = ggml_rope(ctx, x, pos, head_size, mode);
        }
        if (centered) {
            x = ggml_sub(ctx, x, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, head_size, x->ne[1]));
        }
        return rotated ? rotate(ctx, x, head_size & -head_size) : x;
    }

    ggml_tensor * stored(ggml_context * ctx, ggml_tensor * x, ggml_type type, ggml_tensor * rows) {
        ggml_tensor * cache = ggml_new_tensor_2d(ctx, type, head_size*n_head_kv, n_kv);
        ggml_tensor * all   = ggml_set_rows(ctx, cache, ggml_reshape_2d(ctx, x, head_size*n_head_kv, n_tokens), rows);
        return ggml_view_3d(ctx, all, head_size, n_kv, n_head_kv, all->nb[1], ggml_row_size(type, head_size), 0);
    }

    ggml_tensor * build_graph(ggml_context * ctx) override {
        const bool rot_k = ggml_is_quantized(type_K), rot_v = ggml_is_quantized(type_V);
        ggml_tensor * pos  = named(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_tokens), "pos");
        ggml_tensor * rows = named(ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_tokens), "rows");
        ggml_tensor * qkv = fused ? ggml_new_tensor_2d(ctx, GGML_TYPE_F32, head_size*n_head_kv*(gqa + 2), n_tokens) : nullptr;
        ggml_tensor * q = ggml_permute(ctx, place(ctx, project(ctx, qkv, 0, n_head_kv*gqa), pos, rot_k, false), 0, 2, 1, 3);
        ggml_tensor * k = stored(ctx, place(ctx, project(ctx, qkv, n_head_kv*gqa, n_head_kv), pos, rot_k, center), type_K, rows);
        ggml_tensor * v = project(ctx, qkv, n_head_kv*(gqa + 1), n_head_kv);
        v = fused ? ggml_cont(ctx, v) : v;
        v = stored(ctx, rot_v ? rotate(ctx, v, 64) : v, type_V, rows);
        ggml_tensor * mask = named(ggml_new_tensor_4d(ctx, GGML_TYPE_F16, n_kv, n_tokens, 1, 1), "m");
        ggml_tensor * out  = ggml_flash_attn_ext(ctx, q, k, v, mask, 1.0f/sqrtf(head_size), 0.0f, 0.0f);
        ggml_prec_set_acc(out, GGML_PREC_F32);
        return named(rot_v ? rotate(ctx, out, 64) : out, "out");
    }

    static void set_hadamard(ggml_tensor * t) {
        const int n = t->ne[0];
        std::vector<float> data(n*n);
        for (int i = 0; i < n*n; ++i) {
            int bits = 0;
            for (int both = i/n & i%n; both != 0; both &= both - 1) { ++bits; }
            data[i] = (bits % 2 ? -1.0f : 1.0f)/sqrtf(n);
        }
        ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
    }

    void initialize_tensors(ggml_context * ctx) override {
        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t != NULL; t = ggml_get_next_tensor(ctx, t)) {
            if (ggml_is_view_op(t->op)) {
                continue;
            }
            if (strcmp(t->name, "rows") == 0) {
                init_set_rows_row_ids(t, n_kv);
            } else if (strcmp(t->name, "pos") == 0) {
                std::vector<int32_t> data(n_tokens);
                for (int32_t & value : data) { value = rand() % 512; }
                ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "rot") == 0) {
                set_hadamard(t);
            } else if (strcmp(t->name, "factors") == 0) {
                init_tensor_uniform(t, 0.9f, 1.1f);
            } else if (strcmp(t->name, "m") == 0) {
                init_tensor_kq_mask(t);
            } else {
                init_tensor_uniform(t);
            }
        }
    }
};
