#include "turbo-quants.cuh"
#include "turbo-quants-encode.cuh"

// ---- what is supported ------------------------------------------------------------------------------------------------

// turbo3t is a type of the CPU alone: there is no kernel for it here
static bool ggml_cuda_is_turbo3t(ggml_type type) {
    return type == GGML_TYPE_TURBO3T;
}

static bool ggml_cuda_touches(const ggml_tensor * op, bool (*is)(ggml_type)) {
    bool touches = is(op->type);
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        touches = touches || (op->src[i] && is(op->src[i]->type));
    }
    return touches;
}

bool ggml_cuda_turbo_unsupported(const ggml_tensor * op) {
    const bool turbo3t = ggml_cuda_touches(op, ggml_cuda_is_turbo3t);
    if (!turbo3t && !ggml_cuda_touches(op, ggml_cuda_is_turbo)) {
        return false;
    }
    switch (op->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return false;
        case GGML_OP_GET_ROWS:
        case GGML_OP_SET_ROWS:
        case GGML_OP_CPY:
        case GGML_OP_FLASH_ATTN_EXT:
            return turbo3t;
        case GGML_OP_CONT:
        case GGML_OP_DUP: // as memory
            return turbo3t || op->type != op->src[0]->type || !ggml_is_contiguous(op) || !ggml_is_contiguous(op->src[0]);
        default:
            return true;
    }
}

bool ggml_cuda_cpy_turbo_supported(const ggml_tensor * src0, const ggml_tensor * src1) {
    const bool encode = src0->type == GGML_TYPE_F32 && ggml_cuda_is_turbo(src1->type);
    const bool decode = src1->type == GGML_TYPE_F32 && ggml_cuda_is_turbo(src0->type);
    const ggml_tensor * blocks = encode ? src1 : src0;
    // a block must not cross the end of a row
    return (encode || decode) && src0->ne[0] % QK_TURBO == 0 && src1->ne[0] % QK_TURBO == 0 &&
        blocks->nb[0] == ggml_type_size(blocks->type) &&
        (encode || src1->nb[0] == sizeof(float));
}

// ---- CPY --------------------------------------------------------------------------------------------------------------

// A tensor as blocks of 64 values: blocks of a row, rows, strides in bytes. nb0 is from one block to the next.
struct turbo_layout {
    int64_t ne0, ne1, ne2;
    int64_t nb0, nb1, nb2, nb3;
};

static turbo_layout turbo_layout_of(const ggml_tensor * t) {
    const int64_t n = QK_TURBO/ggml_blck_size(t->type);
    return { t->ne[0]/QK_TURBO, t->ne[1], t->ne[2], (int64_t) t->nb[0]*n, (int64_t) t->nb[1], (int64_t) t->nb[2], (int64_t) t->nb[3] };
}

static __device__ __forceinline__ int64_t turbo_offset(const turbo_layout & l, int64_t i) {
    const int64_t i1 = i /l.ne0;
    const int64_t i2 = i1/l.ne1;
    const int64_t i3 = i2/l.ne2;
    return (i - i1*l.ne0)*l.nb0 + (i1 - i2*l.ne1)*l.nb1 + (i2 - i3*l.ne2)*l.nb2 + i3*l.nb3;
}

constexpr int ENCODE_WARPS = 4;

template <typename block_t>
static __global__ void __launch_bounds__(ENCODE_WARPS*TURBO_LANES) k_cpy_f32_turbo(
        const char * src, char * dst, const turbo_layout ls, const turbo_layout ld, const int64_t n_blocks) {
    __shared__ turbo_encode_shared<block_t, ENCODE_WARPS> shared;
    turbo_encode_prepare(shared);
    // the last CTA can have warps to spare: they do the last block once more, for all must reach the barriers
    const int64_t i = min((int64_t) blockIdx.x*ENCODE_WARPS + threadIdx.x/TURBO_LANES, n_blocks - 1);
    const int64_t nb = ls.nb0/QK_TURBO; // values of a source need not be neighbours
    const char  * from = src + turbo_offset(ls, i);
    char        * y    = dst + turbo_offset(ld, i);
    ggml_cuda_pdl_sync();
    float x[2];
    for (int e = 0; e < 2; ++e) { x[e] = *(const float *) (from + row_index<QK_TURBO>(threadIdx.x%TURBO_LANES, e)*nb); }
    turbo_encode<QK_TURBO, 1>(shared, x, (block_t *) y);
}

constexpr int DECODE_THREADS = 256;

template <typename block_t>
static __global__ void __launch_bounds__(DECODE_THREADS) k_cpy_turbo_f32(
        const char * src, char * dst, const turbo_layout ls, const turbo_layout ld, const int64_t n_blocks) {
    const int64_t i = (int64_t) blockIdx.x*(DECODE_THREADS/8) + threadIdx.x/8;
    if (i >= n_blocks) {
        return;
    }
    ggml_cuda_pdl_sync();
    const int j = threadIdx.x % 8;
    turbo_decode_eighth(turbo_load_packed((const block_t *) (src + turbo_offset(ls, i)), j), j, (turbo_f32 *) (dst + turbo_offset(ld, i)));
}

template <typename block_t>
static void cpy_turbo_cuda(const ggml_tensor * src0, ggml_tensor * src1, cudaStream_t stream) {
    const turbo_layout ls = turbo_layout_of(src0);
    const turbo_layout ld = turbo_layout_of(src1);
    const int64_t n_blocks = ggml_nelements(src0)/QK_TURBO;
    const bool    encode   = src0->type == GGML_TYPE_F32;
    const int64_t per_cta  = encode ? ENCODE_WARPS : DECODE_THREADS/8;
    const int64_t n_ctas   = (n_blocks + per_cta - 1)/per_cta;
    GGML_ASSERT(n_ctas <= INT_MAX);
    if (n_ctas == 0) {
        return;
    }
    const dim3 threads(encode ? ENCODE_WARPS*TURBO_LANES : DECODE_THREADS, 1, 1);
    const ggml_cuda_kernel_launch_params launch_params(dim3((unsigned) n_ctas, 1, 1), threads, 0, stream);
    const char * x = (const char *) src0->data;
    char       * y = (char *) src1->data;
    if (encode) {
        ggml_cuda_kernel_launch(k_cpy_f32_turbo<block_t>, launch_params, x, y, ls, ld, n_blocks);
    } else {
        ggml_cuda_kernel_launch(k_cpy_turbo_f32<block_t>, launch_params, x, y, ls, ld, n_blocks);
    }
}

void ggml_cuda_cpy_turbo(ggml_backend_cuda_context & ctx, const ggml_tensor * src0, ggml_tensor * src1) {
    GGML_ASSERT(ggml_cuda_cpy_turbo_supported(src0, src1));
    const ggml_type type = src0->type == GGML_TYPE_F32 ? src1->type : src0->type;
    if (type == GGML_TYPE_TURBO3) {
        cpy_turbo_cuda<block_turbo3>(src0, src1, ctx.stream());
    } else {
        cpy_turbo_cuda<block_turbo4>(src0, src1, ctx.stream());
    }
}
