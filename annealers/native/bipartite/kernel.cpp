// The bipartite kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "exact.hpp"
#include "round.hpp"

namespace bipartite {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {round, run_exact};

}  // namespace bipartite
