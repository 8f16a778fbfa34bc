// What the host code of ggml-metal-turbo.h says, for programs that cannot include ggml.h beside Metal's names.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void host_fa_type_name(const char * type_k, const char * type_v, char * name, size_t size);
bool host_fa_supported(const char * type_k, const char * type_v, int head_k, int head_v);

// whether every op that reads or writes a cache of that type is refused, whatever supports_op says of other types
bool host_refuses(const char * type);

#ifdef __cplusplus
}
#endif
