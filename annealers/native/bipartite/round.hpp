// A matrix of couplings in whole units, by rows and by columns.
#pragma once

#include "../vec/words.hpp"
#include "job.hpp"

namespace bipartite {
namespace {

// 2 rint(J inverse) of one row. The product is exact (a power of two); adding 1.5 * 2^52 rounds it, halves to even, and
// leaves the whole number in the low half.
inline void round_row(const float *J, std::int64_t count, double inverse, std::int32_t *twice) {
    for (std::int64_t j = 0; j < count; ++j) {
        const double shifted = static_cast<double>(J[j]) * inverse + 0x1.8p52;
        std::uint64_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        twice[j] = static_cast<std::int32_t>(2 * static_cast<std::uint32_t>(bits));
    }
}

// Columns of `from` [n, from_row] as rows of `to` [m, to_row], in squares that a cache holds.
inline void turn(const std::int32_t *from, std::int64_t from_row, std::int32_t *to, std::int64_t to_row, std::int64_t n,
                 std::int64_t m) {
    constexpr std::int64_t square = 16;
    for (std::int64_t i0 = 0; i0 < n; i0 += square)
        for (std::int64_t j0 = 0; j0 < m; j0 += square) {
            const std::int64_t i1 = i0 + square < n ? i0 + square : n, j1 = j0 + square < m ? j0 + square : m;
            for (std::int64_t j = j0; j < j1; ++j)
                for (std::int64_t i = i0; i < i1; ++i) to[j * to_row + i] = from[i * from_row + j];
        }
}

inline void round(const float *J, std::int64_t n, std::int64_t m, double inverse, const Rounded &to) {
    for (std::int64_t i = 0; i < n; ++i) round_row(J + i * m, m, inverse, to.twice_K[0] + i * to.row[0]);
    turn(to.twice_K[0], to.row[0], to.twice_K[1], to.row[1], n, m);
    const std::int64_t spins[2] = {n, m};
    std::int32_t *sum = to.sum_K, *size = to.sum_size;
    for (int side = 0; side < 2; ++side)
        for (std::int64_t i = 0; i < spins[side]; ++i) {
            const std::int32_t *row = to.twice_K[side] + i * to.row[side];
            std::int32_t plain = 0, sizes = 0;  // at most 2^28 and n
            for (std::int64_t j = 0; j < spins[1 - side]; ++j) plain += row[j], sizes += row[j] < 0 ? -row[j] : row[j];
            *sum++ = plain / 2, *size++ = sizes / 2;
        }
}

}  // namespace
}  // namespace bipartite
