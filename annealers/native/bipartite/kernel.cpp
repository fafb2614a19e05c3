// The bipartite kernel of one instruction set; compiled for each, which QSAMPLE_ISA names.
#include <cmath>

#include "exact.hpp"
#include "filter.hpp"
#include "reach.hpp"
#include "round.hpp"

namespace bipartite {

// Measured at 784 x 500 for 1 to 512 replicas and 1 and 10 sweeps (AVX-512, AVX2, SSE4.1; the last also stands for NEON).
#if defined(HAS_WOVEN)
constexpr Cost cost = {25, 40, 320};
#elif defined(__AVX512F__)
constexpr Cost cost = {16, 54, 90};
#elif defined(__AVX2__)
constexpr Cost cost = {18, 40, 100};
#else
constexpr Cost cost = {20, 48, 73};
#endif

extern const Kernel QSAMPLE_ISA;
#if defined(HAS_WOVEN)
constexpr double range = woven_range;
#else
constexpr double range = HUGE_VAL;
#endif
#if defined(HAS_BYTES)
const Kernel QSAMPLE_ISA = {reach, round, run_exact, tabulate, open, run, write, close, cost, range};
#else
const Kernel QSAMPLE_ISA = {reach, round, run_exact, nullptr, nullptr, nullptr, nullptr, nullptr, cost, range};
#endif

}  // namespace bipartite
