// Products with bits, of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "sums.hpp"

namespace products {

extern const Kernel QSAMPLE_ISA;
const Kernel QSAMPLE_ISA = {words, words_of_columns, run, outer};

}  // namespace products
