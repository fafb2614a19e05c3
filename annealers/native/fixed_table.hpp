// The probabilities of the 16-bit path, as tables that fit in registers. Plain data, the same for all instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "job.hpp"

namespace sparse {

// p(|x|) in units of 2^-16 for the logit |x| = 2 beta |f| = reach y / 2^16, y < 2^16: in segment k = y >> 10, with
// t = (y mod 2^10) / 2^10, it is c0 - t (c1 - t c2). Smaller probabilities than 2^-17 count as 0.
constexpr double reach = 11.8;
constexpr double coarsest = 1.0 / 64;  // steps of the logit, from one multiple of a field's unit to the next, allowed

// p = 1 / (1 + e^|x|), the probability of the unlikely sign, or e^-|x|, that of a flip uphill. Quadratics through the
// Chebyshev nodes of their segments. p is off by at most 6.5e-5 (heat bath): 3.7e-5 by the table, 2.3e-5 by half a step
// of y at slope 1/4, 0.4e-5 by the factor's 16 bits; likewise 2.2e-4 (Metropolis).
inline Table make_table(Rule rule) {
    Table table{};
    for (int k = 0; k < 63; ++k) {  // the last segment is 0: p < 2^-16 there, and stronger fields are cut to it
        const bool through_half = rule == Rule::heat_bath && k == 0;  // exactly 1/2 in no field, or symmetry were lost
        const double a = through_half ? 0.0 : 0.5 - std::sqrt(3.0) / 4, b = 0.5, c = 0.5 + std::sqrt(3.0) / 4;
        const auto p = [&](double t) {  // y is a truncated product: half a unit too small in the mean, but exact at 0
            const double x = (1024 * (k + t) + (through_half ? t / 2 : 0.5)) * reach / 65536;
            return 65536 * (rule == Rule::heat_bath ? 1 / (1 + std::exp(x)) : std::exp(-x));
        };
        const double slope = (p(b) - p(a)) / (b - a), bend = ((p(c) - p(b)) / (c - b) - slope) / (c - a);
        const double at0 = p(a) - a * slope + a * b * bend;
        // The product's truncation makes p half a unit too large in the mean.
        table.c0[k] = static_cast<std::uint16_t>(std::lrint(std::fmin(through_half ? at0 : at0 - 0.5, 65535)));
        table.c1[k] = static_cast<std::uint16_t>(std::lrint((a + b) * bend - slope));
        table.c2[k] = static_cast<std::uint16_t>(std::lrint(bend));
    }
    return table;
}

// How far couplings can push each spin, [n]: the sum of |J_ij|.
inline std::vector<double> reaches(const Job &job, const float *J) {
    std::vector<double> push(static_cast<std::size_t>(job.n));
    for (std::int64_t i = 0; i < job.n; ++i)
        for (std::int32_t e = job.start[i]; e < job.start[i + 1]; ++e) push[i] += std::fabs(J[job.edge[e]]);
    return push;
}
// The largest field that any state of a problem has, and the unit of its fields in 16 bits: that field or, if larger, 1.5
// times the largest that couplings alone make takes all steps, so that problems that share J mostly share the unit.
struct Scale {
    float largest, unit;
};
inline Scale scale_of(double largest, double pushed, std::int64_t degree) {
    const double steps = 32766 - static_cast<double>(degree) / 4;  // rounding may add up to half of one, and d/4
    const double range = std::fmax(largest, 1.5 * pushed);         // 0: no field at all, any unit does
    if (steps < 1) return {static_cast<float>(largest), 1e30f};    // which is refused
    return {static_cast<float>(largest), range > 0 ? static_cast<float>(range / steps) : 1e-30f};
}
inline Scale scale_of(const Job &job, std::int64_t p, const std::vector<double> &push) {
    double largest = 0, pushed = 0;
    std::int32_t degree = 0;
    for (std::int64_t i = 0; i < job.n; ++i) {
        largest = std::fmax(largest, push[i] + std::fabs(job.h[p * job.n + job.order[i]]));
        pushed = std::fmax(pushed, push[i]);
        degree = job.start[i + 1] - job.start[i] > degree ? job.start[i + 1] - job.start[i] : degree;
    }
    return scale_of(largest, pushed, degree);
}

}  // namespace sparse
