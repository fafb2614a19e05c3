// The loop of the filter's sums (tables.hpp) on AVX2, scheduled by hand: three planes, two vectors of chains, four
// groups a turn. Compilers keep eight sums in memory and copy registers, which costs a tenth of a sweep; here four sums
// of the lowest plane are in memory, and a look-up is added up by the operation after it. Tables are fetched eight
// turns ahead, at the end of one those of the next spin.
#pragma once

#include "../vec/bytes.hpp"

#include <cstdint>

#if defined(__AVX2__) && !defined(__AVX512F__) && defined(__x86_64__) && defined(__GNUC__)
#define HAS_SCHEDULED
namespace bipartite {
namespace {

// Tables of planes 0, 1, 2 at `table` to ymm10, 11, 12; state of the first vector of chains to ymm13.
#define QSAMPLE_LOAD(table, state)                      \
    "vbroadcasti128 " #table "(%[table]), %%ymm10\n"    \
    "vmovdqa " #state "(%[state]), %%ymm13\n"           \
    "vbroadcasti128 " #table "+32(%[table]), %%ymm11\n" \
    "vbroadcasti128 " #table "+64(%[table]), %%ymm12\n"
// Sums of four groups in bytes: ymm6 and 7 of plane 0 (of either vector), ymm8 and 9 of plane 1.
#define QSAMPLE_FIRST(state)                                                           \
    "vpshufb %%ymm13, %%ymm10, %%ymm6\n"                                               \
    "vpshufb %%ymm13, %%ymm11, %%ymm8\n"                                               \
    "vpshufb %%ymm13, %%ymm12, %%ymm14\n" "vpaddb %%ymm14, %[top0], %[top0]\n"         \
    "vmovdqa " #state "+32(%[state]), %%ymm13\n"                                       \
    "vpshufb %%ymm13, %%ymm10, %%ymm7\n"                                               \
    "vpshufb %%ymm13, %%ymm11, %%ymm9\n"                                               \
    "vpshufb %%ymm13, %%ymm12, %%ymm12\n" "vpaddb %%ymm12, %[top1], %[top1]\n"
#define QSAMPLE_NEXT(state)                                                            \
    "vpshufb %%ymm13, %%ymm10, %%ymm14\n" "vpaddb %%ymm14, %%ymm6, %%ymm6\n"           \
    "vpshufb %%ymm13, %%ymm11, %%ymm14\n" "vpaddb %%ymm14, %%ymm8, %%ymm8\n"           \
    "vpshufb %%ymm13, %%ymm12, %%ymm14\n" "vpaddb %%ymm14, %[top0], %[top0]\n"         \
    "vmovdqa " #state "+32(%[state]), %%ymm13\n"                                       \
    "vpshufb %%ymm13, %%ymm10, %%ymm10\n" "vpaddb %%ymm10, %%ymm7, %%ymm7\n"           \
    "vpshufb %%ymm13, %%ymm11, %%ymm11\n" "vpaddb %%ymm11, %%ymm9, %%ymm9\n"           \
    "vpshufb %%ymm13, %%ymm12, %%ymm12\n" "vpaddb %%ymm12, %[top1], %[top1]\n"
// Four groups to 16 bits: all, as even bytes + 2^8 odd ones, and odd ones alone.
#define QSAMPLE_WIDEN(four, all, odd)          \
    "vpmaddubsw %[second], " four ", %%ymm10\n" \
    "vpaddw " four ", %[" all "], %[" all "]\n" \
    "vpaddw %%ymm10, %[" odd "], %[" odd "]\n"
#define QSAMPLE_WIDEN_LOW(four, all, odd)                                      \
    "vpmaddubsw %[second], " four ", %%ymm10\n"                                \
    "vpaddw %[" all "], " four ", %%ymm11\n" "vmovdqa %%ymm11, %[" all "]\n"   \
    "vpaddw %[" odd "], %%ymm10, %%ymm10\n" "vmovdqa %%ymm10, %[" odd "]\n"

// Of `groups`, a multiple of four, of which there is at least one; the state lies in whole vectors.
__attribute__((always_inline)) inline void add_groups(const std::uint8_t *table, const std::uint8_t *state,
                                                      std::int64_t groups, __m256i sum[2][2], __m256i odd[2][2],
                                                      __m256i *top) {
    const std::uint8_t *const end = table + 48 * groups;
    __asm__ volatile(
        "1:\n"
        QSAMPLE_LOAD(0, 0) QSAMPLE_FIRST(0)
        QSAMPLE_LOAD(16, 64) QSAMPLE_NEXT(64)
        QSAMPLE_LOAD(96, 128) QSAMPLE_NEXT(128)
        QSAMPLE_LOAD(112, 192) QSAMPLE_NEXT(192)
        QSAMPLE_WIDEN("%%ymm8", "sum0", "odd0")
        QSAMPLE_WIDEN("%%ymm9", "sum1", "odd1")
        QSAMPLE_WIDEN_LOW("%%ymm6", "low_sum0", "low_odd0")
        QSAMPLE_WIDEN_LOW("%%ymm7", "low_sum1", "low_odd1")
        "prefetcht0 1536(%[table])\n" "prefetcht0 1600(%[table])\n" "prefetcht0 1664(%[table])\n"
        "add $192, %[table]\n"
        "add $256, %[state]\n"
        "cmp %[end], %[table]\n"
        "jb 1b\n"
        : [table] "+r"(table), [state] "+r"(state), [top0] "+x"(top[0]), [top1] "+x"(top[1]), [sum0] "+x"(sum[1][0]),
          [odd0] "+x"(odd[1][0]), [sum1] "+x"(sum[1][1]), [odd1] "+x"(odd[1][1]), [low_sum0] "+m"(sum[0][0]),
          [low_sum1] "+m"(sum[0][1]), [low_odd0] "+m"(odd[0][0]), [low_odd1] "+m"(odd[0][1])
        : [end] "r"(end), [second] "x"(_mm256_set1_epi16(0x0100))
        : "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "memory", "cc");
}

#undef QSAMPLE_LOAD
#undef QSAMPLE_FIRST
#undef QSAMPLE_NEXT
#undef QSAMPLE_WIDEN
#undef QSAMPLE_WIDEN_LOW

}  // namespace
}  // namespace bipartite
#endif
