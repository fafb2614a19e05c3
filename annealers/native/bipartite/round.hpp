// A matrix of couplings in whole units, by rows and by columns.
#pragma once

#include "../vec/array.hpp"
#include "tables.hpp"

#include <cstring>

namespace bipartite {
namespace {

// 2 rint(J inverse) of one row, filled with zeros up to `length`; the product is exact (a power of two). Their sums and
// those of their sizes, by lanes and by columns; and the largest size.
struct RowSums {
    I sum, size, most;
};
inline RowSums round_row(const float *J, std::int64_t count, F inverse, std::int64_t length, std::int32_t *twice,
                         std::int32_t *column, std::int32_t *column_size) {
    I sum = {}, sizes = {}, most = {};
    const auto round = [&](std::int64_t j, F x) __attribute__((always_inline)) {
        const I once = nearest(x * inverse), both = once + once, size = both < 0 ? -both : both;
        sum += both, sizes += size, most = size > most ? size : most;
        store(twice + j, both);
        store(column + j, load<I>(column + j) + both), store(column_size + j, load<I>(column_size + j) + size);
    };
    std::int64_t j = 0;
    for (; j + W <= count; j += W) round(j, load<F>(J + j));
    if (j < count) {
        float rest[W] = {};
        std::memcpy(rest, J + j, static_cast<std::size_t>(count - j) * sizeof *J);
        round(j, load<F>(rest));
        j += W;
    }
    for (; j < length; j += W) store(twice + j, I{});
    return {sum, sizes, most};
}
inline std::int32_t total(I x) {
    std::int32_t sum = 0;
    for (int l = 0; l < W; ++l) sum += x[l];
    return sum;
}

#if defined(HAS_BYTES)
// The first columns of a vector's, of four rows: two perfect shuffles.
constexpr int columns_at_once = Bytes::size / 4;
__attribute__((always_inline)) inline void turn4(const std::int32_t *from, std::int64_t from_row, std::int32_t *to,
                                                 std::int64_t to_row, int columns) {
    typedef Bytes::V V;
    V x[4], y[4];
    each<4>([&](int k) { x[k] = Bytes::load(from + k * from_row); });
    each<2>([&](int k) { y[2 * k] = Bytes::low32(x[k], x[k + 2]), y[2 * k + 1] = Bytes::high32(x[k], x[k + 2]); });
    each<2>([&](int k) { x[2 * k] = Bytes::low32(y[k], y[k + 2]), x[2 * k + 1] = Bytes::high32(y[k], y[k + 2]); });
    each<columns_at_once>([&](int c) {  // of each 16 bytes of x[k], column k
        if (c < columns) std::memcpy(to + c * to_row, reinterpret_cast<const char *>(&x[c % 4]) + c / 4 * 16, 16);
    });
}
#endif

// Columns j of rows of `from` as stretches of `height` numbers of the rows j of `to`.
inline void turn(const std::int32_t *from, std::int64_t from_row, std::int64_t height, std::int32_t *to,
                 std::int64_t to_row, std::int64_t columns) {
    std::int64_t i = 0;
#if defined(HAS_BYTES)
    for (std::int64_t j = 0; j < columns; j += columns_at_once)  // rows are filled up to whole vectors
        for (i = 0; i + 4 <= height; i += 4) {
            const std::int32_t *block = from + i * from_row + j;
            std::int32_t *turned = to + j * to_row + i;
            if (j + columns_at_once <= columns) turn4(block, from_row, turned, to_row, columns_at_once);
            else turn4(block, from_row, turned, to_row, static_cast<int>(columns - j));
        }
#endif
    for (std::int64_t j = 0; j < columns; ++j)
        for (std::int64_t k = i; k < height; ++k) to[j * to_row + k] = from[k * from_row + j];
}

// Some rows at a time, that a near cache holds while they are summed and turned; false without memory.
inline bool round(const float *J, std::int64_t n, std::int64_t m, double inverse, Rounded &to) {
    constexpr std::int64_t some = 16;
    const std::int64_t *row = to.row;
    I most = {};
    Array<std::int32_t> column, column_size;  // twice, at most 2^28 and n
    if (!column.resize(row[0]) || !column_size.resize(row[0])) return false;
    for (std::int64_t from = 0; from < n; from += some) {
        const std::int64_t height = from + some < n ? some : n - from;
        for (std::int64_t i = from; i < from + height; ++i) {
            const RowSums sums = round_row(J + i * m, m, splat(static_cast<float>(inverse)), row[0],
                                           to.twice_K[0] + i * row[0], &column[0], &column_size[0]);
            to.sum_K[i] = total(sums.sum) / 2, to.sum_size[i] = total(sums.size) / 2;
            most = sums.most > most ? sums.most : most;
        }
        turn(to.twice_K[0] + from * row[0], row[0], height, to.twice_K[1] + from, row[1], m);
    }
    for (std::int64_t j = 0; j < m; ++j) {
        to.sum_K[n + j] = column[j] / 2, to.sum_size[n + j] = column_size[j] / 2;
        for (std::int64_t i = n; i < row[1]; ++i) to.twice_K[1][j * row[1] + i] = 0;
    }
    to.largest = 0;
    for (int l = 0; l < W; ++l)
        if (most[l] / 2 > to.largest) to.largest = most[l] / 2;
    return true;
}

}  // namespace
}  // namespace bipartite
