// How far the couplings of a spin push it at most. The order of sums is part of the law, the same for every instruction set:
// those of a row by turns to sixteen, those of a column one after the other.
#pragma once

#include <cmath>

#include "../vec/words.hpp"

namespace bipartite {
namespace {

using namespace vec;

// The largest sum of some rows, which load and store those of columns once.
template <int rows>
inline double reach_rows(const float *J, std::int64_t m, double *column) {
    constexpr int beside = 16, wide = W / 2;
    typedef std::int64_t Q __attribute__((vector_size(8 * wide)));
    const Q sign = Q{} + INT64_MIN;
    D sums[rows][beside / wide] = {};
    std::int64_t j = 0;
    for (; j + beside <= m; j += beside)
        each<beside / wide>([&](int k) __attribute__((always_inline)) {
            const std::int64_t at = j + k * wide;
            D down = load<D>(column + at);
            each<rows>([&](int r) __attribute__((always_inline)) {
                const D size = (D)((Q)widened(load<HalfF>(J + r * m + at)) & ~sign);
                sums[r][k] += size, down += size;
            });
            store(column + at, down);
        });
    double most = 0;
    for (int r = 0; r < rows; ++r) {
        double part[beside];
        std::memcpy(part, sums[r], sizeof part);
        for (std::int64_t left = j; left < m; ++left) {
            const double size = std::fabs(static_cast<double>(J[r * m + left]));
            part[left % beside] += size, column[left] += size;
        }
        double row = 0;
        for (const double one : part) row += one;
        if (row > most) most = row;
    }
    return most;
}

inline double reach(const float *J, std::int64_t n, std::int64_t m, double *column) {
    constexpr int some = 4;
    for (std::int64_t j = 0; j < m; ++j) column[j] = 0;
    double most = 0;
    const auto look = [&](double row) { most = row > most ? row : most; };
    std::int64_t i = 0;
    for (; i + some <= n; i += some) look(reach_rows<some>(J + i * m, m, column));
    for (; i < n; ++i) look(reach_rows<1>(J + i * m, m, column));
    for (std::int64_t j = 0; j < m; ++j) look(column[j]);
    return most;
}

}  // namespace
}  // namespace bipartite
