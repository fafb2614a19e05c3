// One side of a bipartite problem to be redrawn, for P problems with R replicas each. Plain data.
#pragma once

#include <cstdint>

namespace logits {

using Half = std::uint16_t;  // bfloat16

struct Job {
    std::int64_t n, replicas;
    bool half, metropolis, beta_by_row;
    const void *product;                              // [P R, n] float or bfloat16
    void *bits;                                       // the same: 0 and 1, in (for Metropolis) and out
    const float *bias;                                // [P or 1, n]
    std::int64_t bias_stride;                         // n or 0
    const float *beta;                                // [1] or [P R]
    const std::uint64_t *seed;                        // [P]
    const std::uint32_t *visit_low, *visit_high;      // [n, and padding for a whole vector]
    std::uint32_t first_replica = 0;                  // replica 0 draws the numbers of this one
};

using Run = void (*)(const Job &, std::int64_t first, std::int64_t last);

struct Kernel {
    Run run;
};

}  // namespace logits
