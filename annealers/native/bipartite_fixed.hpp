// Sweeps over a bipartite problem with fields in 16 bits: twice the lanes a vector, and of five couplings the sum is
// looked up at once. What is drawn from is said in fixed.hpp, how a field decides a spin in simd16.hpp. Sums of whole
// numbers have no rounding, so any order will do. Compiled once for each instruction set.
#pragma once

#include "array.hpp"
#include "bipartite_job.hpp"
#include "lookup16.hpp"

#include <cstdlib>

namespace bipartite {
namespace {

constexpr int spins16 = 15;  // of a word: three fives

typedef std::uint16_t Eight __attribute__((vector_size(16)));
inline Eight eight(std::uint16_t x) { return x - Eight{}; }

// All sums of the first three of five couplings, then those of the other two, chosen by their bits.
inline void all_sums(const std::uint16_t *a, std::int64_t stride, std::uint16_t *to) {
    const auto one = static_cast<std::uint16_t>(-1);
    const Eight first = {0, one, 0, one, 0, one, 0, one}, second = {0, 0, one, one, 0, 0, one, one},
                third = {0, 0, 0, 0, one, one, one, one};
    const Eight three = (eight(a[0]) & first) + (eight(a[stride]) & second) + (eight(a[2 * stride]) & third);
    const Eight two = (eight(a[3 * stride]) & first) + (eight(a[4 * stride]) & second);
    std::memcpy(to, &three, 16), std::memcpy(to + 8, &two, 8);
}

// Couplings 2 J in units: of every five that reach a spin all sums; and the fields where all others are -1. Whether
// there was memory.
bool prepare(const Job &job, std::uint16_t *const fives[2], std::uint16_t *base) {
    const float unit = job.unit[0], inverse = 1 / unit;
    const std::int64_t n = job.n, m = job.m, wide = (m + 4) / 5 * 5, across[2] = {wide / 5, (n + 4) / 5};
    sparse::Array<std::uint16_t> five;  // rows of J [5, wide]
    sparse::Array<std::int32_t> column;
    if (!five.resize(5 * wide) || !column.resize(m)) return false;
    const auto level = [&](std::int64_t spin, std::int32_t sum) {
        const float field = rounded((job.h[spin] - unit * static_cast<float>(sum) / 2) * inverse);
        base[spin] = static_cast<std::uint16_t>(static_cast<int>(field));
    };
    for (std::int64_t i = 0; i < 5 * across[1]; ++i) {
        std::uint16_t *row = &five[i % 5 * wide];
        if (i < n) {
            std::int32_t sum = 0;
            for (std::int64_t j = 0; j < m; ++j) {
                const auto q = static_cast<std::int32_t>(rounded(2 * job.J[i * m + j] * inverse));
                row[j] = static_cast<std::uint16_t>(q);
                sum += q, column[j] += q;
            }
            level(i, sum);
            std::uint16_t *to = fives[0] + i * across[0] * five_sums;
            for (std::int64_t k = 0; k < across[0]; ++k) all_sums(row + 5 * k, 1, to + k * five_sums);
        } else {
            for (std::int64_t j = 0; j < m; ++j) row[j] = 0;
        }
        if (i % 5 == 4)
            for (std::int64_t j = 0; j < m; ++j)
                all_sums(&five[j], wide, fives[1] + (j * across[1] + i / 5) * five_sums);
    }
    for (std::int64_t j = 0; j < m; ++j) level(n + j, column[j]);
    return true;
}

// The sweeps of a block, whose spins it takes and gives back.
template <class Block>
struct Fixed {
    Block &block;
    const Job &job;
    const int L;                                // a multiple of W16
    sparse::Array<std::uint16_t> word[2];       // [ceil(n / 15), L]: bit k of word i is spin 15 i + k
    std::uint16_t field[4][lanes], most[lanes], twice[lanes], part[lanes], all[lanes];
    std::uint32_t low[lanes / 2], high[lanes / 2];  // two replicas share a word of random bits, as in fixed.hpp

    explicit Fixed(Block &b) : block(b), job(b.job), L(b.L) {
        for (int l = 0; l < L; l += 2) {
            const auto pair = static_cast<std::uint32_t>((block.first + l) % job.replicas >> 1);
            const std::uint64_t key = counter::lane_key(job.seed[0], pair);
            low[l / 2] = static_cast<std::uint32_t>(key), high[l / 2] = static_cast<std::uint32_t>(key >> 32);
        }
    }
    std::int64_t words(int side) const { return (block.n[side] + spins16 - 1) / spins16; }

    // Fields of up to four spins of a side, in units, into `field`.
    template <int C, int G>
    void sum(int side, std::int64_t i, int at, int to = 0) {
        const std::int64_t n = block.n[side], across = (block.n[1 - side] + 4) / 5;
        const std::uint16_t *row[C];
        V f[C][G];
        for (int k = 0; k < C; ++k) {  // past the end of a side its last spin is repeated
            const std::int64_t spin = i + to + k < n ? i + to + k : n - 1;
            row[k] = job.fives[side] + spin * across * five_sums;
            for (int g = 0; g < G; ++g) f[k][g] = vsplat(job.base16[side * block.n[0] + spin]);
        }
        const std::uint16_t *from = &word[1 - side][at];
        for (std::int64_t a = 0; a < across; a += 3, from += L) {
            V bits[G];
            for (int g = 0; g < G; ++g) bits[g] = load<V>(from + W16 * g);
            for (std::int64_t b = a; b < a + 3 && b < across; ++b) {
                Choice chosen[G];
                for (int g = 0; g < G; ++g) chosen[g] = choice(bits[g]);
#pragma GCC unroll 4
                for (int k = 0; k < C; ++k) {
                    const Sums16 sums(row[k] + b * five_sums);
                    for (int g = 0; g < G; ++g) f[k][g] = sums.add(f[k][g], chosen[g]);
                }
                for (int g = 0; g < G; ++g) bits[g] >>= 5;
            }
        }
        for (int k = 0; k < C; ++k)
            for (int g = 0; g < G; ++g) std::memcpy(&field[to + k][at + W16 * g], &f[k][g], sizeof(V));
    }
    void sum(int side, std::int64_t i) {
        int at = 0;
        for (; W == 16 && at + 8 * W16 <= L; at += 8 * W16) sum<2, 8>(side, i, at), sum<2, 8>(side, i, at, 2);
        for (; W == 16 && at + 4 * W16 <= L; at += 4 * W16) sum<4, 4>(side, i, at);
        for (; at + 2 * W16 <= L; at += 2 * W16) sum<4, 2>(side, i, at);
        if (at < L) sum<4, 1>(side, i, at);
    }

    template <Rule rule>
    void pass(int side, std::uint32_t number) {
        const std::int64_t n = block.n[side];
        for (std::int64_t i = 0; i < n; i += 4) {
            sum(side, i);
            for (std::int64_t spin = i; spin < n && spin < i + 4; ++spin) decide<rule>(side, spin, number);
        }
    }
    template <Rule rule>
    void decide(int side, std::int64_t spin, std::uint32_t number) {
        std::uint16_t *now = &word[side][spin / spins16 * L];
        const V one = vsplat(static_cast<std::uint16_t>(1 << spin % spins16));
        const std::uint64_t key = counter::visit_key(number, static_cast<std::uint32_t>(side * block.n[0] + spin));
        const U v0 = usplat(static_cast<std::uint32_t>(key)), v1 = usplat(static_cast<std::uint32_t>(key >> 32));
        for (int l = 0; l < L; l += W16) {
            const V u = (V)counter::bits(load<U>(low + l / 2), load<U>(high + l / 2), v0, v1);
            V spins = load<V>(now + l);
            const std::uint32_t old = rule == Rule::metropolis ? less(V{}, spins & one) : 0;
            const std::uint32_t bits =
                redraw16<rule>(load<V>(field[spin % 4] + l), load<V>(most + l), load<V>(twice + l), load<V>(all + l),
                               load<V>(part + l), u, job.tables[static_cast<int>(rule)], old);
            spins = (spins & ~one) | (spread16(bits) & one);
            std::memcpy(now + l, &spins, sizeof spins);
        }
    }
    template <Rule rule>
    void sweep(std::uint32_t number) {
        pass<rule>(1, 2 * number);
        pass<rule>(0, 2 * number);
        if (job.palindromic) pass<rule>(1, 2 * number + 1);
    }

    void heat(const float *beta) {
        for (int l = 0; l < L; ++l) {
            const Heat now = heat16(beta[job.beta_stride ? block.lane(l) : 0], job.unit[0]);
            most[l] = now.most, twice[l] = now.twice, all[l] = now.whole, part[l] = now.part;
        }
    }
    // The block's words of 32 spins to those of 15, and back.
    void take() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < words(side); ++i) {
                const std::int64_t bit = i * spins16, end = (block.n[side] + 31) / 32;
                const std::uint32_t *from = block.word[side] + bit / 32 * L;
                const std::uint32_t *next = bit / 32 + 1 < end ? from + L : from;
                for (int l = 0; l < L; ++l) {
                    const std::uint64_t both = std::uint64_t{next[l]} << 32 | from[l];
                    word[side][i * L + l] = static_cast<std::uint16_t>(both >> bit % 32 & 0x7FFF);
                }
            }
    }
    void give() const {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < block.n[side]; ++i) {
                std::uint32_t *to = block.word[side] + i / 32 * L;
                const std::uint16_t *from = &word[side][i / spins16 * L];
                for (int l = 0; l < L; ++l) {
                    const std::uint32_t bit = std::uint32_t{from[l]} >> i % spins16 & 1;
                    to[l] = (i % 32 ? to[l] : 0) | bit << i % 32;
                }
            }
    }

    int run() {
        if (!word[0].resize(words(0) * L) || !word[1].resize(words(1) * L)) return -1;
        take();
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            if (!done || job.beta_stride || job.beta[done] != job.beta[done - 1])
                heat(job.beta + done * (job.beta_stride ? job.beta_stride : 1));
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = sparse::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number) : sweep<Rule::heat_bath>(number);
        }
        give();
        return done;
    }
};

}  // namespace
}  // namespace bipartite
