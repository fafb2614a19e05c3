// The dense kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "job.hpp"

namespace dense {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {nullptr};

}  // namespace dense
