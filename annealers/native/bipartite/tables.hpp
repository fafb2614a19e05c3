// Tables of the sixteen sums of four couplings each, in planes of bytes.
//
// A table has P planes: of 6 bits each, and of 8 bits the last one, for numbers mod 2^(6 P + 2). Entry k of a group is
// the sum S of those of its four 2 K whose bits are set in k, in steps of a power of two. It is made of sums of planes:
// of four numbers of 6 bits, and what the plane below carries (at most 3), which fit a byte (4 * 63 + 3 = 255).
//
// Exact tables have five planes and hold S. The filter's have the upper three of 2^(12 - drop) S, and so hold
// floor(S / q) in a spin's unit q = 2^drop. What the two lower ones hold is the remainder: 12 bits, of which 5 are in
// use only where drop is above 8, since S is even. They lie in tables of their own, upper 7 bits and lower 5, of the
// side from whose fields energies are made.
#pragma once

#include "../vec/bytes.hpp"
#include "job.hpp"
#include "scheduled.hpp"
#include "woven.hpp"

#if defined(HAS_BYTES)
namespace bipartite {
namespace {

using counter::each;
using vec::Bytes, vec::Curve, vec::Wide;

// Groups lie in pairs, sixteen bytes of a plane of one group beside those of the other.
constexpr std::int64_t pair_bytes(int P) { return 32 * P; }
constexpr std::int64_t entry_at(int P, std::int64_t group) { return group / 2 * pair_bytes(P) + group % 2 * 16; }
constexpr std::int64_t table_bytes(int P, std::int64_t row) { return row / 4 * 16 * P; }

// Entry k picks the sum of two numbers by two bits of k: of 0, a, b and a + b, where bytes 0 and 1 of eight hold a and
// b and byte 4 their sum (or 2, 3 and 6).
struct Choice {
    alignas(16) std::uint8_t low[2][16], high[2][16];  // by two lower bits of k, by two upper ones; of either eight
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

// Plane p, of `C` made, of four vectors of couplings, in bytes.
template <int C, int p>
__attribute__((always_inline)) inline Bytes::V plane_of(const Bytes::V *x) {
    const Bytes::V mask = Bytes::all32(p + 1 < C ? 63 : 255);
    Bytes::V part[4];
    for (int k = 0; k < 4; ++k) part[k] = Bytes::bit_and(p ? Bytes::right32<6 * p>(x[k]) : x[k], mask);
    return Bytes::narrow(part[0], part[1], part[2], part[3]);
}

// The table of one spin from its row of `length` couplings, of five planes or, of couplings times 2^shift, of the upper
// three, with the remainders unless null.
template <int P>
inline void make_table(const std::int32_t *twice_K, std::int64_t length, int shift, std::uint8_t *table,
                       std::uint8_t *upper_rest = nullptr, std::uint8_t *lower_rest = nullptr) {
    typedef Bytes::V V;
    constexpr int C = exact_planes, skipped = C - P, at_once = Bytes::size, side_by_side = Bytes::size / 16;
    static_assert(row_step % at_once == 0, "rows hold whole steps");
    for (std::int64_t j = 0; j < length; j += at_once) {
        V x[4], byte[C], pair[C];
        for (int k = 0; k < 4; ++k) {
            x[k] = Bytes::load(twice_K + j + k * (at_once / 4));
            if (skipped) x[k] = Bytes::left32(x[k], Bytes::count(shift));
        }
        byte[0] = plane_of<C, 0>(x), byte[1] = plane_of<C, 1>(x);
        byte[2] = plane_of<C, 2>(x), byte[3] = plane_of<C, 3>(x), byte[4] = plane_of<C, 4>(x);
        for (int p = 0; p < C; ++p) pair[p] = Bytes::add8(byte[p], Bytes::right32<8>(byte[p]));
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {  // number k of each 16 bytes: groups side by side
            const V low = Bytes::table(choice.low[k % 2]), high = Bytes::table(choice.high[k % 2]);
            V sum[C];
#pragma GCC unroll 5
            for (int p = 0; p < C; ++p) {
                const V eight = k < 2 ? Bytes::low32(byte[p], pair[p]) : Bytes::high32(byte[p], pair[p]);
                sum[p] = Bytes::add8(Bytes::look(eight, low), Bytes::look(eight, high));
                if (p) sum[p] = Bytes::add8(sum[p], Bytes::bit_and(Bytes::right16<6>(sum[p - 1]), Bytes::all8(3)));
            }
            std::uint8_t *to = table + entry_at(P, j / 4 + k * side_by_side);
#pragma GCC unroll 5
            for (int p = 0; p < P; ++p) {
                const V whole = sum[p + skipped];
                Bytes::store(to + 32 * p, p + 1 < P ? Bytes::bit_and(whole, Bytes::all8(63)) : whole);
            }
            if (!upper_rest) continue;
            const V upper = Bytes::bit_and(sum[1], Bytes::all8(63)), lower = Bytes::bit_and(sum[0], Bytes::all8(63));
            const V carried = Bytes::bit_and(Bytes::right16<5>(lower), Bytes::all8(1));
            const std::int64_t at = entry_at(1, j / 4 + k * side_by_side);
            Bytes::store(upper_rest + at, Bytes::twice8(upper, carried));
            Bytes::store(lower_rest + at, Bytes::bit_and(lower, Bytes::all8(31)));
        }
    }
}

inline void make_exact_table(const std::int32_t *twice_K, std::int64_t length, std::uint8_t *table) {
    make_table<exact_planes>(twice_K, length, 0, table);
}

// The filter's tables of the spins first .. end - 1 of a side.
void tabulate(const Job &job, int side, std::int64_t first, std::int64_t end) {
#if defined(HAS_WOVEN)
    constexpr int P = woven_planes;
#else
    constexpr int P = planes;
#endif
    const std::int64_t row = job.rounded.row[side], bytes = table_bytes(P, row);
    const std::uint8_t *drop = job.tables.drop + (side ? job.n : 0);
    for (std::int64_t i = first; i < end; ++i) {
        const std::int32_t *couplings = job.rounded.twice_K[side] + i * row;
        std::uint8_t *table = job.tables.sums[side] + i * bytes;
        const bool rests = side == job.last();
        std::uint8_t *const upper_rest = rests ? job.tables.remainders[0] + 4 * row * i : nullptr;
        std::uint8_t *const lower_rest = rests ? job.tables.remainders[1] + 4 * row * i : nullptr;
#if defined(HAS_WOVEN)
        make_woven_table(couplings, row, drop[i], table, upper_rest, lower_rest);
#else
        make_table<planes>(couplings, row, most_drop - drop[i], table, upper_rest, lower_rest);
#endif
    }
}

// Sums of the entries that the chains of N vectors look up, plane by plane: those of chains in even bytes and of those
// in odd ones as 16-bit numbers (63 for each of 1024 groups, and 63, stay below 2^16); of the last plane as bytes, mod
// 2^8.
template <class B, int P, int N>
struct PlaneSums {
    typename B::V plane[P - 1][N][2], top[N];
};

// Sums of four groups are added up in bytes, then in 16 bits: even bytes + 2^8 odd ones, and odd ones alone. The states of
// two vectors lie `apart`.
template <class B, int P, int N>
__attribute__((always_inline)) inline void add_groups(const std::uint8_t *table, const std::uint8_t *state,
                                                      std::int64_t apart, std::int64_t groups, typename B::V (*sum)[N],
                                                      typename B::V (*odd)[N], typename B::V *top) {
    typedef typename B::V V;
    constexpr int ahead = 3072;
    for (std::int64_t g = 0; g < groups; g += 4, table += 2 * pair_bytes(P), state += 4 * filter_lanes) {
        V four[P - 1][N];
        for (int line = 0; line < 2 * pair_bytes(P); line += 64) __builtin_prefetch(table + ahead + line);
        each<4>([&](int k) __attribute__((always_inline)) {
            V lookup[P];
            each<P>([&](int p) __attribute__((always_inline)) { lookup[p] = B::table(table + entry_at(P, k) + 32 * p); });
            each<N>([&](int v) __attribute__((always_inline)) {
                V index = B::load(state + k * filter_lanes + v * apart);
                B::keep(index);  // else it is loaded for each look-up
                each<P - 1>([&](int p) __attribute__((always_inline)) {
                    const V entry = B::look(lookup[p], index);
                    four[p][v] = k ? B::add8(four[p][v], entry) : entry;
                    B::keep(four[p][v]);
                });
                top[v] = B::add8(top[v], B::look(lookup[P - 1], index));
                B::keep(top[v]);
            });
        });
        each<N>([&](int v) __attribute__((always_inline)) {
            each<P - 1>([&](int p) __attribute__((always_inline)) {
                sum[p][v] = B::add16(sum[p][v], four[p][v]);
                odd[p][v] = B::add16(odd[p][v], B::odd8(four[p][v]));
            });
        });
    }
}

// Of the first `groups`, a multiple of four above 0, which begin at a `start` for each vector (mod 2^(6 P + 2)). Not
// inlined, where the compiler would keep sums in memory.
template <class B, int P, int N>
__attribute__((noinline)) void add_up(const std::uint8_t *table, const std::uint8_t *state, std::int64_t apart,
                                      std::int64_t groups, const std::uint32_t *start, PlaneSums<B, P, N> &out) {
    typedef typename B::V V;
    V sum[P - 1][N], odd[P - 1][N], top[N];
    each<N>([&](int v) __attribute__((always_inline)) {
        each<P - 1>([&](int p) __attribute__((always_inline)) {
            const int x = static_cast<int>(start[v] >> (6 * p) & 63);
            sum[p][v] = B::all16(257 * x), odd[p][v] = B::all16(x);
        });
        top[v] = B::all8(static_cast<int>(start[v] >> (6 * P - 6)));
    });
#if defined(HAS_SCHEDULED)
    if constexpr (P == 3 && N == 2) add_groups(table, state, groups, sum, odd, top);
    else
#endif
        add_groups<B, P, N>(table, state, apart, groups, sum, odd, top);
    each<N>([&](int v) __attribute__((always_inline)) {
        each<P - 1>([&](int p) __attribute__((always_inline)) {
            B::store(&out.plane[p][v][0], B::sub16(sum[p][v], B::template left16<8>(odd[p][v])));
            B::store(&out.plane[p][v][1], odd[p][v]);
        });
        B::store(&out.top[v], top[v]);  // whole, as it is read
    });
}

// Sums of remainders of 7 bits, of an even number of groups, at most 512 (512 * 127 < 2^16): of chains in even bytes
// and in odd ones.
template <class B, int N>
__attribute__((noinline)) void add_remainders(const std::uint8_t *table, const std::uint8_t *state, std::int64_t groups,
                                              typename B::V (*out)[2]) {
    typedef typename B::V V;
    V sum[N], odd[N];
    for (int v = 0; v < N; ++v) sum[v] = odd[v] = B::zero();
    for (std::int64_t g = 0; g < groups; g += 2, table += 32, state += 2 * filter_lanes) {
        __builtin_prefetch(table + 1024);  // else a fifth slower
        const V first = B::table(table), second = B::table(table + 16);
#pragma GCC unroll 2
        for (int v = 0; v < N; ++v) {
            const V two = B::add8(B::look(first, B::load(state + v * B::size)),
                                      B::look(second, B::load(state + filter_lanes + v * B::size)));
            sum[v] = B::add16(sum[v], two);
            odd[v] = B::add16(odd[v], B::odd8(two));
        }
    }
    for (int v = 0; v < N; ++v) {
        B::store(&out[v][0], B::sub16(sum[v], B::template left16<8>(odd[v])));
        B::store(&out[v][1], odd[v]);
    }
}

}  // namespace
}  // namespace bipartite
#endif
