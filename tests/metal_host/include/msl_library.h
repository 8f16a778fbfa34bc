// Kernels by the name that host code asks for. msl_to_cpp.py makes an MSL_KERNEL of each
// `template [[host_name("...")]] kernel type function<...>;`.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace host {

typedef void (*any_kernel)();

inline std::map<std::string, any_kernel> & library() {
    static std::map<std::string, any_kernel> kernels;
    return kernels;
}

struct library_entry {
    library_entry(const std::string & name, any_kernel function) {
        if (!library().emplace(name, function).second) {
            fprintf(stderr, "two kernels are called %s\n", name.c_str());
            abort();
        }
    }
};

template <class F> F * find_kernel(const std::string & name) {
    const auto found = library().find(name);
    if (found == library().end()) {
        fprintf(stderr, "no kernel is called %s\n", name.c_str());
        exit(2);
    }
    return (F *) found->second;
}

} // namespace host

#define MSL_JOIN_(a, b) a##b
#define MSL_JOIN(a, b)  MSL_JOIN_(a, b)
#define MSL_KERNEL(name, ...) \
    static const host::library_entry MSL_JOIN(msl_entry_, __COUNTER__)(name, (host::any_kernel) &__VA_ARGS__);
