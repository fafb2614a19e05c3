// From products to spins, of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "rows.hpp"

namespace logits {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {run};

}  // namespace logits
