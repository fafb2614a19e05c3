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

// Columns j of rows of `from` as stretches of `height` numbers of the rows j of `to`.
inline void turn(const std::int32_t *from, std::int64_t from_row, std::int64_t height, std::int32_t *to,
                 std::int64_t to_row, std::int64_t columns) {
    std::int64_t i = 0;
#if defined(HAS_BYTES)
    for (std::int64_t j = 0; j < columns; j += Bytes::size / 4)  // rows are filled up to whole vectors
        for (i = 0; i + 4 <= height; i += 4)
            turn4(from + i * from_row + j, from_row, to + j * to_row + i, to_row, columns - j);
#endif
    for (std::int64_t j = 0; j < columns; ++j)
        for (std::int64_t k = i; k < height; ++k) to[j * to_row + k] = from[k * from_row + j];
}

// Some rows at a time, that a near cache holds while they are summed and turned.
inline void round(const float *J, std::int64_t n, std::int64_t m, double inverse, const Rounded &to) {
    constexpr std::int64_t some = 16;
    const std::int64_t *row = to.row;
    std::int32_t *columns = to.sum_K + n, *column_sizes = to.sum_size + n;  // twice, at most 2^28 and n
    for (std::int64_t j = 0; j < m; ++j) columns[j] = column_sizes[j] = 0;
    for (std::int64_t from = 0; from < n; from += some) {
        const std::int64_t height = from + some < n ? some : n - from;
        for (std::int64_t i = from; i < from + height; ++i) {
            std::int32_t *twice = to.twice_K[0] + i * row[0], sum = 0, sizes = 0;
            round_row(J + i * m, m, inverse, twice);
            for (std::int64_t j = m; j < row[0]; ++j) twice[j] = 0;
            for (std::int64_t j = 0; j < m; ++j) {
                const std::int32_t size = twice[j] < 0 ? -twice[j] : twice[j];
                sum += twice[j], sizes += size, columns[j] += twice[j], column_sizes[j] += size;
            }
            to.sum_K[i] = sum / 2, to.sum_size[i] = sizes / 2;
        }
        turn(to.twice_K[0] + from * row[0], row[0], height, to.twice_K[1] + from, row[1], m);
    }
    for (std::int64_t j = 0; j < m; ++j) {
        columns[j] /= 2, column_sizes[j] /= 2;
        for (std::int64_t i = n; i < row[1]; ++i) to.twice_K[1][j * row[1] + i] = 0;
    }
}

}  // namespace
}  // namespace bipartite
