// Runs one codec function over stdin -> stdout, or times them all: `codec_driver isa`, `codec_driver bench`,
// `codec_driver {quantize|dequantize|dot} {ref|simd} {turbo3|turbo4|turbo3t}`.
// quantize: floats -> blocks. dequantize: blocks -> floats. dot: per 64 values one turbo block, then its two Q8_0
// blocks -> one float for the whole row.
#define _POSIX_C_SOURCE 200809L

#include "turbo-quants.h"
#include "turbo-trellis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*quantize_fn)(const float *, void *, int64_t);
typedef void (*dequantize_fn)(const void *, float *, int64_t);
typedef void (*dot_fn)(int, float *, size_t, const void *, size_t, const void *, size_t, int);

struct codec {
    const char *  path;
    const char *  type;
    size_t        block_bytes;
    quantize_fn   quantize;
    dequantize_fn dequantize;
    dot_fn        dot;
};

#define WRAP(N)                                                                                                        \
    static void quantize_ref_##N(const float * x, void * y, int64_t k) { quantize_row_turbo##N##_ref(x, y, k); }       \
    static void dequantize_ref_##N(const void * x, float * y, int64_t k) { dequantize_row_turbo##N(x, y, k); }         \
    static void dequantize_simd_##N(const void * x, float * y, int64_t k) { turbo_dequantize_row_turbo##N(x, y, k); }

WRAP(3)
WRAP(4)
WRAP(3t)

static const struct codec codecs[] = {
    { "ref",  "turbo3", sizeof(block_turbo3), quantize_ref_3,      dequantize_ref_3,  ggml_vec_dot_turbo3_q8_0_generic },
    { "simd", "turbo3", sizeof(block_turbo3), quantize_row_turbo3, dequantize_simd_3, ggml_vec_dot_turbo3_q8_0         },
    { "ref",  "turbo4", sizeof(block_turbo4), quantize_ref_4,      dequantize_ref_4,  ggml_vec_dot_turbo4_q8_0_generic },
    { "simd", "turbo4", sizeof(block_turbo4), quantize_row_turbo4, dequantize_simd_4, ggml_vec_dot_turbo4_q8_0         },
    { "ref",  "turbo3t", sizeof(block_turbo3t), quantize_ref_3t,      dequantize_ref_3t,  ggml_vec_dot_turbo3t_q8_0_generic },
    { "simd", "turbo3t", sizeof(block_turbo3t), quantize_row_turbo3t, dequantize_simd_3t, ggml_vec_dot_turbo3t_q8_0         },
};
static const size_t n_codecs = sizeof(codecs)/sizeof(codecs[0]);

static unsigned char * read_all(size_t * size) {
    size_t capacity = 1 << 20;
    unsigned char * data = malloc(capacity);
    *size = 0;
    for (size_t n; (n = fread(data + *size, 1, capacity - *size, stdin)) > 0; ) {
        *size += n;
        if (*size == capacity) {
            data = realloc(data, capacity *= 2);
        }
    }
    return data;
}

static void write_all(const void * data, size_t size) {
    if (fwrite(data, 1, size, stdout) != size) {
        exit(3);
    }
}

static void run(const struct codec * c, const char * verb) {
    size_t size;
    unsigned char * in = read_all(&size);
    if (strcmp(verb, "quantize") == 0) {
        const size_t k = size/sizeof(float);
        void * out = malloc(k/QK_TURBO*c->block_bytes);
        c->quantize((const float *) (void *) in, out, (int64_t) k);
        write_all(out, k/QK_TURBO*c->block_bytes);
    } else if (strcmp(verb, "dequantize") == 0) {
        const size_t k = size/c->block_bytes*QK_TURBO;
        float * out = malloc(k*sizeof(float));
        c->dequantize(in, out, (int64_t) k);
        write_all(out, k*sizeof(float));
    } else if (strcmp(verb, "dot") == 0) {
        const size_t n = size/(c->block_bytes + 2*sizeof(block_q8_0));
        float out;
        c->dot((int) (n*QK_TURBO), &out, 0, in, 0, in + n*c->block_bytes, 0, 1);
        write_all(&out, sizeof(out));
    } else {
        exit(2);
    }
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9*(double) t.tv_sec + (double) t.tv_nsec;
}

static void bench(const struct codec * c) {
    enum { BLOCKS = 256, REPEATS = 40 };
    static float x[BLOCKS*QK_TURBO];
    static unsigned char blocks[BLOCKS*sizeof(block_turbo4)];
    static block_q8_0 q[2*BLOCKS];
    unsigned seed = 1;
    for (int i = 0; i < BLOCKS*QK_TURBO; ++i) {
        x[i] = -6.0f;
        for (int j = 0; j < 12; ++j) {
            seed = seed*1664525u + 1013904223u;
            x[i] += (float) (seed >> 8) / 16777216.0f;
        }
        q[i/QK8_0].d = 0x2400;
        q[i/QK8_0].qs[i % QK8_0] = (int8_t) (20*x[i]);
    }
    double best[3] = { 1e30, 1e30, 1e30 };
    float sink = 0.0f;
    for (int r = 0; r < REPEATS; ++r) {
        const double t0 = now_ns();
        c->quantize(x, blocks, BLOCKS*QK_TURBO);
        const double t1 = now_ns();
        float dot;
        c->dot(BLOCKS*QK_TURBO, &dot, 0, blocks, 0, q, 0, 1);
        sink += dot;
        const double t2 = now_ns();
        static float y[BLOCKS*QK_TURBO];
        c->dequantize(blocks, y, BLOCKS*QK_TURBO);
        sink += y[r];
        const double t3 = now_ns();
        const double took[3] = { t1 - t0, t2 - t1, t3 - t2 };
        for (int i = 0; i < 3; ++i) {
            best[i] = took[i] < best[i] ? took[i] : best[i];
        }
    }
    printf("%s %-4s ns/block: encode %.1f  dot %.2f  decode %.2f  (checksum %g)\n",
           c->type, c->path, best[0]/BLOCKS, best[1]/BLOCKS, best[2]/BLOCKS, (double) sink);
}

int main(int argc, char ** argv) {
    if (argc == 2 && strcmp(argv[1], "isa") == 0) {
        puts(turbo_quants_isa());
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "bench") == 0) {
        for (size_t i = 0; i < n_codecs; ++i) {
            bench(&codecs[i]);
        }
        return 0;
    }
    for (size_t i = 0; argc == 4 && i < n_codecs; ++i) {
        if (strcmp(argv[2], codecs[i].path) == 0 && strcmp(argv[3], codecs[i].type) == 0) {
            run(&codecs[i], argv[1]);
            return 0;
        }
    }
    fprintf(stderr, "usage: codec_driver isa | bench | {quantize|dequantize|dot} {ref|simd} {turbo3|turbo4|turbo3t}\n");
    return 2;
}
