// Tables of the sixteen sums of four couplings each, for a filter of 20-bit fields (filter.hpp).
//
// A spin's fields are numbers of 20 bits in units q = 2^drop u, added up in three planes of 6, 6 and 8 bits. Entry k of a
// group is floor(S / q) mod 2^20, S the sum of those of its four 2 K whose bits are set in k. It is made from four couplings
// of 26 bits, 2 K >> (drop - 6), whose planes of 6, 6, 6 and 8 bits are bytes: sums of four numbers of 6 bits, and what the
// plane below carries (at most 3), fit a byte (4 * 63 + 3 = 255). The lowest plane only carries.
//
// A floor, of a coupling or of a sum, is too small by less than 1: an entry is below S / q by less than 4 / 64 + 1.
#pragma once

#include "../vec/bytes.hpp"
#include "job.hpp"

#if defined(HAS_BYTES)
namespace bipartite {
namespace {

using vec::Bytes;

// Byte `plane` of entry 0 of a group of a spin's table: two groups by turns, whose sixteen bytes lie side by side.
constexpr std::int64_t group_bytes = 16 * planes;
inline std::int64_t table_at(std::int64_t group) { return group / 2 * (2 * group_bytes) + group % 2 * 16; }

// Entry k picks the sum of two numbers by two bits of k: of 0, a, b and a + b, where bytes 0 and 1 of `bytes` hold a and b
// and byte 4 their sum (or 2, 3 and 6).
struct Choice {
    alignas(16) std::uint8_t low[2][16], high[2][16];  // by the lower two bits of k and by the upper ones; of 8 bytes each
};
constexpr Choice make_choice() {
    constexpr int none = 0x80, first[4] = {none, 0, 1, 4}, second[4] = {none, 2, 3, 6};
    Choice choice{};
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) {
            choice.low[half][k] = static_cast<std::uint8_t>(k & 3 ? first[k & 3] + 8 * half : none);
            choice.high[half][k] = static_cast<std::uint8_t>(k >> 2 ? second[k >> 2] + 8 * half : none);
        }
    return choice;
}
constexpr Choice choice = make_choice();

// The table of one spin, from its row of `length` couplings.
inline void make_table(const std::int32_t *twice_K, std::int64_t length, int drop, std::uint8_t *table) {
    typedef Bytes::V V;
    constexpr int at_once = Bytes::size, side_by_side = Bytes::size / 16;
    static_assert(row_step % at_once == 0, "rows hold whole steps");
    const V six = Bytes::all32(63), eight = Bytes::all32(255), carried = Bytes::all8(3), six_each = Bytes::all8(63);
    for (std::int64_t j = 0; j < length; j += at_once) {
        V x[4], byte[4], pair[4];
        for (int k = 0; k < 4; ++k)
            x[k] = Bytes::right32_signed(Bytes::load(twice_K + j + k * (at_once / 4)), Bytes::count(drop - 6));
        byte[0] = Bytes::narrow(Bytes::bit_and(x[0], six), Bytes::bit_and(x[1], six), Bytes::bit_and(x[2], six),
                                Bytes::bit_and(x[3], six));
        const auto plane = [&](auto right, V mask) __attribute__((always_inline)) {
            return Bytes::narrow(Bytes::bit_and(right(x[0]), mask), Bytes::bit_and(right(x[1]), mask),
                                 Bytes::bit_and(right(x[2]), mask), Bytes::bit_and(right(x[3]), mask));
        };
        byte[1] = plane([](V a) __attribute__((always_inline)) { return Bytes::right32<6>(a); }, six);
        byte[2] = plane([](V a) __attribute__((always_inline)) { return Bytes::right32<12>(a); }, six);
        byte[3] = plane([](V a) __attribute__((always_inline)) { return Bytes::right32<18>(a); }, eight);
        for (int p = 0; p < 4; ++p) pair[p] = Bytes::add8(byte[p], Bytes::right32<8>(byte[p]));
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {  // number k of each 16 bytes: groups side by side
            const V low = Bytes::table(choice.low[k % 2]), high = Bytes::table(choice.high[k % 2]);
            V sum[4];
#pragma GCC unroll 4
            for (int p = 0; p < 4; ++p) {
                const V eight_bytes = k < 2 ? Bytes::low32(byte[p], pair[p]) : Bytes::high32(byte[p], pair[p]);
                sum[p] = Bytes::add8(Bytes::look(eight_bytes, low), Bytes::look(eight_bytes, high));
            }
#pragma GCC unroll 3
            for (int p = 0; p < 3; ++p) {
                sum[p + 1] = Bytes::add8(sum[p + 1], Bytes::bit_and(Bytes::right16<6>(sum[p]), carried));
                if (p) sum[p] = Bytes::bit_and(sum[p], six_each);
            }
            std::uint8_t *to = table + table_at(j / 4 + k * side_by_side);
            for (int p = 0; p < planes; ++p) Bytes::store(to + 32 * p, sum[p + 1]);
        }
    }
}

// Those of the spins first .. end - 1 of a side.
void tabulate(const Job &job, int side, std::int64_t first, std::int64_t end) {
    const std::int64_t row = job.rounded.row[side], bytes = row / 4 * group_bytes;
    const std::uint8_t *drop = job.tables.drop + (side ? job.n : 0);
    for (std::int64_t i = first; i < end; ++i)
        make_table(job.rounded.twice_K[side] + i * row, row, drop[i], job.tables.sums[side] + i * bytes);
}

}  // namespace
}  // namespace bipartite
#endif
