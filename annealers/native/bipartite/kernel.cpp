// The bipartite kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "exact.hpp"
#include "filter.hpp"
#include "round.hpp"

namespace bipartite {

extern const Kernel QSAMPLE_ISA;
#if defined(HAS_BYTES)
const Kernel QSAMPLE_ISA = {round, run_exact, tabulate, run_filter};
#else
const Kernel QSAMPLE_ISA = {round, run_exact, nullptr, nullptr};
#endif

}  // namespace bipartite
