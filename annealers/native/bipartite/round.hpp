// A matrix of couplings in whole units, by rows and by columns.
#pragma once

#include "../vec/array.hpp"
#include "../vec/bytes.hpp"
#include "../vec/words.hpp"
#include "job.hpp"

#include <cstring>
#include <type_traits>

namespace bipartite {
namespace {

using namespace vec;

// 2 rint(J inverse) of some rows, filled with zeros up to `length`; the product is exact (a power of two). Their sums and
// those of their sizes, by lanes and by columns; and the largest size. Rows together load and store the columns' once.
struct RowSums {
    I sum, size;
};
template <int rows>
inline void round_rows(const float *J, std::int64_t count, F inverse, std::int64_t length, std::int32_t *twice,
                       std::int32_t *column, std::int32_t *column_size, RowSums *sums, I &most) {
    each<rows>([&](int r) { sums[r] = RowSums{}; });
    const auto round = [&](std::int64_t j, const float *from, std::int64_t row) __attribute__((always_inline)) {
        I down = load<I>(column + j), down_size = load<I>(column_size + j);
        each<rows>([&](int r) __attribute__((always_inline)) {
            const I once = nearest(load<F>(from + r * row) * inverse), both = once + once, size = both < 0 ? -both : both;
            sums[r].sum += both, sums[r].size += size, most = size > most ? size : most;
            down += both, down_size += size;
            store(twice + r * length + j, both);
        });
        store(column + j, down), store(column_size + j, down_size);
    };
    std::int64_t j = 0;
    for (; j + W <= count; j += W) round(j, J + j, count);
    if (j < count) {
        float rest[rows][W] = {};
        for (int r = 0; r < rows; ++r)
            std::memcpy(rest[r], J + r * count + j, static_cast<std::size_t>(count - j) * sizeof *J);
        round(j, rest[0], W);
        j += W;
    }
    for (; j < length; j += W)
        for (int r = 0; r < rows; ++r) store(twice + r * length + j, I{});
}
inline std::int32_t total(I x) {
    std::int32_t sum = 0;
    for (int l = 0; l < W; ++l) sum += x[l];
    return sum;
}

// Columns of the rows from .. height - 1 of `from` as stretches of the rows of `to`; rows are filled up to whole vectors. By
// blocks of four columns, as far as there are blocks of rows: the row where it ends.
#if defined(HAS_BYTES)
template <class B>
inline std::int64_t turn_blocks(const std::int32_t *from, std::int64_t from_row, std::int64_t i, std::int64_t height,
                                std::int32_t *to, std::int64_t to_row, std::int64_t columns) {
    typedef typename B::V V;
    constexpr std::int64_t rows = B::size / 4;
    for (; i + rows <= height; i += rows)
        for (std::int64_t j = 0; j < columns; j += 4) {
            V x[4], y[4];  // two perfect shuffles, of 16 bytes of every fourth row
            each<4>([&](int k) { x[k] = B::sixteens(from + (i + k) * from_row + j, 4 * from_row * sizeof *from); });
            each<2>([&](int k) { y[2 * k] = B::low32(x[k], x[k + 2]), y[2 * k + 1] = B::high32(x[k], x[k + 2]); });
            each<2>([&](int k) { x[2 * k] = B::low32(y[k], y[k + 2]), x[2 * k + 1] = B::high32(y[k], y[k + 2]); });
            each<4>([&](int k) {
                if (j + k < columns) B::store(to + (j + k) * to_row + i, x[k]);
            });
        }
    return i;
}
#endif
inline void turn(const std::int32_t *from, std::int64_t from_row, std::int64_t height, std::int32_t *to,
                 std::int64_t to_row, std::int64_t columns) {
    std::int64_t i = 0;
#if defined(HAS_BYTES)
    i = turn_blocks<Wide>(from, from_row, i, height, to, to_row, columns);
    if (Bytes::size != Wide::size) i = turn_blocks<Bytes>(from, from_row, i, height, to, to_row, columns);
#endif
    for (; i < height; ++i)
        for (std::int64_t j = 0; j < columns; ++j) to[j * to_row + i] = from[i * from_row + j];
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
        const auto rows = [&](std::int64_t i, auto together) __attribute__((always_inline)) {
            RowSums sums[together.value];
            round_rows<together.value>(J + i * m, m, splat(static_cast<float>(inverse)), row[0],
                                       to.twice_K[0] + i * row[0], &column[0], &column_size[0], sums, most);
            for (int r = 0; r < together.value; ++r)
                to.sum_K[i + r] = total(sums[r].sum) / 2, to.sum_size[i + r] = total(sums[r].size) / 2;
        };
        std::int64_t i = from;
        for (; i + 4 <= from + height; i += 4) rows(i, std::integral_constant<int, 4>());
        for (; i < from + height; ++i) rows(i, std::integral_constant<int, 1>());
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
