#include "sparse.hpp"

namespace sparse {
const Kernel avx512 = {"avx512", run<std::uint64_t>, run<std::uint32_t>, run_few};
}
