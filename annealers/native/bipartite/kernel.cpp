// The bipartite kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "job.hpp"

namespace bipartite {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {nullptr, nullptr, nullptr};

}  // namespace bipartite
