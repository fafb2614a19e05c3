#include "bipartite.hpp"

namespace bipartite {
const Kernel plain{"plain", sums, run};
}
