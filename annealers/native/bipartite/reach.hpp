// How far the couplings of a spin push it at most. The order of sums is part of the law, the same for every instruction set:
// those of a row by turns to sixteen, those of a column one after the other.
#pragma once

#include <cmath>

#include "../vec/words.hpp"

namespace bipartite {
namespace {

using namespace vec;

inline double reach(const float *J, std::int64_t n, std::int64_t m, double *column) {
    constexpr int beside = 16, wide = W / 2;
    typedef float S __attribute__((vector_size(4 * wide)));
    typedef double D __attribute__((vector_size(8 * wide)));
    typedef std::int64_t Q __attribute__((vector_size(8 * wide)));
    const Q sign = Q{} + INT64_MIN;
    for (std::int64_t j = 0; j < m; ++j) column[j] = 0;
    double most = 0;
    for (std::int64_t i = 0; i < n; ++i, J += m) {
        D sums[beside / wide] = {};
        std::int64_t j = 0;
        for (; j + beside <= m; j += beside)
            each<beside / wide>([&](int k) __attribute__((always_inline)) {
                const std::int64_t at = j + k * wide;
                const D size = (D)((Q)__builtin_convertvector(load<S>(J + at), D) & ~sign);
                sums[k] += size;
                store(column + at, load<D>(column + at) + size);
            });
        double part[beside];
        std::memcpy(part, sums, sizeof part);
        for (; j < m; ++j) {
            const double size = std::fabs(static_cast<double>(J[j]));
            part[j % beside] += size, column[j] += size;
        }
        double row = 0;
        for (const double one : part) row += one;
        if (row > most) most = row;
    }
    for (std::int64_t j = 0; j < m; ++j)
        if (column[j] > most) most = column[j];
    return most;
}

}  // namespace
}  // namespace bipartite
