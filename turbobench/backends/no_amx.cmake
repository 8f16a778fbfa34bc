# Included after project(ggml), and so for ggml alone: the rest of a build stays valid when AMX is found not to run.
# An explicit -mno-amx-* wins over -march=native wherever it stands.
add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
