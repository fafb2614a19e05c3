// A matrix of couplings in whole units, by rows and by columns.
#pragma once

#include "tables.hpp"

#include <cstring>

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

#if defined(HAS_BYTES)
// A vector's columns of four rows: two perfect shuffles.
__attribute__((always_inline)) inline void turn4(const std::int32_t *from, std::int64_t from_row, std::int32_t *to,
                                                 std::int64_t to_row, std::int64_t columns) {
    typedef Bytes::V V;
    V x[4], y[4];
    for (int k = 0; k < 4; ++k) x[k] = Bytes::load(from + k * from_row);
    for (int k = 0; k < 2; ++k) y[2 * k] = Bytes::low32(x[k], x[k + 2]), y[2 * k + 1] = Bytes::high32(x[k], x[k + 2]);
    for (int k = 0; k < 2; ++k) x[2 * k] = Bytes::low32(y[k], y[k + 2]), x[2 * k + 1] = Bytes::high32(y[k], y[k + 2]);
    for (int k = 0; k < 4; ++k)  // of each 16 bytes column k
        for (int part = 0; part < Bytes::size / 16 && 4 * part + k < columns; ++part)
            std::memcpy(to + (4 * part + k) * to_row, reinterpret_cast<const char *>(&x[k]) + 16 * part, 16);
}
#endif

// Columns of `from` [n, from_row] as rows of `to` [m, to_row], in squares that a cache holds.
inline void turn(const std::int32_t *from, std::int64_t from_row, std::int32_t *to, std::int64_t to_row, std::int64_t n,
                 std::int64_t m) {
    constexpr std::int64_t square = 16;
    for (std::int64_t i0 = 0; i0 < n; i0 += square)
        for (std::int64_t j0 = 0; j0 < m; j0 += square) {
            const std::int64_t i1 = i0 + square < n ? i0 + square : n, j1 = j0 + square < m ? j0 + square : m;
            std::int64_t i = i0;
#if defined(HAS_BYTES)
            for (; i + 4 <= i1; i += 4)  // rows are filled up to more than a square's width
                for (std::int64_t j = j0; j < j1; j += Bytes::size / 4) turn4(from + i * from_row + j, from_row, to + j * to_row + i, to_row, j1 - j);
#endif
            for (std::int64_t j = j0; j < j1; ++j)
                for (std::int64_t k = i; k < i1; ++k) to[j * to_row + k] = from[k * from_row + j];
        }
}

inline void round(const float *J, std::int64_t n, std::int64_t m, double inverse, const Rounded &to) {
    const std::int64_t spins[2] = {n, m};
    for (std::int64_t i = 0; i < n; ++i) round_row(J + i * m, m, inverse, to.twice_K[0] + i * to.row[0]);
    turn(to.twice_K[0], to.row[0], to.twice_K[1], to.row[1], n, m);
    for (int side = 0; side < 2; ++side)
        for (std::int64_t i = 0; i < spins[side]; ++i)
            for (std::int64_t j = spins[1 - side]; j < to.row[side]; ++j) to.twice_K[side][i * to.row[side] + j] = 0;
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
