// The dense kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "rows.hpp"

namespace dense {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {run_rows, round_rows};

}  // namespace dense
