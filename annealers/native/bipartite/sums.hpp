// Of every four inputs all sixteen sums of their couplings are made once, for 32 outputs side by side, and each chain
// looks its own up (Arlazarov, Dinic, Kronrod and Faradzhev 1970). Compiled once for each instruction set.
#pragma once

#include "../vec/words.hpp"
#include "job.hpp"

namespace bipartite {
namespace {

using namespace vec;

constexpr int width = 32;         // outputs, and inputs whose sums are looked up at a time: those of a word
constexpr int vectors = width / W;
constexpr int fours = width / 4;  // groups of inputs
static_assert(row_step == width, "rows are whole tiles of outputs");

struct alignas(64) Sums {
    std::int32_t of[fours][16][width] = {};
};

// Entry k of a group: the sum of those of four rows whose bits are set in k; entry 0 stays 0. `high` rows there are, 1 to 32.
inline void tabulate(const std::int32_t *rows, std::int64_t row, int high, Sums &sums) {
    for (int g = 0; 4 * g < high; ++g)
        for (int v = 0; v < vectors; ++v) {
            I sum[16];
            sum[0] = I{};
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b) {
                const I one = 4 * g + b < high ? load<I>(rows + (4 * g + b) * row + v * W) : I{};
#pragma GCC unroll 8
                for (int s = 0; s < 1 << b; ++s) sum[(1 << b) + s] = s ? sum[s] + one : one;
            }
#pragma GCC unroll 16
            for (int s = 1; s < 16; ++s) store(sums.of[g][s] + v * W, sum[s]);
        }
}

// field[chain, width] += what the chain's word chooses, of all groups or of the first ones.
template <bool all>
inline void look_up(const Sums &sums, int groups, const std::uint32_t *word, std::int64_t chains, std::int32_t *field) {
    constexpr int entry = width * sizeof(std::int32_t);
    const char *table = reinterpret_cast<const char *>(sums.of);
    for (std::int64_t chain = 0; chain < chains; ++chain, field += width) {
        std::uint32_t left = word[chain];
        I sum[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[v] = load<I>(field + v * W);
#pragma GCC unroll 8
        for (int g = 0; g < (all ? fours : groups); ++g, left >>= 4) {
            const auto *one = reinterpret_cast<const std::int32_t *>(table + g * 16 * entry + (left & 15) * entry);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[v] += load<I>(one + v * W);
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(field + v * W, sum[v]);
    }
}

}  // namespace
}  // namespace bipartite
