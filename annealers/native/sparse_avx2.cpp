#include "sparse.hpp"

namespace sparse {
const Kernel avx2 = {"avx2", run<std::uint64_t>, run<std::uint32_t>, run_few};
}
