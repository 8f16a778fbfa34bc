#pragma once

// Attention of few queries with turbo3 or turbo4 in the cache, by turbo_decode.comp and turbo_decode_combine.comp: when it is
// taken and how it is cut into workgroups.

#include "ggml-vulkan-common.h"
#include "ggml-vulkan-turbo.h"

// turbo_decode.comp has them in this order
struct vk_turbo_decode_push_constants {
    uint32_t tokens, KV;
    uint32_t heads, group;
    uint32_t sequences, k_share, v_share;
    uint32_t mask_tokens, mask_heads, mask_sequences;
    uint32_t q_token, q_head, q_sequence;
    uint32_t k_position, k_head, k_sequence;
    uint32_t v_position, v_head, v_sequence;
    float    scale, softcap, max_bias, m0, m1;
    uint32_t head_log2;
    uint32_t run, splits;
};
static_assert(sizeof(vk_turbo_decode_push_constants) <= 128, "Vulkan promises 128 bytes");

struct vk_turbo_decode_combine_push_constants {
    uint32_t D, heads, tokens, sequences, splits, sinks, rotate;
};

// To be measured with other values: GGML_VK_FA_TURBO_DECODE=threads,batch,kv_heads,workgroups. Anything that is not four such
// numbers, 0 say, leaves these types on the path that all others take.
struct vk_turbo_decode_tuning {
    uint32_t threads    = 128; // of a workgroup
    uint32_t batch      = 4;   // positions that a team has at a time, at head sizes up to 128: 2 or 4
    uint32_t kv_heads   = 4;   // of a workgroup, if their number can be divided by it: 1, 2 or 4
    uint32_t workgroups = 2;   // for each core of the device
};

static inline const vk_turbo_decode_tuning & ggml_vk_turbo_decode_tuning() {
    static const vk_turbo_decode_tuning tuning = [] {
        vk_turbo_decode_tuning t;
        if (const char * given = getenv("GGML_VK_FA_TURBO_DECODE")) {
            const int n = sscanf(given, "%u,%u,%u,%u", &t.threads, &t.batch, &t.kv_heads, &t.workgroups);
            if (n != 4 || (t.batch != 2 && t.batch != 4) || (t.kv_heads != 1 && t.kv_heads != 2 && t.kv_heads != 4)) {
                t.threads = 0;
            }
        }
        return t;
    }();
    return tuning;
}

// How one call is done. spec: the specialization constants of turbo_decode.comp.
struct vk_turbo_decode_plan {
    std::vector<uint32_t> spec;
    uint32_t row_groups, kv_groups; // workgroups for the queries of a head of K, for the heads of K
    uint32_t run, splits;           // positions of a split
    uint64_t scratch;               // bytes of the splits' outputs
};

static inline bool ggml_vk_turbo_decode_reads(const ggml_tensor * t) {
    switch (t->type) {
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_TURBO3:
        case GGML_TYPE_TURBO4:
            return ggml_nbytes(t) <= UINT32_MAX;
        case GGML_TYPE_F16:
            return ggml_nbytes(t) <= UINT32_MAX && (t->nb[1] | t->nb[2] | t->nb[3]) % 4 == 0;
        default:
            return false;
    }
}

static inline vk_turbo_decode_plan ggml_vk_turbo_decode_plan(const vk_device & device, const ggml_tensor * q, const ggml_tensor * k, const ggml_tensor * v, bool mask, bool softcap) {
    const vk_turbo_decode_tuning & tuning = ggml_vk_turbo_decode_tuning();

    const uint32_t d        = k->ne[0];
    const uint32_t kv       = k->ne[1];
    const uint32_t queries  = q->ne[1]*(q->ne[2]/k->ne[2]);
    const uint32_t rows     = queries == 1 ? 1 : queries == 2 || d == 256 ? 2 : 4;
    const uint32_t batch    = d == 256 ? 2 : tuning.batch;
    const uint32_t streams1 = tuning.threads/(d == 64 ? 4 : 8); // if it had one head

    uint32_t kv_heads = tuning.kv_heads;
    while (k->ne[2] % kv_heads != 0 || streams1 < kv_heads) {
        kv_heads /= 2;
    }

    vk_turbo_decode_plan plan;
    plan.spec = { tuning.threads, d, (uint32_t) k->type, (uint32_t) v->type, rows, batch, kv_heads, (mask ? 1u : 0u) | (softcap ? 2u : 0u) };
    plan.row_groups = CEIL_DIV(queries, rows);
    plan.kv_groups  = k->ne[2]/kv_heads;

    const uint32_t cores  = device->shader_core_count ? device->shader_core_count : 16;
    const uint32_t groups = plan.row_groups*plan.kv_groups*(uint32_t) q->ne[3];
    const uint32_t step   = streams1/kv_heads*batch;
    const uint32_t wanted = std::max(1u, cores*tuning.workgroups/groups);
    plan.run    = ROUNDUP_POW2(CEIL_DIV(kv, wanted), step);
    plan.splits = CEIL_DIV(kv, plan.run);
    plan.scratch = (uint64_t) plan.splits*(d + 2)*sizeof(float)*q->ne[1]*q->ne[2]*q->ne[3];
    return plan;
}

static inline bool ggml_vk_turbo_decode_takes(const vk_device & device, const ggml_tensor * q, const ggml_tensor * k, const ggml_tensor * v, const ggml_tensor * mask) {
    const uint32_t threads = ggml_vk_turbo_decode_tuning().threads;
    const int64_t  d       = k->ne[0];
    return threads != 0 && (ggml_vk_is_turbo(k->type) || ggml_vk_is_turbo(v->type)) &&
           ggml_vk_turbo_decode_reads(k) && ggml_vk_turbo_decode_reads(v) &&
           (d == 64 || d == 128 || d == 256) && v->ne[0] == d &&
           k->ne[2] == v->ne[2] && q->ne[2] % k->ne[2] == 0 && q->ne[1]*(q->ne[2]/k->ne[2]) <= 32 &&
           (!mask || mask->type == GGML_TYPE_F16) &&
           device->subgroup_basic && device->subgroup_shuffle && device->subgroup_require_full_support &&
           device->subgroup_size >= 8 && threads % device->subgroup_size == 0 &&
           ggml_vk_turbo_decode_plan(device, q, k, v, false, false).scratch <= device->properties.limits.maxStorageBufferRange;
}

static inline vk_pipeline ggml_vk_turbo_decode_pipeline(vk_device & device, const std::vector<uint32_t> & spec) {
    std::lock_guard<std::mutex> guard(device->compile_mutex);
    vk_pipeline & pipeline = device->pipeline_turbo_decode[spec];
    if (!pipeline) {
        pipeline = std::make_shared<vk_pipeline_struct>();
    }
    return pipeline;
}

// Does the attention if this is how it is best done; false if it is still to be done. With `rotated`, what is written is
// not dst but this product of a Hadamard matrix with it.
static inline bool ggml_vk_turbo_decode(ggml_backend_vk_context * ctx, vk_context & subctx, const ggml_tensor * q, const ggml_tensor * k, const ggml_tensor * v, const ggml_tensor * mask, const ggml_tensor * sinks, ggml_tensor * dst, ggml_tensor * rotated = nullptr) {
    vk_device & device = ctx->device;
    if (!ggml_vk_turbo_decode_takes(device, q, k, v, mask)) {
        return false;
    }

    float scale, max_bias, softcap;
    memcpy(&scale,    (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&max_bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&softcap,  (const float *) dst->op_params + 2, sizeof(float));
    if (softcap != 0.0f) {
        scale /= softcap;
    }
    const uint32_t heads     = q->ne[2];
    const uint32_t head_log2 = 1u << (uint32_t) floorf(log2f((float) heads));

    const vk_turbo_decode_plan plan = ggml_vk_turbo_decode_plan(device, q, k, v, mask != nullptr, softcap != 0.0f);

    vk_pipeline pipeline = ggml_vk_turbo_decode_pipeline(device, plan.spec);
    ggml_pipeline_request_descriptor_sets(ctx, pipeline, 1);
    ggml_pipeline_request_descriptor_sets(ctx, device->pipeline_turbo_decode_combine, 1);

    if (ctx->prealloc_size_split_k < plan.scratch) {
        ctx->prealloc_size_split_k = plan.scratch;
        ggml_vk_preallocate_buffers(ctx, subctx);
    }
    if (ctx->prealloc_split_k_need_sync) {
        ggml_vk_sync_buffers(ctx, subctx);
    }

    auto halves = [](size_t bytes) { return (uint32_t) (bytes/sizeof(ggml_fp16_t)); };
    auto floats = [](size_t bytes) { return (uint32_t) (bytes/sizeof(float)); };

    const vk_turbo_decode_push_constants pc = {
        (uint32_t) q->ne[1], (uint32_t) k->ne[1],
        heads, heads/(uint32_t) k->ne[2],
        (uint32_t) q->ne[3], (uint32_t) (q->ne[3]/k->ne[3]), (uint32_t) (q->ne[3]/v->ne[3]),
        mask ? (uint32_t) mask->ne[1] : 1, mask ? (uint32_t) mask->ne[2] : 1, mask ? (uint32_t) mask->ne[3] : 1,
        floats(q->nb[1]), floats(q->nb[2]), floats(q->nb[3]),
        halves(k->nb[1]), halves(k->nb[2]), halves(k->nb[3]),
        halves(v->nb[1]), halves(v->nb[2]), halves(v->nb[3]),
        scale, softcap, max_bias, powf(2.0f, -max_bias/head_log2), powf(2.0f, -max_bias/2.0f/head_log2),
        head_log2,
        plan.run, plan.splits,
    };

    const vk_subbuffer q_buf = ggml_vk_tensor_subbuffer(ctx, q);
    const vk_subbuffer split = ggml_vk_subbuffer(ctx, ctx->prealloc_split_k, 0);
    ggml_vk_dispatch_pipeline(ctx, subctx, pipeline,
                              { q_buf, ggml_vk_tensor_subbuffer(ctx, k), ggml_vk_tensor_subbuffer(ctx, v), mask ? ggml_vk_tensor_subbuffer(ctx, mask) : q_buf, split },
                              pc, { plan.splits*plan.row_groups, plan.kv_groups, (uint32_t) q->ne[3] });
    ggml_vk_sync_buffers(ctx, subctx);

    const vk_turbo_decode_combine_push_constants pc2 = { (uint32_t) k->ne[0], heads, (uint32_t) q->ne[1], (uint32_t) q->ne[3], plan.splits, sinks != nullptr, rotated != nullptr };
    ggml_vk_dispatch_pipeline(ctx, subctx, device->pipeline_turbo_decode_combine,
                              { split, sinks ? ggml_vk_tensor_subbuffer(ctx, sinks) : q_buf, ggml_vk_tensor_subbuffer(ctx, rotated ? rotated : dst) },
                              pc2, { heads, (uint32_t) k->ne[0]/64, (uint32_t) (q->ne[1]*q->ne[3]) });
    ctx->prealloc_split_k_need_sync = true;
    return true;
}

// Inside of ggml_vk_load_shaders.
#define GGML_VK_CREATE_TURBO_DECODE_PIPELINES() \
    for (auto & it : device->pipeline_turbo_decode) { \
        ggml_vk_create_pipeline(device, it.second, "turbo_decode", turbo_decode_len, turbo_decode_data, "main", 5, sizeof(vk_turbo_decode_push_constants), {1, 1, 1}, it.first, 1, true, true); \
    } \
    ggml_vk_create_pipeline(device, device->pipeline_turbo_decode_combine, "turbo_decode_combine", turbo_decode_combine_len, turbo_decode_combine_data, "main", 3, sizeof(vk_turbo_decode_combine_push_constants), {1, 1, 1}, {}, 1, true);
