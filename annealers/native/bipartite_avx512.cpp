#include "bipartite.hpp"

namespace bipartite {
const Kernel avx512{"avx512", add_up<false, float>, add_up<true, double>, prepare, run};
}
