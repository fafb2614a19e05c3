#include "bipartite.hpp"

namespace bipartite {
const Kernel plain{"plain", add_up<false, float>, add_up<true, double>, prepare, run};
}
