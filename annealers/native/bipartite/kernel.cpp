// The bipartite kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include "exact.hpp"
#include "filter.hpp"
#include "round.hpp"

namespace bipartite {

// Measured at 784 x 500 and 64 x 64, for 1 and 10 sweeps (AVX2, SSE4.1; the others are inferred from these, by the
// lanes that one look-up serves).
#if defined(__AVX512F__)
constexpr double block_cost = 32, tables_cost = 60;
#elif defined(__AVX2__)
constexpr double block_cost = 15, tables_cost = 28;
#else
constexpr double block_cost = 12, tables_cost = 15;
#endif

extern const Kernel QSAMPLE_ISA;
#if defined(HAS_BYTES)
const Kernel QSAMPLE_ISA = {round, run_exact, tabulate, open, run, write, close, block_cost, tables_cost};
#else
const Kernel QSAMPLE_ISA = {round, run_exact, nullptr, nullptr, nullptr, nullptr, nullptr, block_cost, tables_cost};
#endif

}  // namespace bipartite
