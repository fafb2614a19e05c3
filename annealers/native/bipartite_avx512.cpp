#include "bipartite.hpp"

namespace bipartite {
const Kernel avx512{"avx512", sums, run};
}
