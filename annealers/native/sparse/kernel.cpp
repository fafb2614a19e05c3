// The sparse kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "apart.hpp"
#include "exact.hpp"
#include "few.hpp"
#include "filter.hpp"

namespace sparse {

extern const Kernel QSAMPLE_ISA;
#if defined(HAS_BYTES)
const Kernel QSAMPLE_ISA = {run_exact<std::uint64_t>, run_exact<std::uint32_t>, run_filter<64>, run_filter<32>, run_few,
                            run_apart, fill, open<64>, serve, close};
#else
const Kernel QSAMPLE_ISA = {run_exact<std::uint64_t>, run_exact<std::uint32_t>, nullptr, nullptr, run_few, nullptr,
                            nullptr, nullptr, nullptr, nullptr};
#endif

}  // namespace sparse
