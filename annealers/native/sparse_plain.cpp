#include "sparse.hpp"

namespace sparse {
const Kernel plain = {"plain", run<std::uint64_t>, run<std::uint32_t>, run_few};
}
