// The instruction sets that the kernels are compiled for, and which of them this machine has. The one place that names them.
#pragma once

#include <string>
#include <vector>

#include "../bipartite/job.hpp"
#include "../dense/job.hpp"
#include "../logits/job.hpp"
#include "../products/job.hpp"
#include "../sparse/job.hpp"

namespace isa {

struct Set {
    const char *name;
    const sparse::Kernel *sparse;
    const dense::Kernel *dense;
    const bipartite::Kernel *bipartite;
    const logits::Kernel *logits;
    const products::Kernel *products;
};

// Those of this machine, the best first.
const std::vector<Set> &sets();

// The one of this name, or the best for "". Throws std::invalid_argument for one that this machine has not.
const Set &chosen(const std::string &name);

}  // namespace isa
