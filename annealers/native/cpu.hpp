// Which of the instruction sets that the kernels are compiled for this machine has.
#pragma once

namespace cpu {

#if defined(__x86_64__)
inline bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
inline bool has_avx512() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// The best of one kernel's three versions. A template, so that on other machines nothing names the x86 ones.
template <class Kernels>
auto best() {
#if defined(__x86_64__)
    if (has_avx512()) return Kernels::avx512();
    if (has_avx2()) return Kernels::avx2();
#endif
    return Kernels::plain();
}

}  // namespace cpu
