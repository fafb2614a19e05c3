// Look-ups of four groups at once, where a processor picks among 64 bytes (AVX-512 VBMI) and adds four of them up to 32 bits
// (VNNI): two operations for what takes seven with tables of sixteen (tables.hpp).
//
// State: chains lie in four vectors of sixteen, each with a byte for each of four groups side by side: the place of its entry
// among 64, which is spins 0 and 1 in bits 0 and 1, the number of the group in bits 2 and 3, spins 2 and 3 in bits 4 and 5.
// Vectors 0 and 1 have the even chains, 2 and 3 the odd ones, in the order in which two of them are packed to 16-bit numbers.
//
// A table has two planes of bytes, 64 bytes each for four groups. An entry is floor(T / q), T being the sum S of tables.hpp
// less the least one of its group: not negative, so that 16 bits hold it where sizes of couplings allow it (run.hpp), and
// sums need no modulus. The least ones of all groups add up to sum_K - sum_size. Remainders are those of T.
#pragma once

#include "../vec/bytes.hpp"
#include "job.hpp"

#if defined(HAS_WIDE) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
#define HAS_WOVEN
namespace bipartite {
namespace {

using vec::Wide;

constexpr int woven_planes = 2, fours_at_once = 4;
constexpr double woven_range = 65536;  // of entries

// Of a quarter of each 16 bytes, as numbers of 32 bits, the sum of all four.
inline __m512i sum_of_four(__m512i x) {
    x = _mm512_add_epi32(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
    return _mm512_add_epi32(x, _mm512_shuffle_epi32(x, _MM_PERM_BADC));
}

// Sixteen entries of each of four groups, which 16 bits hold, as they lie in a plane: of each group four by four.
struct Entries {
    __m512i first, second;  // of groups 0 and 1, 2 and 3
    explicit Entries(const __m512i *entry)
        : first(_mm512_packus_epi32(entry[0], entry[1])), second(_mm512_packus_epi32(entry[2], entry[3])) {}
    __m512i lower() const {
        const __m512i bytes = _mm512_set1_epi16(0xFF);
        return _mm512_packus_epi16(_mm512_and_si512(first, bytes), _mm512_and_si512(second, bytes));
    }
    __m512i upper() const { return _mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8)); }
};
// Group after group, as tables.hpp has remainders.
inline __m512i in_a_row(__m512i plane) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), plane);
}

// The table of one spin, in steps of 2^drop, from its row of `length` couplings; with the remainders unless null, as
// tables.hpp has them.
inline void make_woven_table(const std::int32_t *twice_K, std::int64_t length, int drop, std::uint8_t *table,
                             std::uint8_t *upper_rest, std::uint8_t *lower_rest) {
    // Entry k adds the sum of two couplings that its lower bits pick to that of two by its upper ones: nothing, either
    // coupling, or number 16 and on, the sum of both.
    constexpr __mmask16 any_low = 0xEEEE, any_high = 0xFFF0;
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 16, 0, 0, 1, 16, 0, 0, 1, 16, 0, 0, 1, 16);
    const __m512i high = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 3, 3, 3, 3, 18, 18, 18, 18);
    const __m128i right = _mm_cvtsi32_si128(drop), left = _mm_cvtsi32_si128(most_drop - drop);
    for (std::int64_t j = 0; j < length; j += 4 * fours_at_once, table += 64 * woven_planes) {
        const __m512i couplings = _mm512_loadu_si512(twice_K + j), zero = _mm512_setzero_si512();
        const __m512i pairs = _mm512_add_epi32(couplings, _mm512_shuffle_epi32(couplings, _MM_PERM_CDAB));
        alignas(64) std::int32_t least[4 * fours_at_once];
        _mm512_store_si512(least, sum_of_four(_mm512_max_epi32(_mm512_sub_epi32(zero, couplings), zero)));
        __m512i sum[fours_at_once], entry[fours_at_once];
#pragma GCC unroll 4
        for (int g = 0; g < fours_at_once; ++g) {
            const __m512i group = _mm512_set1_epi32(4 * g);
            const __m512i lower = _mm512_maskz_permutex2var_epi32(any_low, couplings, _mm512_add_epi32(low, group), pairs);
            const __m512i upper = _mm512_maskz_permutex2var_epi32(any_high, couplings, _mm512_add_epi32(high, group), pairs);
            sum[g] = _mm512_add_epi32(_mm512_add_epi32(lower, upper), _mm512_set1_epi32(least[4 * g]));
            entry[g] = _mm512_srl_epi32(sum[g], right);
        }
        const Entries entries(entry);
        _mm512_store_si512(table, entries.lower()), _mm512_store_si512(table + 64, entries.upper());
        if (!upper_rest) continue;
        __m512i rest[fours_at_once];  // of 12 bits: 7 and 5, as two bytes
        for (int g = 0; g < fours_at_once; ++g) {
            const __m512i bits = _mm512_sll_epi32(sum[g], left), upper = _mm512_and_si512(bits, _mm512_set1_epi32(0xFE0));
            rest[g] = _mm512_or_si512(_mm512_slli_epi32(upper, 3), _mm512_and_si512(bits, _mm512_set1_epi32(31)));
        }
        const Entries rests(rest);
        _mm512_storeu_si512(upper_rest + 4 * j, in_a_row(rests.upper()));
        _mm512_storeu_si512(lower_rest + 4 * j, in_a_row(rests.lower()));
    }
}

// Rows of 64 chains of `groups` groups, a multiple of four, as the look-ups take them.
inline void weave(const std::uint8_t *rows, std::int64_t groups, std::uint8_t *woven) {
    typedef Wide::V V;
    const V even = Wide::all16(0x00FF), odd = Wide::all16(0xFF00);
    for (std::int64_t g = 0; g < groups; g += 4, rows += 256, woven += 256) {
        V row[4], both[2][2];  // of even chains and of odd ones, of two groups
        for (int k = 0; k < 4; ++k) {
            const V spins = Wide::load(rows + 64 * k);
            const V low = Wide::bit_and(spins, Wide::all8(3)), high = Wide::bit_and(Wide::left16<2>(spins), Wide::all8(48));
            row[k] = Wide::bit_or(Wide::bit_or(low, high), Wide::all8(4 * k));
        }
        for (int k = 0; k < 2; ++k) {
            const V a = row[2 * k], b = row[2 * k + 1];
            both[0][k] = Wide::bit_or(Wide::bit_and(a, even), Wide::left16<8>(b));
            both[1][k] = Wide::bit_or(Wide::right16<8>(a), Wide::bit_and(b, odd));
        }
        for (int k = 0; k < 2; ++k) {
            Wide::store(woven + 128 * k, _mm512_unpacklo_epi16(both[k][0], both[k][1]));
            Wide::store(woven + 128 * k + 64, _mm512_unpackhi_epi16(both[k][0], both[k][1]));
        }
    }
}

// What the chains of a block look up in a table, and a start.
struct Woven {
    Wide::V sum[4];

    Woven(const std::uint8_t *table, const std::uint8_t *woven, std::int64_t groups, std::int32_t start) {
        typedef Wide::V V;
        constexpr int ahead = 3072;
        V low[4], high[4];
        const V one = Wide::all8(1);
        for (int k = 0; k < 4; ++k) low[k] = _mm512_set1_epi32(start), high[k] = Wide::zero();
        for (std::int64_t g = 0; g < groups; g += fours_at_once, table += 64 * woven_planes, woven += 256) {
            __builtin_prefetch(table + ahead), __builtin_prefetch(table + ahead + 64);
            const V lower = _mm512_load_si512(table), upper = _mm512_load_si512(table + 64);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const V index = _mm512_load_si512(woven + 64 * k);
                low[k] = _mm512_dpbusd_epi32(low[k], _mm512_permutexvar_epi8(index, lower), one);
                high[k] = _mm512_dpbusd_epi32(high[k], _mm512_permutexvar_epi8(index, upper), one);
            }
        }
        for (int k = 0; k < 4; ++k) sum[k] = _mm512_add_epi32(low[k], _mm512_slli_epi32(high[k], 8));
    }
    // Floor(Y / 16) of even bytes, or of odd ones; and what is left of Y.
    Wide::V upper(int odd) const {
        return _mm512_packs_epi32(_mm512_srai_epi32(sum[2 * odd], 4), _mm512_srai_epi32(sum[2 * odd + 1], 4));
    }
    Wide::V rest(int odd) const {
        return Wide::bit_and(_mm512_packs_epi32(_mm512_and_si512(sum[2 * odd], _mm512_set1_epi32(15)),
                                                _mm512_and_si512(sum[2 * odd + 1], _mm512_set1_epi32(15))),
                             Wide::all16(15));
    }
};

}  // namespace
}  // namespace bipartite
#endif
