// Stands in for HIP's half types, for ggml-common.h.
#pragma once

typedef _Float16 half;

struct half2 {
    half x, y;
};
