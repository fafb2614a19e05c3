#include "bipartite.hpp"

namespace bipartite {
const Kernel avx2{"avx2", add_up<false, float>, add_up<true, double>, prepare, run};
}
