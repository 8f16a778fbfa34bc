// The few lines of ggml.h that the codec kernels need, so that their tests compile without the llama.cpp tree.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGML_API extern
#define GGML_RESTRICT restrict
#define GGML_UNUSED(x) (void) (x)
