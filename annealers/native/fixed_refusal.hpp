// What fields of 16 bits cannot hold is refused, before a sweep.
#pragma once

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "fixed_table.hpp"

namespace sparse {

// The largest beta of a call.
template <class Job>
float coldest(const Job &job) {
    float most = 0;
    for (std::int64_t k = 0; k < job.sweeps * (job.beta_stride ? job.beta_stride : 1); ++k) {
        if (!(job.beta[k] >= 0)) throw std::invalid_argument("expected betas >= 0 beside precision='fixed16'");
        most = std::max(most, job.beta[k]);
    }
    return most;
}

// The unit, where it is fine enough.
inline float fine_unit(const Scale &scale, float coldest) {
    if (2 * coldest * scale.unit <= coarsest) return scale.unit;
    char text[200];
    std::snprintf(text, sizeof text, "16-bit fields hold 2 beta |f| up to %g; got beta %g with a field of up to %g: "
                  "use precision='full'", coarsest * 32768, coldest, scale.largest);
    throw std::invalid_argument(text);
}

// By rule.
inline const Table *tables() {
    static const Table both[] = {make_table(Rule::heat_bath), make_table(Rule::metropolis)};
    return both;
}

}  // namespace sparse
