#include "bipartite.hpp"

namespace bipartite {
const Kernel avx2{"avx2", sums, run};
}
