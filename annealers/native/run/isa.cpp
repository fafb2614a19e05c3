#include "isa.hpp"

#include <stdexcept>

#define QSAMPLE_KERNELS(NAME)                                                       \
    namespace sparse { extern const Kernel NAME; }                                  \
    namespace dense { extern const Kernel NAME; }                                   \
    namespace bipartite { extern const Kernel NAME; }                               \
    namespace logits { extern const Kernel NAME; }                                  \
    namespace products { extern const Kernel NAME; }
#define QSAMPLE_SET(NAME) isa::Set{#NAME, &sparse::NAME, &dense::NAME, &bipartite::NAME, &logits::NAME, &products::NAME}

QSAMPLE_KERNELS(plain)
#if defined(__x86_64__)
QSAMPLE_KERNELS(sse41)
QSAMPLE_KERNELS(avx2)
QSAMPLE_KERNELS(avx512)
namespace bipartite { extern const Kernel avx512vnni; }
#elif defined(__aarch64__)
QSAMPLE_KERNELS(neon)
#endif

namespace isa {

namespace {

std::vector<Set> here() {
    std::vector<Set> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        Set set = QSAMPLE_SET(avx512);
        if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
#if defined(QSAMPLE_CHECK)  // which looks at both
            found.push_back(set);
#endif
            set.bipartite = &bipartite::avx512vnni;
        }
        found.push_back(set);
    }
    if (__builtin_cpu_supports("avx2")) found.push_back(QSAMPLE_SET(avx2));
    if (__builtin_cpu_supports("sse4.1")) found.push_back(QSAMPLE_SET(sse41));
#elif defined(__aarch64__)
    found.push_back(QSAMPLE_SET(neon));  // which every such processor has
#endif
    found.push_back(QSAMPLE_SET(plain));
    return found;
}

}  // namespace

const std::vector<Set> &sets() {
    static const std::vector<Set> found = here();
    return found;
}

const Set &chosen(const std::string &name) {
    for (const Set &set : sets())
        if (name.empty() || name == set.name) return set;
    throw std::invalid_argument("this machine has no instruction set '" + name + "'");
}

}  // namespace isa
